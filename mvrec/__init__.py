"""mvrec: train, fine-tune, evaluate and ship video and image recognition models.

Importing this package is free: nothing heavy is loaded until a sub-package is.
"""

__version__ = "0.1.0"
