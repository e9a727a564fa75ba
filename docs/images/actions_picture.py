"""Make docs/images/actions.jpg and actions.mp4 of a finished `make demo-actions`.

    .venv/bin/python docs/images/actions_picture.py

The picture has two frames of each part of the longer video; the video is that one at a smaller rate of bits.
"""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from mvrec.data import open_video

VIDEO = Path("runs/demo_actions/overlays/play.mp4")
FRAMES = (12, 36, 84, 108)  # two of each part
GAP = 8  # pixels


def main() -> None:
    """Write the files beside this one."""
    with open_video(VIDEO) as video:
        frames, fps = video.frames(list(range(video.num_frames))), round(video.fps)
    shown = [np.pad(frames[number], ((0, 0), (0, GAP), (0, 0)), constant_values=255) for number in FRAMES]
    sheet = np.concatenate(shown, axis=1)[:, :-GAP]
    Image.fromarray(sheet).save(Path(__file__).with_name("actions.jpg"), quality=85, optimize=True)
    with av.open(str(Path(__file__).with_name("actions.mp4")), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "30", "preset": "veryslow"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
