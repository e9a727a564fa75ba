"""Damage video files in many ways and see whether every one of them is read or refused in one line.

python tests/fuzz_videos.py [--mutants 2000] [--seed 0] [--seconds-per-file 20] [--decoder auto] [--keep DIR]

Each mutant is opened and read in a process of its own with a deadline and a limit on memory. Anything but frames or a
`DecodeError` is a finding: it is kept as a file named after the seed and the number that made it, and the script
exits with 1. For decord and torchcodec findings are counted, but no fault of this project: training guards against
them with another process.
"""

import argparse
import collections
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent
sys.path[:0] = [str(ROOT.parent), str(ROOT / "data")]

from video_files import write_audio, write_video  # noqa: E402

from mvrec.data.video.opening import open_video  # noqa: E402
from mvrec.errors import DecodeError  # noqa: E402
from mvrec.processes import ChildError, Limits, apart  # noqa: E402

GIB = 2  # of memory beyond what the process has
GOOD = ("frames", "DecodeError")

SEED_FILES = {
    "h264.mp4": {"num_frames": 40},
    "faststart.mp4": {"num_frames": 40, "faststart": True},
    "varying_rate.mp4": {"ticks": np.random.default_rng(0).integers(10, 60, 32).cumsum()},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "size": (64, 96)},
    "mpeg4.mov": {"codec": "mpeg4"},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.avi": {"b_frames": 0},
    "h264.ts": {},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "h264.flv": {},
}
MP4_BOXES = (
    b"moov mvhd trak tkhd edts elst mdia mdhd hdlr minf stbl stsd avc1 avcC stts stss ctts stsc stsz stco mdat "
    b"moof traf trun tfhd"
).split()


def write_seed_files(folder, names=tuple(SEED_FILES)):
    """The valid files, as bytes by name."""
    paths = [write_video(Path(folder) / name, **SEED_FILES[name]) for name in names]
    return {path.name: path.read_bytes() for path in [*paths, write_audio(Path(folder) / "sound.mp4")]}


def flip_bits(data, rng):
    for place in rng.integers(0, len(data), rng.integers(1, 64)):
        data[place] ^= 1 << rng.integers(8)
    return data


def overwrite_block(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, len(data) // 4)
    length = min(length, len(data) - start)
    byte = rng.choice([0, 255])
    data[start : start + length] = rng.bytes(length) if rng.random() < 0.5 else bytes([byte]) * length
    return data


def truncate(data, rng):
    return data[: rng.integers(1, len(data))]


def delete_block(data, rng):
    start = rng.integers(len(data))
    del data[start : start + rng.integers(1, len(data) // 4)]
    return data


def swap_blocks(data, rng):
    length = rng.integers(1, len(data) // 4)
    a, b = sorted(rng.integers(0, len(data) - length, 2))
    if a + length <= b:
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    return data


def edit_header(data, rng):
    """Bits and numbers of the first or last kilobyte, where headers and indices are."""
    edge = min(1024, len(data))
    offset = 0 if rng.random() < 0.5 else len(data) - edge
    for place in rng.integers(0, max(edge - 4, 1), rng.integers(1, 6)):
        data[offset + place : offset + place + 4] = absurd_number(rng)
    return data


def edit_boxes(data, rng):
    """The lengths of MP4 boxes, or one of the numbers within."""
    places = [place for name in MP4_BOXES for place in occurrences(data, name) if place >= 4]
    if not places:
        return edit_header(data, rng)
    for place in rng.choice(places, rng.integers(1, 4)):
        at = place - 4 if rng.random() < 0.3 else place + 4 * int(rng.integers(1, 12))
        data[at : at + 4] = absurd_number(rng)
    return data


def occurrences(data, name):
    place = data.find(name)
    while place >= 0:
        yield place
        place = data.find(name, place + 1)


def absurd_number(rng):
    number = rng.choice([0, 1, 2, 7, 8, 255, 65536, 10**9, 2**31 - 1, 2**31, 2**32 - 1, int(rng.integers(2**32))])
    return int(number).to_bytes(4)


MUTATIONS = (flip_bits, overwrite_block, truncate, delete_block, swap_blocks, edit_header, edit_boxes, edit_boxes)


def mutate(files, seed, number):
    """The mutant of this seed and number: the name of the file it comes from, of the mutation, and its bytes."""
    rng = np.random.default_rng([seed, number])
    name = str(rng.choice(sorted(files)))
    mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
    data = mutation(bytearray(files[name]), rng)
    if rng.random() < 0.2:
        data = flip_bits(data, rng)
    return name, mutation.__name__, bytes(data)


def read_some_frames(path, decoder):
    """What training does with a file, and a little more."""
    with open_video(path, decoder) as video:
        count = min(video.num_frames, 24)
        spread = np.linspace(0, video.num_frames - 1, count).round().astype(int).tolist()
        for indices in (spread, [video.num_frames - 1], [0]):
            frames = video.frames(indices)
            assert frames.shape == (len(indices), *video.size, 3), "frames of another shape than promised"


def outcome_of(path, decoder, *, seconds, read=read_some_frames):
    """What reading a file comes to in a process of its own: see `GOOD`, or how the process ended, or an exception."""

    def read_in_child():
        try:
            read(path, decoder)
        except DecodeError as error:
            in_one_line = str(error).startswith(f"{path}: ") and "\n" not in str(error)
            return "DecodeError" if in_one_line else f"badly said: {error!s:.200}"
        except BaseException as error:
            return f"{type(error).__name__}: {error!s:.200}"
        return "frames"

    try:
        return apart(read_in_child, limits=Limits(seconds, GIB))
    except ChildError as error:
        return str(error)


def fuzz(files, decoder, *, mutants, seed, seconds, keep, read=read_some_frames):
    """Tally of outcomes, {mutation: {outcome: count}}, and the findings as lines; findings are kept as files."""
    tally = collections.defaultdict(collections.Counter)
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(mutants):
            name, mutation, data = mutate(files, seed, number)
            path = Path(folder) / f"{seed}-{number}-{name}"
            path.write_bytes(data)
            outcome = outcome_of(path, decoder, seconds=seconds, read=read)
            tally[mutation][outcome.partition(":")[0]] += 1
            if outcome not in GOOD:
                keep.mkdir(parents=True, exist_ok=True)
                kept = Path(shutil.copy(path, keep))
                findings.append(f"{kept} ({mutation}): {outcome}")
            path.unlink()
    return tally, findings


def table(tally):
    """The tally as Markdown."""
    outcomes = sorted({outcome for row in tally.values() for outcome in row}, key=lambda o: (o not in GOOD, o))
    lines = [f"| mutation | {' | '.join(outcomes)} |", "|---" * (len(outcomes) + 1) + "|"]
    total = sum(tally.values(), collections.Counter())
    for name, row in [*sorted(tally.items()), ("all", total)]:
        lines.append(f"| {name} | {' | '.join(str(row[outcome]) for outcome in outcomes)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-per-file", dest="seconds", type=float, default=20)
    parser.add_argument("--decoder", choices=["auto", "pyav", "decord", "torchcodec"], default="auto")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"), help="where findings are kept")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = write_seed_files(folder)
    tally, findings = fuzz(files, **vars(options))
    facts = f"{options.decoder}: {options.mutants} mutants, seed {options.seed}, {time.monotonic() - begin:.0f} s"
    print(facts, table(tally), *findings, f"{len(findings)} findings", sep="\n")  # noqa: T201
    return int(bool(findings) and options.decoder in ("auto", "pyav"))


if __name__ == "__main__":
    sys.exit(main())
