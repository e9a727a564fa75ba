"""Streams: frames as they come over the network, window by window, within bounded memory and time."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from recognisers import video_recogniser
from video_files import write_video

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import clip_views, eval_frames
from mvrec.data.video.opening import open_video
from mvrec.data.video.stream import Stream, is_stream
from mvrec.data.views.sampling import Window
from mvrec.data.views.timeline import windows
from mvrec.errors import UserError
from mvrec.inference import recognising
from mvrec.inference.recognising import recognise_stream
from mvrec.prep.sources import compare_with_promise


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[str, Path]]:
    """A folder behind a web server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def recogniser():
    return video_recogniser(num_clips=2, num_crops=1)


def test_numbers_and_addresses_are_streams_and_paths_are_files():
    for source in ("0", "12", "rtsp://x/y", "HTTP://x"):
        assert is_stream(source) is True, source
    for source in ("a.mp4", "C:/x.mp4", ""):
        assert is_stream(source) is False, source


def test_stream_gives_the_frames_of_its_file(served):
    address, folder = served
    for suffix in ("mp4", "ts", "mkv"):
        # The cover comes first in Matroska; the title is no UTF-8.
        options = {"cover": suffix == "mkv", "title": "café", "faststart": suffix == "mp4"}
        path = write_video(folder / f"x.{suffix}", num_frames=20, **options)
        with Stream(f"{address}/x.{suffix}") as stream:
            assert not stream.is_live
            seconds, frames = zip(*stream, strict=True)
        with open_video(path) as video:
            assert np.array_equal(np.stack(frames), video.frames(range(20)))
        assert seconds == pytest.approx([number / 30 for number in range(20)], abs=2e-3)


def test_window_of_a_stream_is_scored_like_a_video_of_its_own(served, recogniser):
    address, folder = served
    path = write_video(folder / "x.mp4", num_frames=100, size=(64, 80), faststart=True)
    with Stream(f"{address}/x.mp4") as stream:
        results = list(recognise_stream(recogniser, stream, window_seconds=1.0, stride_seconds=0.5))
    assert [round(result.end_seconds, 2) for result in results] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.3]
    lengths = [result.end_seconds - result.start_seconds for result in results]
    assert lengths == pytest.approx([1.0] * 5 + [0.8], abs=0.04)
    with open_video(path) as video:
        frames = video.frames(range(100))
    for result in results:
        first, last = round(result.start_seconds * 30), round(result.end_seconds * 30)
        part_frames = frames[first : last + 1]
        indices = eval_frames(Sample(path, 0), 30.0, Window(0, len(part_frames)), recogniser.protocol)
        views = torch.cat([clip_views(part_frames[row.numpy()], recogniser.protocol) for row in indices]).transpose(
            1, 2
        )
        expected = recogniser.probabilities(views).mean(dim=0)
        torch.testing.assert_close(result.output.probabilities, expected, atol=1e-6, rtol=0)
    assert len({float(result.output.probabilities[0]) for result in results}) > 1


class Camera:
    """Stands in for a camera: ten frames a second, which a clock runs along with."""

    source, is_live, num_lost = "0", True, 0

    def __init__(self, frames):
        self.now, self.frames = 0.0, frames

    def __iter__(self):
        for number in range(self.frames):
            self.now = max(self.now, number / 10)  # the camera makes one wait for its frames
            yield number / 10, np.full((64, 64, 3), number % 256, np.uint8)


def test_live_stream_skips_windows_when_the_network_is_late_and_holds_those_of_a_window(recogniser, monkeypatch):
    part, parts = recognising._part_of_stream, []
    monkeypatch.setattr(recognising, "_part_of_stream", lambda *a: parts.append(len(a[1])) or part(*a))

    def ends(cost):
        camera, ends = Camera(200), []
        options = {"window_seconds": 1.0, "stride_seconds": 1.0, "clock": lambda: camera.now}
        for result in recognise_stream(recogniser, camera, **options):
            ends.append(result.end_seconds)
            # Never further behind than a stride, but for the end, which is scored in any case.
            assert camera.now - result.end_seconds <= 1.0 + 1e-6 or result.end_seconds == 19.9
            camera.now += cost  # what the network took
        return ends

    quick, slow = ends(0.1), ends(3.4)
    assert quick == pytest.approx([*range(1, 20), 19.9])
    assert 4 <= len(slow) <= 8
    assert max(slow) > 15
    assert max(parts) <= 11


