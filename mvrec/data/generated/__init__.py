"""Generated data sets, so that everything can be tried without a download."""
