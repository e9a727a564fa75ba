"""Generated files in class folders, which mvrec and its peers read."""

import os
from pathlib import Path

from decode import write
from images import picture

CLASSES = 10
DISTINCT = 20  # files that are encoded; the others are further names of them


def image_folder(root: Path, *, files: int) -> Path:
    """Write JPEGs of 500 x 375 pixels as `root/train/<class>/`, and one per class as `root/val/<class>/`."""
    original = root / "originals"
    original.mkdir(parents=True)
    paths = [original / f"{number}.jpg" for number in range(DISTINCT)]
    for number, path in enumerate(paths):
        picture(375, 500 + 2 * number).save(path, "JPEG", quality=90)
    return _linked(root, paths, files, CLASSES)


def video_folder(root: Path, *, files: int, seconds: int, distinct: int = DISTINCT, evaluated: int = CLASSES) -> Path:
    """Write videos of 340 x 256 pixels, a key frame every 12 frames, in the same folders."""
    original = root / "originals"
    original.mkdir(parents=True)
    sizes = [(256, 340 + 2 * number) for number in range(distinct)]
    paths = [
        write(original / f"{number}.mp4", size=size, gop=12, b_frames=3, seconds=seconds)
        for number, size in enumerate(sizes)
    ]
    return _linked(root, paths, files, evaluated)


def _linked(root: Path, paths: list[Path], files: int, evaluated: int) -> Path:
    for split, count in (("train", files), ("val", evaluated)):
        for number in range(count):
            folder = root / split / f"class_{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            path = paths[number % len(paths)]
            os.link(path, folder / f"{number:05}{path.suffix}")
    return root
