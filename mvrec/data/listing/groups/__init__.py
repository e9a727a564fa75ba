"""Groups of files that a split or fold keeps together."""
