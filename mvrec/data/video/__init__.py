"""Frames of a video file by number and by time, whatever decodes it."""
