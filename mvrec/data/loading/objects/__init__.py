"""Images with objects: from rows to views."""
