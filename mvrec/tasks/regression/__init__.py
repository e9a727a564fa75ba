"""Regression of videos and images: one number per file, or several with names."""
