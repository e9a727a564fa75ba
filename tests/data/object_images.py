"""Small data sets of images with objects, in COCO's form."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def rectangle(x, y, width, height) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def write_coco(
    root: Path,
    name: str,
    sizes: list[tuple[int, int]],
    *,
    per_image: int = 2,
    without: tuple[int, ...] = (),
    outlines: bool = True,
    seed: int = 0,
) -> dict:
    """Write images of sizes (height, width) with rectangles of their class's colour, and a JSON of them.

    Images in `without` have no objects.
    """
    rng = np.random.default_rng(seed)
    images, objects = [], []
    for number, (height, width) in enumerate(sizes):
        pixels = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
        file = f"{name}_{number}.png"
        images.append({"id": 10 * number + 5, "file_name": file, "height": height, "width": width})
        for _ in range(0 if number in without else per_image):
            label = int(rng.integers(2))
            w, h = (int(rng.integers(4, side // 2)) for side in (width, height))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w, label] = 255
            box = [x, y, w, h]
            entry = {"id": len(objects) + 100, "image_id": images[-1]["id"], "bbox": box, "area": w * h, "iscrowd": 0}
            entry |= {"category_id": CATEGORIES[label]["id"]}
            entry |= {"segmentation": [rectangle(*box)]} if outlines else {}
            objects.append(entry)
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "images" / file)
    content = {"images": images, "annotations": objects, "categories": CATEGORIES}
    (root / f"{name}.json").write_text(json.dumps(content))
    return content
