"""From rows to batches: samples in an exact order, files that cannot hang a run."""
