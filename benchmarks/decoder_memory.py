"""A check whether decoders leak: opens one file many times and prints the memory per thousand opens.

python benchmarks/decoder_memory.py [--opens 20000] [--decoder NAME ...] [--quick] [--json [PATH]]

Each decoder has a process of its own, which opens the file, reads two frames and closes it, repeatedly. The slope
is that of a straight line through its resident memory in the second half of the opens: allocators take a few thousand
to settle.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
from results.figures import Figures, Row, add_option

from mvrec.data.video.opening import describe_decoder, open_video
from mvrec.data.video.video import Decoder
from mvrec.errors import DecodeError, UserError

DECODERS: tuple[Decoder, ...] = ("pyav", "decord", "torchcodec")
SAMPLES = 200


def write(path: Path) -> Path:
    """Write two seconds of noise, 160x120, H.264 with B frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "12", "bf": "3", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(60):
            picture = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_many_times(path: Path, decoder: Decoder, opens: int, answers: Connection) -> None:
    """Send (opens so far, resident MB) at many moments, open files and threads, and the seconds; runs in a child."""
    every = max(1, opens // SAMPLES)
    memory = []
    begin = time.monotonic()
    for number in range(opens):
        with open_video(path, decoder) as video:
            video.frames([number % 50, 55])
        if number % every == 0:
            memory.append((number, resident_mb()))
    open_counts = [len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task")]
    answers.send((memory, open_counts, time.monotonic() - begin))


def measure(path: Path, decoder: Decoder, opens: int) -> dict[str, object]:
    """Return MB after warm-up and at the end, and the slope in MB per 1,000 opens, of a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=open_many_times, args=(path, decoder, opens, sender))
    child.start()
    sender.close()
    memory, open_counts, seconds = receiver.recv()
    child.join()
    counts, mb = np.array(memory[len(memory) // 2 :]).T
    return {
        "decoder": decoder,
        "opens": opens,
        "mb_after_warm_up": float(mb[0]),
        "mb_at_end": float(mb[-1]),
        "mb_per_1000_opens": 1000 * float(np.polyfit(counts, mb, 1)[0]),
        "files_held": open_counts[0],
        "threads_held": open_counts[1],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=20_000)
    parser.add_argument("--decoder", nargs="+", choices=DECODERS, default=DECODERS)
    parser.add_argument("--quick", action="store_true", help="500 opens")
    add_option(parser)
    options = parser.parse_args()
    opens = 500 if options.quick else options.opens
    print("| decoder | opens | MB after warm-up | MB at the end | MB per 1,000 opens | ms per open and read |")
    print("|---|---|---|---|---|---|", flush=True)
    figures = Figures.of(options, "decoder_memory", packages=("av", "decord", "torchcodec"))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "clip.mp4")
        for decoder in options.decoder:
            try:
                open_video(path, decoder).close()
            except (UserError, DecodeError) as error:
                print(f"| {decoder} | left out: {error} | | | | |", flush=True)
                continue
            row = measure(path, decoder, opens)
            memory = {"after warm-up, MB": row["mb_after_warm_up"], "at the end, MB": row["mb_at_end"]}
            figures.add(
                Row(
                    decoder,
                    f"memory per 1,000 opens, of {opens}",
                    mvrec=row["mb_per_1000_opens"],
                    unit="MB",
                    more=memory,
                )
            )
            print(
                f"| {describe_decoder(decoder).partition(',')[0]} | {opens} | {row['mb_after_warm_up']:.0f} | "
                f"{row['mb_at_end']:.0f} | {row['mb_per_1000_opens']:+.3f} | {1000 * row['seconds'] / opens:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
