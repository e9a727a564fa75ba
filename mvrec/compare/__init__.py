"""Comparisons of runs, with how sure they are."""
