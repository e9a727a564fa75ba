"""Predictions for pixels as pictures, masks and videos."""
