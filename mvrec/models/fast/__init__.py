"""Fast forms of the networks: equal mathematics, by the device's fast operations."""
