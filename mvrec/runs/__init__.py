"""A run on disk and in time: its directory, checkpoints, position, and how it ends."""
