"""Files opened one by one in processes that can be killed give what they give without, or an error in one line."""

import os
from concurrent.futures import ThreadPoolExecutor

import faulty_decoder
import numpy as np
import pytest
from PIL import Image
from video_files import in_archive, write_video

from mvrec.data.loading import images
from mvrec.data.loading.guarded_files import FileReaders
from mvrec.data.video import opening
from mvrec.errors import DecodeError, UserError
from mvrec.processes import CAN_FORK, Limits

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs fork")


@pytest.fixture
def readers():
    readers = FileReaders()
    yield readers
    readers.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", num_frames=16, matrix=(0, -1, 1, 0))


def test_guarded_videos_members_of_archives_and_images_equal_unguarded_ones(readers, clip, tmp_path):
    indices = [5, 3, 3, 15]
    with opening.open_video(clip) as plain, readers.open(clip, "auto") as guarded:
        assert (guarded.path, guarded.decoder) == (plain.path, plain.decoder)
        assert (guarded.num_frames, guarded.fps, guarded.size) == (plain.num_frames, plain.fps, plain.size)
        assert (guarded.times == plain.times).all()
        assert guarded.duration == plain.duration
        assert np.array_equal(guarded.frames(indices), plain.frames(indices))
        with pytest.raises(ValueError, match="frame indices must be in"):
            guarded.frames([16])
    with readers.open(in_archive(clip, tmp_path / "a.tar"), "pyav") as guarded:
        assert guarded.num_frames == 16
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "x.png")
    assert np.array_equal(readers.image(tmp_path / "x.png", True), images.read_image(tmp_path / "x.png"))


def test_an_idle_process_is_used_again_and_a_killed_one_replaced(readers, clip):
    readers.start(1)
    (first,) = readers._idle
    for _ in range(2):
        with readers.open(clip, "auto") as reader:
            assert reader._reader is first
            with readers.open(clip, "auto") as other:
                assert np.array_equal(reader.frames([7]), other.frames([7]))
    assert len(readers._idle) == 2
    os.kill(first.pid, 9)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with readers.open(clip, "auto"), readers.open(clip, "auto"):
        pass


def test_empty_and_missing_files_raise_their_error_and_keep_the_process(readers, clip, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"empty.mp4: is empty \(0 bytes\)"):
        readers.open(tmp_path / "empty.mp4", "auto")
    with pytest.raises(UserError, match=r"'.*' is not one of auto, decord"):
        readers.open(clip, "vlc")
    with pytest.raises(DecodeError, match="no such file"):
        readers.image(tmp_path / "none.jpg", True)
    assert len(readers._idle) == 1
    with readers.open(clip, "auto") as guarded:
        assert guarded.num_frames == 16


def test_a_file_that_hangs_crashes_or_eats_memory_is_opened_once_and_others_are_read(
    monkeypatch, readers, clip, tmp_path
):
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "log"))
    real = opening.open_video
    monkeypatch.setattr("faulty_decoder.opening", type("opening", (), {"open_video": staticmethod(real)}))
    monkeypatch.setattr(opening, "open_video", faulty_decoder.open_video)
    faults = {
        "spin": (Limits(0.5, None), "gave no answer for 0.5 s"),
        "segfault": (Limits(), "was ended by SIGSEGV"),
        "eat_memory": (Limits(None, 0.25), "needed more than 0.25 GiB"),
    }
    for fault, (readers.limits, cause) in faults.items():
        for _ in range(2):
            with pytest.raises(DecodeError, match=f"{fault}.mp4: the process reading it {cause}"):
                readers.open(tmp_path / f"{fault}.mp4", "auto")
    assert faulty_decoder.attempts() == sorted(f"{fault}.mp4" for fault in faults)
    readers.limits = Limits()  # a busy machine is not to make this one late
    with readers.open(clip, "auto") as guarded:
        os.kill(guarded._reader.pid, 11)  # between two frames
        with pytest.raises(DecodeError, match="the process reading it was ended by SIGSEGV"):
            guarded.frames([0])
    assert readers._idle == []


def test_threads_read_through_the_same_readers(readers, clip):
    def read(number):
        with readers.open(clip, "auto") as guarded:
            return guarded.frames([number]).shape

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(read, range(6))) == [(1, 64, 48, 3)] * 6
