"""Several processes as one run: their ranks, their first contact, and hung processes."""
