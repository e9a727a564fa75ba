"""Detectors as files for other runtimes: graphs of fixed sizes, and the rest in numpy."""
