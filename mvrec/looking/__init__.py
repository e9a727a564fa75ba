"""A look at the data before training."""
