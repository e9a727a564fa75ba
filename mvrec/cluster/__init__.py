"""Several processes as one run: who they are, whether they meet, and who hangs."""
