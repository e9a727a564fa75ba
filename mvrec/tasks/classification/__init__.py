"""Classification of videos and images, single- and multi-label: all that knows labels."""
