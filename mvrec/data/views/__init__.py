"""Which frames and which pixels of a file a network sees."""
