"""Detectors: heads on the maps of an image network that answer with boxes, classes and masks."""
