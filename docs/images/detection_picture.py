"""Make docs/images/detection.jpg of a finished `make demo-detection`.

.venv/bin/python docs/images/detection_picture.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

OVERLAYS = Path("runs/demo_detection/overlays")
COLUMNS, SCALE = 6, 2
GAP = 8  # pixels


def main() -> None:
    """Write the picture next to this file."""
    pictures = []
    for path in sorted(OVERLAYS.glob("*.png"))[:COLUMNS]:
        with Image.open(path) as image:
            pictures.append(
                np.asarray(image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.LANCZOS))
            )
    padded = [np.pad(each, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for each in pictures]
    sheet = np.concatenate(padded, axis=1)[:, :-GAP]
    Image.fromarray(sheet).save(Path(__file__).with_name("detection.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
