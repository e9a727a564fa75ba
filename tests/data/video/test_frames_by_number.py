"""A frame asked for alone is the frame that decoding from the start brings at that place, in every kind of file."""

from functools import partial

import av
import numpy as np
import pytest
from video_files import cut_start, read_numbers, remux, write_video

from mvrec.data.video.frame_finder import FrameFinder
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Source
from mvrec.errors import DecodeError

NUM_FRAMES = 24
B_FRAMES = "b-adapt=0:bframes=3:scenecut=0"

# Encoders and how they are asked to group pictures; the containers that FFmpeg writes them into.
H264 = {
    "closed": f"{B_FRAMES}:keyint=8",
    "open": f"{B_FRAMES}:keyint=8:min-keyint=4:open-gop=1",
    "open_pyramid": "bframes=5:b-adapt=0:b-pyramid=strict:ref=5:keyint=9:open-gop=1:weightp=2",
    "refresh": "bframes=0:intra-refresh=1:scenecut=0:keyint=8",
    "refresh_with_b": "bframes=2:b-adapt=0:intra-refresh=1:scenecut=0:keyint=8",
    "endless": f"{B_FRAMES}:keyint=infinite",
    "no_b": "bframes=0:keyint=8",
    "intra": "keyint=1",
    "fields": f"{B_FRAMES}:interlaced=1:keyint=8",
    "slices": f"{B_FRAMES}:slices=3:aud=1:keyint=8",
}
HEVC = {
    "closed": "open-gop=0:keyint=8:bframes=3:b-adapt=0",
    "open": "open-gop=1:keyint=8:min-keyint=4:bframes=3:b-adapt=0",
    "refresh": "intra-refresh=1:scenecut=0:keyint=8:bframes=0",
    "radl": "radl=2:open-gop=0:keyint=8:bframes=4:b-adapt=0",
}
GROUPS = {"open": {"gop": 8}, "no_b": {"gop": 8, "b_frames": 0}, "intra": {"gop": 1, "b_frames": 0}}
ENCODERS = {
    "libx264": (
        {kind: {"encoder_options": options} for kind, options in H264.items()},
        "mp4 mov mkv avi ts flv asf nut h264",
    ),
    "libx265": (HEVC, "mp4 mkv ts"),
    "mpeg4": (GROUPS, "mp4 mov mkv avi ts"),
    "mpeg2video": (GROUPS, "mpg ts mkv mp4 avi mxf"),
    "mpeg1video": (GROUPS, "mpg mkv"),
    "libvpx": ({"groups": {"gop": 8}}, "webm mkv avi ivf"),
    "libvpx-vp9": ({"groups": {"gop": 8}}, "webm mkv mp4 ivf"),
    "libsvtav1": ({"groups": {"gop": 8}}, "mp4 webm mkv"),
    "mjpeg": ({"intra": {"pix_fmt": "yuvj420p"}}, "avi mov mkv mjpeg swf"),  # the last two cannot seek
    "ffv1": ({"groups": {"gop": 8}}, "mkv avi"),
    "huffyuv": ({"intra": {"pix_fmt": "yuv422p"}}, "avi"),
    "png": ({"intra": {"pix_fmt": "rgb24"}}, "mov"),
    "prores_ks": ({"intra": {"pix_fmt": "yuv422p10le"}}, "mov mkv"),
    "wmv2": ({"groups": {"gop": 8}}, "asf avi"),
    "msmpeg4v2": ({"groups": {"gop": 8}}, "avi"),
    "flv": ({"groups": {"gop": 8}}, "flv"),
    "h263": ({"groups": {"gop": 8}}, "mov"),
    "gif": ({"groups": {"pix_fmt": "rgb8"}}, "gif"),
}
SIZES = {"libx265": (64, 96), "libsvtav1": (64, 64), "h263": (96, 128)}


