"""The data modules."""
