"""From rows to batches: samples in an exact order, and files that cannot hang a run."""
