"""Heads that replace a backbone's classifier."""
