"""Data sets that are generated, so that everything can be tried without a download."""
