"""Files opened one by one in processes that can be killed give what they give without, or an error in one line."""

import gc
import os
import threading

import numpy as np
import pytest
from faulty_decoder import FAULTS
from faulty_decoder import open_video as faulty_open
from video_files import in_archive, write_video

from mvrec.data.loading import images
from mvrec.data.loading.guarded_files import FileReaders
from mvrec.data.video import opening
from mvrec.errors import DecodeError, UserError
from mvrec.processes import CAN_FORK, Limits

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs fork")


@pytest.fixture
def readers():
    found = FileReaders(Limits(20.0, 1.0))
    yield found
    found.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", rotation=90)


def test_a_video_is_what_it_is_without_the_guard(readers, clip):
    indices = [5, 3, 3, 31]
    with opening.open_video(clip) as plain, readers.open(clip, "auto") as guarded:
        assert (guarded.path, guarded.decoder) == (plain.path, plain.decoder)
        assert (guarded.num_frames, guarded.fps, guarded.size) == (plain.num_frames, plain.fps, plain.size)
        assert (guarded.times == plain.times).all()
        assert guarded.duration == plain.duration
        assert np.array_equal(guarded.frames(indices), plain.frames(indices))
        with pytest.raises(ValueError, match="frame indices must be in"):
            guarded.frames([32])


def test_members_of_archives_and_images_too(readers, clip, tmp_path):
    from PIL import Image

    with readers.open(in_archive(clip, tmp_path / "a.tar"), "pyav") as guarded:
        assert guarded.num_frames == 32
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "x.png")
    assert np.array_equal(readers.image(tmp_path / "x.png", True), images.read_image(tmp_path / "x.png"))


def test_processes_are_used_again_and_two_files_are_open_at_once(readers, clip):
    readers.start(1)
    (first,) = readers._idle
    for _ in range(2):
        with readers.open(clip, "auto") as one:
            assert one._reader is first
            with readers.open(clip, "auto") as other:
                assert np.array_equal(one.frames([7]), other.frames([7]))
    assert len(readers._idle) == 2
    os.kill(first.pid, 9)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with readers.open(clip, "auto"), readers.open(clip, "auto"):
        pass


def test_errors_are_those_of_the_file_and_the_process_lives_on(readers, clip, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"empty.mp4: is empty \(0 bytes\)"):
        readers.open(tmp_path / "empty.mp4", "auto")
    with pytest.raises(UserError, match="the decoder must be auto"):
        readers.open(clip, "vlc")
    with pytest.raises(DecodeError, match="no such file"):
        readers.image(tmp_path / "none.jpg", True)
    assert len(readers._idle) == 1
    with readers.open(clip, "auto") as guarded:
        assert guarded.num_frames == 32


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("spin", "gave no answer for 1 s"),
        ("wait", "gave no answer for 1 s"),
        ("segfault", "was ended by SIGSEGV"),
        ("leave", "left with exit code 3"),
        ("eat_memory", "needed more than 0.25 GiB"),
    ],
)
def test_a_decoder_that_breaks_the_limits_costs_one_file(monkeypatch, clip, tmp_path, fault, said):
    assert fault in FAULTS
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "log"))
    real = opening.open_video
    monkeypatch.setattr("faulty_decoder.opening", type("opening", (), {"open_video": staticmethod(real)}))
    monkeypatch.setattr(opening, "open_video", faulty_open)
    readers = FileReaders(Limits(1.0 if fault in ("spin", "wait") else 60.0, 0.25))
    for _ in range(2):  # the second time the file is not opened again
        with pytest.raises(DecodeError, match=f"{fault}.mp4: the process reading it {said}"):
            readers.open(tmp_path / f"{fault}.mp4", "auto")
    assert (tmp_path / "log").read_text().splitlines() == [f"{fault}.mp4"]
    with readers.open(clip, "auto") as guarded:
        assert guarded.num_frames == 32
    readers.close()


def test_a_crash_in_mid_file_is_one_too(readers, clip):
    guarded = readers.open(clip, "auto")
    os.kill(guarded._reader.pid, 11)
    with pytest.raises(DecodeError, match="the process reading it was ended by SIGSEGV"):
        guarded.frames([0])
    guarded.close()
    assert readers._idle == []


def test_threads_share_the_readers(readers, clip):
    found, failed = [], []

    def read():
        try:
            for number in range(5):
                with readers.open(clip, "auto") as guarded:
                    found.append(guarded.frames([number]).shape)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert found == [(1, 64, 48, 3)] * 20
    gc.collect()
