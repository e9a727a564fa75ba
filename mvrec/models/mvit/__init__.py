"""Multiscale Vision Transformers."""
