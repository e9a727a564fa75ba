"""Make docs/images/demo.jpg of a finished `make demo`: two videos with their heat maps above the head of the report.

    .venv/bin/python docs/images/demo_picture.py

It runs `mvrec explain` and `mvrec report`, and needs Chromium's headless shell for the picture of the report.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

RUN, DATA = Path("runs/demo"), Path("data/moving_digits/test")
VIDEOS = ("move_left/00003.mp4", "grow/00003.mp4")
WIDTH, REPORT_HEIGHT = 1200, 700


def main() -> None:
    """Write the picture beside this file."""
    mvrec = str(Path(sys.executable).with_name("mvrec"))
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{number}.png" for number in range(len(VIDEOS))]
        for video, part in zip(VIDEOS, parts, strict=True):
            subprocess.run([mvrec, "explain", DATA / video, "--ckpt", RUN, "-o", part], check=True)
        subprocess.run([mvrec, "report", RUN], check=True)
        report = Path(folder) / "report.png"
        subprocess.run(
            [
                *("chromium-headless-shell", "--no-sandbox", "--hide-scrollbars"),
                *(f"--window-size={WIDTH},{REPORT_HEIGHT}", f"--screenshot={report}"),
                (RUN / "report.html").resolve().as_uri(),
            ],
            check=True,
        )
        pictures = [Image.open(part).convert("RGB") for part in (*parts, report)]
        pictures = [picture.resize((WIDTH, round(picture.height * WIDTH / picture.width))) for picture in pictures]
    sheet = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    sheet.save(Path(__file__).with_name("demo.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
