"""Small data sets of images and masks."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, height: int = 40, width: int = 56, *, seed: int = 0, **options) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def write_mask(path: Path, values: np.ndarray, *, mode: str = "L", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([255 - value // 3 for value in range(768)])
    image.save(path, **options)


def quarters(height: int = 40, width: int = 56, values: tuple[int, ...] = (0, 1, 2, 255)) -> np.ndarray:
    """A mask of four rectangles with these values."""
    mask = np.zeros((height, width), np.uint8)
    for number, value in enumerate(values):
        rows = slice(0, height // 2) if number < 2 else slice(height // 2, None)
        columns = slice(0, width // 2) if number % 2 == 0 else slice(width // 2, None)
        mask[rows, columns] = value
    return mask


def write_pairs(
    root: Path, names: list[str], *, values=(0, 1, 2, 255), split: str = "", height: int = 40, width: int = 56
) -> None:
    for number, name in enumerate(names):
        write_image(root / "images" / split / f"{name}.png", height, width, seed=number)
        write_mask(root / "masks" / split / f"{name}.png", quarters(height, width, values))
