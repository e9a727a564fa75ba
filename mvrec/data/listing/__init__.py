"""From disk to rows: lists, layouts and class names of data sets."""
