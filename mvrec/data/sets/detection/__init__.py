"""The data modules of images with objects."""
