"""Decoders of one's own: what they give is checked, what they raise is named."""

import sys
import types

import numpy as np
import pytest

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.loading import guarded_files
from mvrec.data.video.opening import open_video
from mvrec.errors import DecodeError, PartError, UserError


class Stack:
    """Grey frames whose level is their number."""

    num_frames, fps, is_closed = 6, 12.5, False

    def __init__(self, path):
        self.source = path

    def frames(self, indices):
        return np.asarray(indices, np.uint8)[:, None, None, None].repeat(4, 1).repeat(5, 2).repeat(3, 3)

    def close(self):
        type(self).is_closed = True


class Broken(Stack):
    def frames(self, indices):
        raise OSError("bad\nblock")


@pytest.fixture(autouse=True)
def module(monkeypatch):
    module = types.ModuleType("own_stack")
    variants = {
        "Floats": {"frames": lambda self, indices: np.zeros((len(indices), 4, 5, 3))},
        "Fewer": {"frames": lambda self, indices: np.zeros((1, 4, 5, 3), np.uint8)},
        "Endless": {"num_frames": None},
        "Empty": {"num_frames": 0},
        "Frozen": {"fps": 0},
    }
    vars(module).update({name: type(name, (Stack,), values) for name, values in variants.items()})
    vars(module).update(Stack=Stack, Broken=Broken, opened=lambda path: Stack(path), number=3)
    monkeypatch.setitem(sys.modules, "own_stack", module)


@pytest.mark.parametrize("name", ["Stack", "opened"])
@pytest.mark.parametrize("open_file", [open_video, guarded_files.open_video])
def test_frames_times_and_size_are_those_of_a_class_or_function(open_file, name, tmp_path):
    with open_file(tmp_path / "a.npy", f"own_stack.{name}") as video:
        assert video.frames([4, 1, 4])[:, 0, 0, 0].tolist() == [4, 1, 4]
        assert (video.num_frames, video.fps, video.size) == (6, 12.5, (4, 5))
        assert video.duration == pytest.approx(6 / 12.5)
    assert open_file is not open_video or Stack.is_closed


def test_a_file_in_an_archive_comes_as_bytes(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123content")
    video = open_video(ArchiveMember(tmp_path / "a.tar", "b.npy", 4, 7), "own_stack.Stack")
    assert video.opened.source.read() == b"content"


FAULTS = (
    ("Broken", DecodeError, r"a.npy: data.decoder: .*Broken raised OSError: bad block \(frames \[2\]\); --debug"),
    ("Empty", DecodeError, r"a.npy: own_stack.Empty found 0 frames"),
    ("Frozen", DecodeError, r"a.npy: own_stack.Frozen found 6 frames at 0 frames per second"),
    ("Endless", PartError, r"own_stack.Endless opened .*a.npy as .*Endless, which lacks an integer num_frames"),
    ("Floats", PartError, r"returned frames float64 \(1, 4, 5, 3\) for .*a.npy, expected uint8"),
    ("Fewer", PartError, r"expected uint8 \(T, H, W, 3\) = \(2, H, W, 3\)"),
    ("Missing", UserError, r"data.decoder: own_stack has no 'Missing'"),
    ("number", UserError, r"data.decoder: own_stack.number is no class or function"),
)


@pytest.mark.parametrize(("name", "kind", "message"), FAULTS)
def test_a_fault_names_decoder_and_file_in_one_line(name, kind, message, tmp_path):
    with pytest.raises(kind, match=message), open_video(tmp_path / "a.npy", f"own_stack.{name}") as video:
        video.frames([2, 3] if name == "Fewer" else [2])
