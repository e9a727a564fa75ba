"""A run directory as one HTML page."""
