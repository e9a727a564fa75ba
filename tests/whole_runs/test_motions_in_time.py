"""A network that knows moving digits and stillness finds each motion in long videos."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from mvrec.data.generated.moving_digits_video import encode, generate_moving_digits
from mvrec.data.video.opening import open_video

FPS = 16


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.asarray(video.frames(range(video.num_frames)))


def add_stillness(root: Path, rng: np.random.Generator) -> None:
    """Add a class of clips of one frame each, as many as the other classes have."""
    for split in ("train", "val", "test"):
        clips = sorted((root / split).rglob("*.mp4"))
        folder = root / split / "still"
        folder.mkdir()
        for number in range(len(clips) // 12):
            frames = frames_of(clips[rng.integers(len(clips))])
            encode(folder / f"{number}.mp4", frames[[rng.integers(len(frames))]].repeat(len(frames), 0), FPS)
        (root / f"{split}.csv").unlink(missing_ok=True)
    for name in ("dataset.json", "classes.txt"):
        (root / name).unlink(missing_ok=True)


def concatenate(root: Path, folder: Path, rng: np.random.Generator, *, count: int) -> Path:
    """Write videos of six clips each with gaps of one to two and a half seconds, and the list of what is where."""
    clips = sorted(path for path in (root / "test").rglob("*.mp4") if path.parent.name != "still")
    folder.mkdir()
    with (folder / "truth.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "start", "end"))
        for video in range(count):
            parts: list[np.ndarray] = []
            for _ in range(6):
                clip = clips[rng.integers(len(clips))]
                frames = frames_of(clip)
                parts.append(frames[:1].repeat(int(rng.integers(FPS, 2.5 * FPS)), 0))
                start = sum(map(len, parts)) / FPS
                parts.append(frames)
                rows.writerow((f"{video}.mp4", clip.parent.name, start, start + len(frames) / FPS))
            encode(folder / f"{video}.mp4", np.concatenate(parts), FPS)
    return folder / "truth.csv"


@pytest.mark.slow
def test_motions_are_found_in_concatenated_clips_with_gaps(command, tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "digits"
    generate_moving_digits(root, clips_per_class={"train": 60, "val": 5, "test": 20})
    add_stillness(root, rng)
    truth = concatenate(root, tmp_path / "long", rng, count=8)
    run = tmp_path / "run"
    clip = ["--data.clip.num_frames=8", "--data.clip.stride_frames=2", "--data.clip.target_fps=null", "--data.size=64"]
    view = "{num_clips: 1, num_crops: 1, short_side: 64}"
    views = [f"--data.val_views={view}", f"--data.test_views={view}"]
    mild = ["--data.augment.flip_probability=0", "--data.augment.rand_augment=null", "--data.augment.crop_area=[0.8,1]"]
    flags = [*clip, *views, *mild, "--trainer.max_epochs=8", "--trainer.accelerator=cpu", f"--run_dir={run}"]
    code, _, err = command("fit", "--config=demo", "--data=VideoFolder", f"--data.root={root}", *flags)
    assert code == 0, err
    code, _, err = command(
        *("recognize", truth.parent, "--ckpt", run, "--timeline", "--background", "still"),
        *("--stride", "0.25", "--truth", truth, "-o", tmp_path / "segments.csv"),
    )
    assert code == 0, err
    figure = re.search(r"tIoU mAP ([\d.]+) % at 0\.5", err)
    assert figure, err
    assert float(figure[1]) >= 80  # without the class of stillness 68
