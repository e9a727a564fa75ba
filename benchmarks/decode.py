"""Clips per second and core of mvrec's decoder and its peers, on the same files in one process; prints ratios.

python benchmarks/decode.py [--quick] [--json [PATH]]

A clip is 16 frames, 4 apart, from a random start, and includes opening the file, as in training. Times are CPU seconds
of the process with one thread. Files with "few B frames" leave their number to x264, which sets one in twenty on this
content; mvrec's lead comes from the B frames that it can skip. Every peer has to return the same pixels, bit for
bit. torchcodec takes part if its libraries load; it needs FFmpeg on the system.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import decord
import numpy as np
import torch
from pytorchvideo.data.encoded_video import EncodedVideo
from results.figures import Figures, Row, add_option

from mvrec.data.video.opening import describe_decoder, open_video

T, STRIDE = 16, 4
SPAN = (T - 1) * STRIDE + 1
FPS = 30
GOAL = 1.5  # times as fast as the best peer
PACKAGES = ("torch", "torchvision", "av", "decord", "torchcodec", "pytorchvideo")

Read = Callable[[Path, list[int]], np.ndarray]


def moving_pictures(*, num_frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield pictures (H, W, 3) of a soft landscape that drifts under a finely textured square."""
    height, width = size
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, height // 8, width // 8)))
    scene = torch.nn.functional.interpolate(coarse, (height + 200, width + 200), mode="bicubic")
    landscape = scene[0].permute(1, 2, 0).clamp(0, 255).byte().numpy()
    square = rng.integers(0, 256, (height // 4, height // 4, 3), dtype=np.uint8)
    for number in range(num_frames):
        y, x = (int(100 + 99 * turn) for turn in (np.sin(number / 30), np.cos(number / 40)))
        picture = landscape[y : y + height, x : x + width].copy()
        left = number * 5 % (width - height // 4)
        picture[height // 3 : height // 3 + height // 4, left : left + height // 4] = square
        yield picture


def write(path: Path, *, size: tuple[int, int], gop: int, b_frames: int, seconds: int, adaptive: bool = False) -> Path:
    """Write H.264 with `b_frames` (or up to as many) B frames per P frame and a key frame every `gop` frames."""
    with av.open(str(path), "w") as container:
        options = {"bf": str(b_frames), "g": str(gop), "sc_threshold": "0", "preset": "fast"}
        options["b_strategy"] = "1" if adaptive else "0"
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for picture in moving_pictures(num_frames=seconds * FPS, size=size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def mvrec_auto(path: Path, indices: list[int]) -> np.ndarray:
    with open_video(path) as video:
        return video.frames(indices)


def plain_decord(path: Path, indices: list[int]) -> np.ndarray:
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(indices).asnumpy()


def naive_pyav(path: Path, indices: list[int]) -> np.ndarray:
    """Decode every frame from the key frame on to RGB and keep the requested ones, like PySlowFast's PyAV reader."""
    pictures = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        ticks = 1 / FPS / float(stream.time_base)
        container.seek(round(indices[0] * ticks), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.pts / ticks)
            pictures[number] = frame.to_ndarray(format="rgb24")
            if number >= indices[-1]:
                break
    return np.stack([pictures[index] for index in indices])


def torchcodec_exact(path: Path, indices: list[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return decoder.get_frames_at(indices).data.numpy()


def pytorchvideo_clip(path: Path, indices: list[int]) -> np.ndarray:
    """Read a time span with EncodedVideo, and take the frames from it."""
    video = EncodedVideo.from_path(str(path), decode_audio=False)
    half = 0.5 / FPS  # so that no rounding of times adds a neighbour or drops the last frame
    clip = video.get_clip(max(0, indices[0] / FPS - half), indices[-1] / FPS + half)["video"]  # (C, t, H, W) float
    video.close()
    return clip[:, ::STRIDE].permute(1, 2, 3, 0).to(torch.uint8).numpy()


PEERS: dict[str, Read] = {
    "mvrec (auto)": mvrec_auto,
    "torchcodec exact": torchcodec_exact,
    "decord": plain_decord,
    "PyAV naive": naive_pyav,
    "pytorchvideo": pytorchvideo_clip,
}


def available_peers() -> dict[str, Read]:
    """Return the peers that work here; print why one does not."""
    peers = dict(PEERS)
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if "libtorchcodec" in str(error) or isinstance(error, ImportError):
            print("torchcodec is skipped: it does not load here (it needs FFmpeg on the system)")
            del peers["torchcodec exact"]
    return peers


def measure(path: Path, peers: dict[str, Read], *, seconds: int, repeats: int) -> dict[str, list[float]]:
    """Return CPU milliseconds of each clip by peer, the peers taking turns in an order that changes."""
    rng = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(repeats + 1):
        start = rng.randrange(seconds * FPS - SPAN + 1)
        indices = list(range(start, start + SPAN, STRIDE))
        clips = {}
        for name in rng.sample(list(peers), len(peers)):
            begin = time.process_time()
            clips[name] = peers[name](path, indices)
            if repeat:  # the first repeat is a warm-up
                times[name].append(1000 * (time.process_time() - begin))
        for name, clip in clips.items():
            assert np.array_equal(clip, clips["mvrec (auto)"]), f"{name} differs on {path.name} from frame {start}"
    return times


def report(name: str, times: dict[str, list[float]]) -> list[Row]:
    """Print the rows of one file."""
    means = {peer: statistics.mean(values) for peer, values in times.items()}
    fastest = min((peer for peer in means if not peer.startswith("mvrec")), key=means.__getitem__)
    for peer, mean in means.items():
        print(f"| {name} | {peer} | {mean:.1f} | {1000 / mean:.1f} | {mean / means['mvrec (auto)']:.2f} |")
    mvrec = means.pop("mvrec (auto)")
    return [
        Row(name, f"clip of {T} frames", peer=peer, mvrec=mvrec, other=mean, unit="CPU ms", ratio=mean / mvrec,
            goal=GOAL if peer == fastest else None)
        for peer, mean in means.items()
    ]  # fmt: skip


def now() -> tuple[float, float]:
    """Return CPU seconds of the process, and seconds of the clock."""
    return time.process_time(), time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips, and no 1080p")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    peers, figures = available_peers(), Figures.of(options, "decode", packages=PACKAGES)
    print(f"{figures.title}; {describe_decoder('auto')}; one thread, {T} frames {STRIDE} apart, opening included\n")
    print("| file | decoder | CPU ms per clip | clips/s/core | times mvrec |\n|---|---|---|---|---|")
    files = {
        "340x256, GOP 12": {"size": (256, 340), "gop": 12, "b_frames": 3, "seconds": 10},
        "340x256, GOP 250": {"size": (256, 340), "gop": 250, "b_frames": 3, "seconds": 10},
        "340x256, GOP 12, no B frames": {"size": (256, 340), "gop": 12, "b_frames": 0, "seconds": 10},
        "340x256, GOP 12, few B frames": {
            "size": (256, 340),
            "gop": 12,
            "b_frames": 3,
            "seconds": 10,
            "adaptive": True,
        },
        "1920x1080, GOP 60": {"size": (1080, 1920), "gop": 60, "b_frames": 3, "seconds": 5},
        "1920x1080, GOP 60, few B frames": {
            "size": (1080, 1920),
            "gop": 60,
            "b_frames": 3,
            "seconds": 5,
            "adaptive": True,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options_of_file) in enumerate(files.items()):
            large = options_of_file["size"][0] > 1000
            if large and options.quick:
                continue
            path = write(Path(folder) / f"{number}.mp4", **options_of_file)
            repeats = 3 if options.quick else 12 if large else 30
            figures.add(*report(name, measure(path, peers, seconds=options_of_file["seconds"], repeats=repeats)))
    print()
    for row in figures.rows:
        if row.goal:
            reached = "reached" if row.ratio >= GOAL else "missed"
            print(f"goal: {row.subject}: mvrec is {row.ratio:.2f} times as fast as {row.peer}, {GOAL:g} {reached}")


if __name__ == "__main__":
    main()