def matrix():
    """All kinds of groups in all containers; quick are all kinds in the first one, and each container once."""
    earlier = set()
    for encoder, (kinds, containers) in ENCODERS.items():
        for row, kind in enumerate(kinds):
            for column, container in enumerate(containers.split()):
                is_quick = column == 0 or (row == 0 and container not in earlier)
                marks = [] if is_quick else [pytest.mark.slow]
                yield pytest.param(encoder, container, kind, marks=marks, id=f"{encoder}-{kind}.{container}")
        earlier |= set(containers.split())


def decoded_in_sequence(path):
    """All frames as decoding from the start brings them; what cannot be decoded is passed over, as players do."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                frames += [frame.to_ndarray() for frame in packet.decode()]
            except av.InvalidDataError:
                assert not frames
    return frames


def pixels(finder, indices):
    return [frame.to_ndarray() for frame in finder.find(np.array(indices))]


def check_every_frame(path):
    """Each frame alone in mixed order, each tenth from a fresh start, and every second and all in one call."""
    expected = decoded_in_sequence(path)
    finder = FrameFinder(Source(str(path)))
    assert finder.timing.num_frames == len(expected)
    alone = [[index] for index in np.random.default_rng(0).permutation(len(expected)).tolist()]
    for count, indices in enumerate([*alone, range(0, len(expected), 2), range(len(expected))]):
        if count % 10 == 9:
            finder.close()
            finder = FrameFinder(Source(str(path)))
        frames = finder.believing_packets(partial(pixels, finder, indices))
        assert len(frames) == len(indices)
        assert all(np.array_equal(frame, expected[index]) for frame, index in zip(frames, indices, strict=True))
    finder.close()
    return finder


@pytest.fixture
def clips(encoded):
    """A clip of some kind of groups."""

    def get(kind, container="mp4", codec="libx264"):
        options = ENCODERS[codec][0][kind]
        options = {"encoder_options": options} if isinstance(options, str) else options
        has_b_frames = codec in ("libx264", "libx265", "mpeg4", "mpeg1video", "mpeg2video") and kind != "no_b"
        kwargs = {"num_frames": NUM_FRAMES, "fps": 25, "b_frames": 2 * has_b_frames, "size": SIZES.get(codec, (48, 64))}
        return encoded(container, codec=codec, **kwargs | options)

    return get


@pytest.mark.parametrize(("encoder", "container", "kind"), list(matrix()))
def test_every_frame_alone_is_that_of_the_whole(clips, encoder, container, kind):
    check_every_frame(clips(kind, container, encoder))


@pytest.mark.parametrize(
    ("codec", "kind", "container"),
    [("libx264", "closed", "mp4"), ("libx264", "open_pyramid", "mkv"), ("mpeg4", "open", "mov")],
)
def test_times_of_storage_are_not_taken_for_times_of_showing(clips, tmp_path, codec, kind, container):
    """An AVI with B frames that was put into another container has such times."""
    source = clips(kind, codec=codec)
    path = remux([source], tmp_path / f"stored.{container}", times_of_storage=True)
    assert check_every_frame(path).timing.shown is None
    with open_video(path) as video:
        assert video.has_times
        assert (np.diff(video.times) > 0).all()
        numbers = read_numbers(video.frames(range(video.num_frames)))
        # An edit list hides the first that are stored, in players too.
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= NUM_FRAMES - 3


@pytest.mark.parametrize("kind", ["closed", "open", "open_pyramid", "refresh", "refresh_with_b", "endless"])
def test_a_clip_cut_in_the_middle_shows_the_frames_that_players_show(clips, tmp_path, kind):
    """Its first pictures lack what they need: shown are those that every player shows."""
    paths = [tmp_path / f"cut.{container}" for container in ("ts", "mp4", "mkv")]
    paths[0].write_bytes(clips(kind, "ts").read_bytes()[188 * 60 :])
    for path in paths:
        if path.suffix != ".ts":
            cut_start(clips(kind), path, num_frames=5, fps=25)
        if decoded_in_sequence(path):
            check_every_frame(path)
        else:
            with pytest.raises(DecodeError, match="none of its frames can be decoded"):
                open_video(path)


@pytest.mark.parametrize(
    ("kinds", "container"), [(("closed", "open_pyramid"), "mp4"), (("no_b", "closed", "refresh"), "ts")]
)
def test_joined_files_are_each_decoded_by_their_own_parameters(clips, tmp_path, kinds, container):
    begins = [part * NUM_FRAMES / 25 for part in range(len(kinds))]
    path = remux([clips(kind, "ts") for kind in kinds], tmp_path / f"parts.{container}", begins=begins)
    assert check_every_frame(path).timing.num_frames == NUM_FRAMES * len(kinds)


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "closed"), ("libx264", "no_b"), ("mpeg2video", "open")])
def test_a_transport_stream_with_lost_packets_shows_what_a_whole_pass_shows(clips, tmp_path, codec, kind):
    """A decoder's pictures after that depend on all that it has decoded before."""
    data = clips(kind, "ts", codec).read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    for number in (len(packets) // 3, len(packets) // 2):
        del packets[number]
    path = tmp_path / "lost.ts"
    path.write_bytes(b"".join(packets))
    assert check_every_frame(path).timing.shown is None


@pytest.mark.parametrize("kind", ["refresh", "endless"])
def test_windows_in_order_are_read_in_one_pass(tmp_path, monkeypatch, kind):
    path = write_video(tmp_path / "long.mp4", num_frames=300, encoder_options=H264[kind])
    begun = []
    real = FrameFinder._packets_from
    monkeypatch.setattr(FrameFinder, "_packets_from", lambda *args: begun.append(args) or real(*args))
    with open_video(path) as video:
        for begin in range(0, 300, 12):
            assert read_numbers(video.frames([begin, begin + 7])) == [begin, begin + 7]
    assert len(begun) < 14


def test_appended_streams_show_the_frames_of_both(clips, tmp_path):
    path = tmp_path / "streams.ts"
    path.write_bytes(clips("closed", "ts").read_bytes() + clips("open", "ts").read_bytes())
    check_every_frame(path)


@pytest.mark.parametrize(("container", "seconds"), [("mkv", -0.5), ("mp4", -0.5), ("ts", 100), ("flv", 100)])
def test_negative_and_late_start_times_move_no_frame(clips, tmp_path, container, seconds):
    options = {"avoid_negative_ts": "disabled"}
    path = remux([clips("open")], tmp_path / f"moved.{container}", begins=[seconds], options=options)
    check_every_frame(path)


@pytest.mark.parametrize("kind", ["open_pyramid", "refresh"])
def test_two_edits_show_both_parts(clips, tmp_path, kind):
    """Two parts of the stored frames are shown, of which the second begins in the middle of a group."""
    path = tmp_path / "edits.mp4"
    path.write_bytes(with_edits(clips(kind).read_bytes(), [(400, 2), (320, 11)], frame_ticks=512))
    assert check_every_frame(path).timing.shown is None
    with open_video(path) as video:
        assert read_numbers(video.frames(range(video.num_frames))) == [*range(2, 12), *range(11, 19)]


def with_edits(data, edits, *, frame_ticks):
    """The bytes of an MP4 of one track with another edit list: (milliseconds, first frame)..."""
    offset = int.from_bytes(data[data.index(b"elst") + 16 :][:4])  # by how much B frames move the first frame
    rows = b"".join(
        length.to_bytes(4) + (offset + first * frame_ticks).to_bytes(4) + b"\0\1\0\0" for length, first in edits
    )
    content = bytes(4) + len(edits).to_bytes(4) + rows
    begin = data.index(b"edts") - 4
    end = begin + int.from_bytes(data[begin : begin + 4])
    box = (16 + len(content)).to_bytes(4) + b"edts" + (8 + len(content)).to_bytes(4) + b"elst" + content
    for name in (b"moov", b"trak"):
        size = data.index(name) - 4
        longer = int.from_bytes(data[size : size + 4]) + len(box) - (end - begin)
        data = data[:size] + longer.to_bytes(4) + data[size + 4 :]
    return data[:begin] + box + data[end:]
