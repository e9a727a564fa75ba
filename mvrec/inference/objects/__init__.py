"""Objects in images and videos: found, also in tiles of large images, followed, drawn and written."""
