"""The data modules of images with a class per pixel."""
