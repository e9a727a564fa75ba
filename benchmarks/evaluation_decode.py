"""Decoding a video for evaluation, 10 clips x 3 crops: mvrec and its peers, interleaved in one process.

python benchmarks/evaluation_decode.py [--quick] [--json [PATH]]

mvrec reads the file once and decodes each required frame once. decord and torchcodec get the frame numbers of all
clips in one call, as in mmaction2. PyAV opens the file for every view, as PySlowFast's test loader does. Every
peer returns the frames of all views before scaling, and they must be equal bit for bit. One thread.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
import torch
from decode import FPS, PACKAGES, available_peers, naive_pyav, now, plain_decord, torchcodec_exact, write
from results.figures import Figures, Row, add_option

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import eval_frames
from mvrec.data.video.opening import open_video
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.sampling import Window, frame_window

SECONDS = 10
PROTOCOL = ClipProtocol(views=Views(num_clips=10, num_crops=3))
CROPS = PROTOCOL.views.num_crops
MEASURE = f"{PROTOCOL.views.num_clips} x {CROPS} views of a video"
GOALS = {"decord": 6.0, "torchcodec exact": 1.4}
FILES = {
    "340x256, GOP 12": (12, 3),  # frames per key frame, B frames
    "340x256, GOP 250": (250, 3),
    "340x256, GOP 12, no B frames": (12, 0),
}

ReadClips = Callable[[Path], list[np.ndarray]]


def chosen_frames() -> np.ndarray:
    """Return the frame numbers (clips, T) of the protocol in the file."""
    sample = Sample(Path(), 0)
    return eval_frames(sample, float(FPS), Window(0, SECONDS * FPS), PROTOCOL).numpy()


def mvrec_one_pass(path: Path) -> list[np.ndarray]:
    """Do what `clips.video_views` does before it scales: one clip, shared by its crops, after the other."""
    with open_video(path) as video:
        window = frame_window(video.num_frames, video.fps, None, None)
        needed, place = torch.unique(
            eval_frames(Sample(path, 0), video.fps, window, PROTOCOL), return_inverse=True
        )  # place: (clips, T)
        frames = video.frames(needed.tolist())
    return [frames[row.numpy()] for row in place]


def at_once(read: Callable[[Path, list[int]], np.ndarray]) -> ReadClips:
    """Read all frame numbers in one call; a peer that takes each number once would have to share the frames out."""

    def read_clips(path: Path) -> list[np.ndarray]:
        numbers = chosen_frames()
        frames = read(path, numbers.ravel().tolist())
        return list(frames.reshape(*numbers.shape, *frames.shape[1:]))

    return read_clips


def pyav_per_view(path: Path) -> list[np.ndarray]:
    """Open and decode the file for every view, and return the frames of each clip's last crop."""
    clips = []
    for row in chosen_frames().tolist():
        for _ in range(CROPS):
            clip = naive_pyav(path, row)
        clips.append(clip)
    return clips


def all_peers() -> dict[str, ReadClips]:
    peers = {"mvrec": mvrec_one_pass, "decord": at_once(plain_decord), "PyAV naive": pyav_per_view}
    if "torchcodec exact" in available_peers():
        peers["torchcodec exact"] = at_once(torchcodec_exact)
    return peers


def measure(path: Path, peers: dict[str, ReadClips], *, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU and wall milliseconds of each reading of the file, the peers taking turns in an order that changes."""
    rng = random.Random(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for repeat in range(repeats + 1):
        reference = mvrec_one_pass(path)
        for name in rng.sample(list(peers), len(peers)):
            if name == "PyAV naive" and repeat > max(3, repeats // 5):  # it takes seconds
                continue
            begin = now()
            clips = peers[name](path)
            end = now()
            if repeat:  # the first repeat is a warm-up
                times[name].append((1000 * (end[0] - begin[0]), 1000 * (end[1] - begin[1])))
            for number, (clip, expected) in enumerate(zip(clips, reference, strict=True)):
                assert np.array_equal(clip, expected), f"{name} differs on {path.name} in clip {number}"
    return times


def report(name: str, times: dict[str, list[tuple[float, float]]]) -> list[Row]:
    """Print the rows of one file, and return those of peers."""
    medians = {peer: statistics.median(cpu for cpu, _ in values) for peer, values in times.items()}
    rows = []
    for peer, values in times.items():
        cpu, wall = (sorted(column) for column in zip(*values, strict=True))
        low, high = (float(value) for value in np.quantile(cpu, (0.1, 0.9)))
        ratio = medians[peer] / medians["mvrec"]
        if peer != "mvrec":
            rows.append(Row(name, MEASURE, peer=peer, mvrec=medians["mvrec"], other=medians[peer], unit="CPU ms",
                            ratio=ratio, goal=GOALS.get(peer)))  # fmt: skip
        print(
            f"| {name} | {peer} | {medians[peer]:.0f} | {low:.0f} to {high:.0f} | {statistics.median(wall):.0f} "
            f"| {ratio:.2f} |"
        )
    return rows


def verdicts(rows: list[Row]) -> list[str]:
    """Return a line for each goal and file."""
    return [
        f"goal: {row.subject}: {row.peer} takes {row.ratio:.2f} times mvrec's CPU time, "
        f"{row.goal:g} {'reached' if row.ratio >= row.goal else 'missed'}"
        for row in rows
        if row.goal
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few readings")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    peers, figures = all_peers(), Figures.of(options, "evaluation_decode", packages=PACKAGES)
    numbers = chosen_frames()
    print(
        f"{figures.title}; one thread; {PROTOCOL.views.num_clips} clips x {CROPS} crops of {SECONDS} s, "
        f"{numbers.size} frames of which {len(np.unique(numbers))} differ; every peer's frames are bit-equal\n"
    )
    print("| file | decoder | CPU ms per video | 10 to 90 % | wall ms | times mvrec |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (gop, b_frames)) in enumerate(FILES.items()):
            path = write(Path(folder) / f"{number}.mp4", size=(256, 340), gop=gop, b_frames=b_frames, seconds=SECONDS)
            figures.add(*report(name, measure(path, peers, repeats=2 if options.quick else 20)))
    print()
    print(*verdicts(figures.rows), sep="\n")


if __name__ == "__main__":
    main()
