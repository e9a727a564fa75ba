"""What stands on a backbone in place of its classifier."""