def test_packets_that_a_stream_lost_are_counted_and_reported(tmp_path, recogniser, caplog):
    """Packets of a transport stream that did not arrive, or not as they were sent."""
    path = write_video(tmp_path / "x.ts", num_frames=60, size=(64, 80))
    content = path.read_bytes()
    packets = [content[begin : begin + 188] for begin in range(0, len(content), 188)]
    begins = [bool(packet[1] & 0x40) for packet in packets]  # of a picture, or a table
    # The second packet of a picture of four or more: the file differs from run to run, and the cut has to hit one.
    middle = next(n for n in range(len(begins) // 2, len(begins)) if begins[n - 1 : n + 3] == [True, *[False] * 3])
    noise = [np.random.default_rng(0).bytes(188) for _ in range(12)]
    for loss, received in {
        "none": packets,
        "hole": packets[:middle] + packets[middle + 12 :],
        "noise": packets[:middle] + noise + packets[middle + 12 :],
        "cut": [*packets[:middle], packets[middle][:50]],
    }.items():
        path.write_bytes(b"".join(received))
        caplog.clear()
        with Stream(f"file://{path}") as stream:
            results = list(recognise_stream(recogniser, stream, window_seconds=1.0, stride_seconds=0.5))
            assert (stream.num_lost > 0) == (loss != "none"), loss
        assert results, loss
        message = f"pictures lost or damaged on the way: at least {stream.num_lost}"
        assert (message in caplog.text) == (loss != "none"), loss


def test_time_goes_on_where_the_clock_of_a_stream_is_set_anew(tmp_path):
    """An encoder that starts again, recordings that are joined."""
    early, late = (
        write_video(tmp_path / f"{n}.ts", num_frames=40, b_frames=0, container_options={"output_ts_offset": str(n)})
        for n in (0, 3600)
    )
    path = tmp_path / "joined.ts"
    for parts in ((early, late), (late, early), (early, early)):
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        with Stream(f"file://{path}") as stream, open_video(path) as video:
            streamed = [seconds for seconds, _ in stream]
            assert streamed == pytest.approx(video.times.tolist(), abs=2e-3)
            assert streamed == pytest.approx([number / 30 for number in range(80)], abs=2e-3)
            assert video.duration == pytest.approx(80 / 30, abs=2e-3)
        compare_with_promise(path, video.duration)


def test_stream_without_one_whole_picture_or_without_a_video_is_one_line(served):
    address, folder = served
    path = write_video(folder / "x.ts", num_frames=40, size=(64, 80), gop=40)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 2 // 188 * 188 :])
    with Stream(f"file://{path}") as stream, pytest.raises(UserError, match="none of its frames can be decoded"):
        list(stream)
    (folder / "text.mp4").write_text("no video")
    for name in ("text.mp4", "none.mp4"):
        with pytest.raises(UserError, match="cannot be opened"):
            Stream(f"{address}/{name}")


def test_windows_cover_the_whole_video():
    for seconds, length, stride, expected in (
        (10, 4, None, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, None, [(0, 4), (4, 8)]),
        (3, 4, 1, [(0, 3)]),
        (4, 4, 1, [(0, 4)]),
        (5, 4, 0.5, [(0, 4), (0.5, 4.5), (1, 5)]),
        (5.2, 4, 1, [(0, 4), (1, 5), (2, 5.2)]),
        (9, 1, 4, [(0, 1), (4, 5), (8, 9)]),
        (10, 1, 4, [(0, 1), (4, 5), (8, 9)]),
        (7, 2, 3, [(0, 2), (3, 5), (6, 7)]),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ):
        spans = [value for span in windows(seconds, length, stride) for value in span]
        assert spans == pytest.approx([value for span in expected for value in span]), (seconds, length, stride)
