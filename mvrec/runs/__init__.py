"""A run over time: its directory, checkpoints, position in the data, and end."""
