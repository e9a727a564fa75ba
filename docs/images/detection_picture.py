"""Make docs/images/detection.jpg of a finished `make demo-detection`.

.venv/bin/python docs/images/detection_picture.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

OVERLAYS = Path("runs/demo_detection/overlays")
GAP = 8  # pixels


def main() -> None:
    """Write the test images with their objects in a row, next to this file."""
    padded = []
    for path in sorted(OVERLAYS.glob("*.png")):
        with Image.open(path) as image:
            padded.append(np.pad(np.asarray(image), ((0, 0), (0, GAP), (0, 0)), constant_values=255))
    sheet = np.concatenate(padded, axis=1)[:, :-GAP]
    Image.fromarray(sheet).save(Path(__file__).with_name("detection.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
