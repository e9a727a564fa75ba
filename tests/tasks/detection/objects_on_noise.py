"""Red squares and blue discs on noise, with their masks, as a user's COCO files would have them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from PIL import Image

NAMES = ("disc", "square")
IDS = (3, 7)  # of the categories, with gaps
COUNTS = {"train": 16, "val": 4, "test": 6}


def objects(number: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """An image uint8 (H, W, 3), and class and mask of each of its objects; every seventh has none."""
    rng = np.random.default_rng(number)
    height, width = 64 + 8 * (number % 3), 88 - 8 * (number % 4)
    image = rng.integers(0, 70, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    masks: list[tuple[int, np.ndarray]] = []
    for side in range(0 if number % 7 == 6 else 1 + number % 2):
        label, size = int(rng.integers(2)), int(rng.integers(16, 25))
        left, top = int(rng.integers(2, width // 2 - 26)) + side * width // 2, int(rng.integers(2, height - 27))
        mask = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        if NAMES[label] == "disc":
            centre = top + (size - 1) / 2, left + (size - 1) / 2
            mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= (size / 2) ** 2
        image[mask] = (40, 90, 240) if NAMES[label] == "disc" else (230, 60, 30)
        masks.append((label, mask))
    return image, masks


def write_objects(root: Path, *, names: tuple[str, ...] = NAMES, ids: tuple[int, ...] = IDS) -> None:
    """Write images and `annotations/instances_{train,val,test}.json`; `names` and `ids` may come in any order."""
    number, object_id = 0, 0
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        frames: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        (root / split).mkdir(exist_ok=True)
        for _ in range(count):
            image, masks = objects(number)
            Image.fromarray(image).save(root / split / f"{number:02d}.png")
            height, width = image.shape[:2]
            image_id = 500 - number
            frames.append({"id": image_id, "file_name": f"{number:02d}.png", "height": height, "width": width})
            for label, mask in masks:
                object_id += 1
                shape = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
                row = {"id": object_id, "image_id": image_id, "category_id": ids[names.index(NAMES[label])]}
                row |= {"bbox": np.asarray(rle.toBbox(shape)).ravel().tolist(), "area": int(mask.sum()), "iscrowd": 0}
                rows.append(row | {"segmentation": {**shape, "counts": shape["counts"].decode()}})
            number += 1
        categories = [{"id": ids[place], "name": name} for place, name in enumerate(names)]
        content = {"images": frames, "annotations": rows, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
