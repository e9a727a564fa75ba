"""Boxes in key frames of videos: lists of them in several formats, and their packed tables."""
