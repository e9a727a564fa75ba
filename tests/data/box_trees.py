"""Small data sets of videos with boxes in key frames."""

from pathlib import Path

import av
import numpy as np
from video_files import write_video

HEADER = "path,time,x1,y1,x2,y2,label"


def write_list(path: Path, *rows: str, header: str = HEADER) -> Path:
    """Write a list of boxes and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_lit_video(path: Path, box: tuple[int, int, int, int], *, size=(48, 64), num_frames=30, fps=30) -> Path:
    """Write a dark video with a light rectangle x1, y1, x2, y2 in all frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), 20, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 230
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_boxed_videos(root: Path, count: int = 6, **options) -> list[str]:
    """Write numbered videos of 30 frames with two boxes at 0.5 s, all of them in `boxes.csv`, and return its rows."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        write_video(root / f"{number}.mp4", num_frames=30, **options)
        rows += [
            f"{number}.mp4,0.5,0.1,0.2,0.4,0.9,run",
            f"{number}.mp4,0.5,0.1,0.2,0.4,0.9,talk",
            f"{number}.mp4,0.5,0.5,0.1,0.9,0.8,{'sit' if number % 2 else 'talk'}",
        ]
    write_list(root / "boxes.csv", *rows)
    return rows
