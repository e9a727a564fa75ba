"""Long videos as segments of time, and the scores of these."""
