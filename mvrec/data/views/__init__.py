"""The frames and pixels of a file that a network sees."""
