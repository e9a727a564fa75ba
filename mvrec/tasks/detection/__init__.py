"""Object detection with instance masks: the boxes, classes and masks of objects in images."""
