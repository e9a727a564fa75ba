"""Videos of squares on noise, whose actions are their colours: one or two a key frame, as a user's own data."""

from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
NAMES = ("blue", "bright", "red")
COUNTS = {"train": 12, "val": 3, "test": 5}


def squares(number: int) -> list[tuple[tuple[int, int, int, int], list[str]]]:
    """The corners and the labels of a video's squares."""
    rng = np.random.default_rng(number)
    boxes = []
    for side in range(1 + number % 2):
        left, top = int(rng.integers(1 + 32 * side, 12 + 32 * side)), int(rng.integers(2, 24))
        labels = [("blue", "red")[int(rng.integers(2))], *(["bright"] if rng.random() < 0.5 else [])]
        boxes.append(((left, top, left + 20, top + 22), labels))
    return boxes


def frame(number: int) -> np.ndarray:
    """A frame of a video, uint8 (H, W, 3)."""
    pixels = np.random.default_rng(number).integers(60, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for (left, top, right, bottom), labels in squares(number):
        colour = np.array([20, 20, 20])
        colour[0 if "red" in labels else 2] = 230
        pixels[top:bottom, left:right] = colour + (20 if "bright" not in labels else 0)
        if "bright" in labels:
            pixels[top:bottom, left:right, 1] = 200
    return pixels


def write_coloured_boxes(root: Path) -> None:
    """Write videos of a second, and lists of boxes with two key frames each."""
    number = 0
    for split, count in COUNTS.items():
        rows = ["path,time,x1,y1,x2,y2,label"]
        for _ in range(count):
            path = root / "videos" / f"{number:02d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_still(path, frame(number))
            for corners, labels in squares(number):
                box = ",".join(map(str, corners))
                rows += [f"videos/{path.name},{time},{box},{label}" for time in (0.25, 0.75) for label in labels]
            number += 1
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")


def write_still(path: Path, pixels: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
