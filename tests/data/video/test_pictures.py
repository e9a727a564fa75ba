"""What packets say of the pictures in them."""

import av
import pytest

from mvrec.data.video.pictures import Look, Pictures, h264_sequence


def opened(path):
    """The packets of a file as (called a key frame, what is seen in it), and what looks into them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        pictures = Pictures(
            codec.codec.canonical_name,
            codec.extradata or b"",
            intra_only=codec.codec.intra_only,
            reorders=codec.has_b_frames,
        )
        packets = [packet for packet in container.demux(stream) if packet.size]
        return pictures, [(packet.is_keyframe, bytes(packet)) for packet in packets]


@pytest.mark.parametrize("container", ["mp4", "ts"])
def test_marks_of_intra_refresh_are_no_entries(encoded, container):
    options = "intra-refresh=1:keyint=8:bframes=0:scenecut=0"
    pictures, packets = opened(encoded(container, encoder_options=options))
    assert [number for number, (is_key, _) in enumerate(packets) if is_key] == [0, 8, 16, 24]
    assert [number for number, (_, data) in enumerate(packets) if pictures.look(data).is_entry] == [0]


@pytest.mark.parametrize(("codec", "options"), [("libx264", "open-gop=1:scenecut=0"), ("libx265", "open-gop=1")])
def test_the_first_picture_of_an_open_group_is_an_entry(encoded, codec, options):
    options += ":keyint=8:min-keyint=4:bframes=3:b-adapt=0"
    pictures, packets = opened(encoded("mp4", codec=codec, size=(64, 96), encoder_options=options))
    keys = [number for number, (is_key, _) in enumerate(packets) if is_key]
    assert len(keys) >= 3
    assert [number for number, (_, data) in enumerate(packets) if pictures.look(data).is_entry] == keys


@pytest.mark.parametrize(
    ("options", "in_order", "has_fields"),
    [("bframes=2", False, False), ("bframes=0", True, False), ("bframes=2:interlaced=1:nal-hrd=vbr", False, True)],
)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_the_header_of_h264_tells_order_and_fields(encoded, options, in_order, has_fields, pix_fmt):
    options += ":cqm=jvt:vbv-maxrate=500:vbv-bufsize=500"
    pictures, packets = opened(encoded("mp4", pix_fmt=pix_fmt, encoder_options=options))
    assert pictures.sequence is not None
    assert (pictures.sequence.in_order, pictures.sequence.has_fields) == (in_order, has_fields)
    assert all(pictures.look(data).is_one for _, data in packets)


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2video", "vp9", "av1", "png"])
def test_noise_is_no_entry(codec):
    pictures = Pictures(codec, b"", intra_only=False, reorders=False)
    for data in (b"", b"\0", b"\0\0\1", b"\0\0\1\xb6", bytes(100), b"\xff" * 100):
        if (codec, data[:1]) != ("vp9", b"\0"):  # there a whole picture can begin like that
            assert not pictures.look(data).is_entry, data
    assert h264_sequence(b"") is None
    assert h264_sequence(bytes.fromhex("0164000affe100186764000aacd9")) is None  # a header that ends early


def test_only_known_codecs_are_looked_into():
    assert not Pictures("snow", b"", intra_only=False, reorders=False).supported
    assert Pictures("mjpeg", b"", intra_only=True, reorders=False).look(b"") == Look(is_entry=True)
