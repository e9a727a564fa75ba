"""Facts about pictures that packets state."""

import av
import pytest

from mvrec.data.video.pictures import Pictures


def opened(path):
    """The reader of the packets of a file, and the packets as (called a key frame, bytes)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        options = {"intra_only": codec.codec.intra_only, "reorders": codec.has_b_frames}
        pictures = Pictures(codec.codec.canonical_name, codec.extradata or b"", **options)
        return pictures, [(packet.is_keyframe, bytes(packet)) for packet in container.demux(stream) if packet.size]


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
