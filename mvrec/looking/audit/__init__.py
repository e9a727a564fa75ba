"""Faults of a data set: unreadable files, copies across splits, doubtful labels, settings that do not fit it."""

from mvrec.looking.audit.command import main

__all__ = ["main"]
