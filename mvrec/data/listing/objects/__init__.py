"""Objects in images: annotation files in several formats, and their packed tables."""
