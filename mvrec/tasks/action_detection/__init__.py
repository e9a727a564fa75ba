"""Action detection: which actions each box of a key frame shows."""
