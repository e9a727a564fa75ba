"""Published weights: where they are, fetching one on request, and the fetched files by name. No torch."""
