"""mvrec: train, fine-tune, evaluate and ship video and image recognition models.

Importing this package costs nothing: sub-packages load when they are imported.
"""

__version__ = "0.1.0"
