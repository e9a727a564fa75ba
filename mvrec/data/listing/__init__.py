"""From disk to rows: which files there are, and which classes they have."""
