"""Mutants of video files are read or refused in one line, whatever was done to them."""

import re
import sys

import numpy as np
import pytest
from video_files import write_audio

from mvrec.data.video.opening import open_video
from mvrec.errors import DecodeError
from mvrec.processes import ChildError, Limits, apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory as Linux does")

SEED_FILES = {
    "h264.mp4": {"num_frames": 40},
    "varying_rate.mp4": {"ticks": np.random.default_rng(0).integers(10, 60, 32).cumsum()},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "size": (64, 96)},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.ts": {},
    "mpeg2.mpg": {"codec": "mpeg2video"},
}
MP4_BOXES = (
    b"moov mvhd trak tkhd edts elst mdia mdhd hdlr minf stbl stsd avc1 avcC stts stss ctts stsc stsz stco mdat "
    b"moof traf trun tfhd"
).split()


def flip_bits(data, rng):
    for place in rng.integers(0, len(data), rng.integers(1, 64)):
        data[place] ^= 1 << rng.integers(8)
    return data


def overwrite_block(data, rng):
    start = rng.integers(len(data))
    length = min(rng.integers(1, len(data) // 4), len(data) - start)
    data[start : start + length] = rng.bytes(length) if rng.random() < 0.5 else bytes([rng.choice([0, 255])]) * length
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
    places = [match.start() for match in re.finditer(b"|".join(MP4_BOXES), data) if match.start() >= 4]
    if not places:
        return edit_header(data, rng)
    for place in rng.choice(places, rng.integers(1, 4)):
        at = place - 4 if rng.random() < 0.3 else place + 4 * int(rng.integers(1, 12))
        data[at : at + 4] = absurd_number(rng)
    return data


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


def read_some_frames(path):
    """Do what training does with a file, and a little more; returns why it is refused, or nothing."""
    try:
        with open_video(path) as video:
            count = min(video.num_frames, 24)
            spread = np.linspace(0, video.num_frames - 1, count).round().astype(int).tolist()
            for indices in (spread, [video.num_frames - 1], [0]):
                assert video.frames(indices).shape == (len(indices), *video.size, 3), "another shape than promised"
    except DecodeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("mutants", [16, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_are_read_or_refused(encoded, tmp_path, mutants):
    files = {name: encoded(name=name, **options).read_bytes() for name, options in SEED_FILES.items()}
    files["sound.mp4"] = write_audio(tmp_path / "sound.mp4").read_bytes()
    refused = 0
    for number in range(mutants):
        name, mutation, data = mutate(files, 0, number)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(data)
        try:  # in a process of its own, with a deadline and a limit on memory
            error = apart(read_some_frames, path, limits=Limits(60, 2))
        except ChildError as fault:
            pytest.fail(f"{path} ({mutation}): {fault}")
        assert re.fullmatch(rf"({re.escape(str(path))}: [^\n]+)?", error), mutation
        refused += bool(error)
    assert mutants / 8 < refused < 7 * mutants / 8
