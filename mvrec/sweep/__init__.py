"""A run for every line of a file of values, or a search over ranges."""
