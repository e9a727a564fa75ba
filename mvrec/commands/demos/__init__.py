"""The demos: a network that learns from generated files, from nothing to a test score."""
