"""The commands that are not Lightning's, one per file."""
