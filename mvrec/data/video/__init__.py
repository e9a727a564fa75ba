"""Frames of a video file by number and by time, with any decoder."""
