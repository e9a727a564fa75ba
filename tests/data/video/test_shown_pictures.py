"""Pictures are those of the `ffmpeg` command: turned, mirrored, of one size, in the colours that the file names."""

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from test_video_exact import OTHERS
from video_files import read_numbers, write_two_sizes

from mvrec.data.video.opening import open_video
from mvrec.data.video.stream import Stream
from mvrec.errors import DecodeError

# By display matrix: what is shown of a picture, and the filters by which the `ffmpeg` command makes it.
SHOWN = {
    (1, 0, 0, 1): (lambda x: x, ()),
    (-1, 0, 0, 1): (lambda x: x[:, ::-1], ("hflip",)),
    (1, 0, 0, -1): (lambda x: x[::-1], ("vflip",)),
    (-1, 0, 0, -1): (lambda x: x[::-1, ::-1], ("hflip", "vflip")),
    (0, 1, -1, 0): (lambda x: np.rot90(x, 3), ("transpose=clock",)),
    (0, -1, 1, 0): (lambda x: np.rot90(x, 1), ("transpose=cclock",)),
    (0, 1, 1, 0): (lambda x: x.swapaxes(0, 1), ("transpose=cclock_flip",)),
    (0, -1, -1, 0): (lambda x: np.rot90(x, 2).swapaxes(0, 1), ("transpose=clock_flip",)),
}
TURNS_ONLY = [(1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0)]
MATRICES = BT601, BT709, NO_MATRIX, BT2020, BT2020_CONSTANT = 6, 1, 2, 9, 10
LIMITED, FULL = 1, 2


def ffmpegs_pictures(path, *filters, scale="scale=flags=bicubic"):
    """All pictures of a file by the filters that the `ffmpeg` command takes for RGB, which knows no orientation."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            graph = av.filter.Graph()
            options = {key: getattr(frame, key) for key in ("width", "height", "format", "time_base")}
            steps = [graph.add(*step.split("=", 1)) for step in (*filters, scale, "format=rgb24")]
            graph.link_nodes(graph.add_buffer(**options), *steps, graph.add("buffersink")).configure()
            graph.push(frame)
            pictures.append(graph.vpull().to_ndarray())
    return np.stack(pictures)


def pictures_of(path, decoder="auto"):
    with open_video(path, decoder) as video:
        frames = video.frames(range(video.num_frames))
        assert video.size == frames.shape[1:3]
    return frames


def of_stream(path):
    with Stream(f"file://{path}") as stream:
        return np.stack([picture for _, picture in stream])


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_all_eight_orientations_are_shown(encoded, suffix):
    upright = pictures_of(encoded(suffix, num_frames=4))
    for matrix, (turned, _) in SHOWN.items():
        path = encoded(suffix, num_frames=4, matrix=matrix)
        expected = np.stack([turned(picture) for picture in upright])
        np.testing.assert_array_equal(pictures_of(path), expected, str(matrix))
        np.testing.assert_array_equal(of_stream(path), expected, str(matrix))


@pytest.mark.parametrize("decoder", OTHERS)
def test_other_decoders_turn_alike_or_refuse(encoded, decoder):
    for matrix in SHOWN:
        path = encoded("mp4", num_frames=4, matrix=matrix)
        if matrix == (1, 0, 0, 1) or (decoder == "torchcodec" and matrix in TURNS_ONLY):
            np.testing.assert_array_equal(pictures_of(path, decoder), pictures_of(path), str(matrix))
        else:
            with pytest.raises(DecodeError, match=f"{decoder} is not exact on this kind of file"):
                open_video(path, decoder)


DELICATE = [
    *({"pix_fmt": "yuv420p10le"}, {"pix_fmt": "yuv422p10le"}, {"encoder_options": "interlaced=1"}),
    *({"codec": "mpeg4", "size": (49, 67)}, {"codec": "ffv1", "pix_fmt": "yuv411p"}),
]


@pytest.mark.parametrize("options", DELICATE)
def test_pictures_with_shared_colours_are_turned_as_ffmpeg_does(encoded, options):
    """Torchcodec turns before it converts, which shows where pixels share colours."""
    options = {"num_frames": 2, "size": (52, 72), "b_frames": 0, **options}
    for matrix, (_, filters) in SHOWN.items():
        if not matrix[0] and options.get("pix_fmt") in ("yuv411p", "yuv422p10le"):
            continue  # FFmpeg cannot turn these by a quarter and takes a way of its own from release to release
        path = encoded("mkv", matrix=matrix, **options)
        np.testing.assert_array_equal(pictures_of(path), ffmpegs_pictures(path, *filters), str(matrix))


def video_of_images(path, codec, content):
    """A video that shows an encoded image three times."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream(codec, rate=25, width=64, height=48)
        for number in range(3):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    return path


BLOCKS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1))


def image_bytes(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def test_frames_with_side_data_that_pyav_does_not_know_are_turned(tmp_path):
    """Cameras write an EXIF block into each picture of motion JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = video_of_images(tmp_path / "a.avi", "mjpeg", image_bytes(BLOCKS, "JPEG", exif=exif, quality=95))
    pictures = pictures_of(path)
    assert pictures.shape == of_stream(path).shape == (3, 64, 48, 3)
    assert np.abs(pictures[2].astype(int) - np.rot90(np.asarray(BLOCKS), 3)).mean() < 12  # JPEG's own loss


@pytest.mark.parametrize("options", [{}, {"transparency": bytes(range(256))}])
def test_palettes_are_looked_up(tmp_path, options):
    """Whatever their alpha: it is dropped, as it is from images."""
    image = BLOCKS.quantize(40)
    path = video_of_images(tmp_path / "a.mov", "png", image_bytes(image, "PNG", **options))
    np.testing.assert_array_equal(pictures_of(path)[2], np.asarray(image.convert("RGB")))


KINDS = {  # pixel formats by encoder; the suffix and size of its files
    "libx264": ("yuv420p yuvj420p yuv422p yuv444p yuv420p10le yuv422p10le", "mkv", (48, 64)),
    "libx265": ("yuv420p10le yuv420p12le yuv422p12le yuv444p12le", "mkv", (64, 96)),
    "mpeg4": ("yuv420p", "mkv", (49, 67)),
    "libvpx-vp9": ("yuv420p", "mkv", (49, 67)),
    "ffv1": ("yuv411p yuv440p10le gbrp12le yuva420p10le", "mkv", (48, 64)),
    "qtrle": ("argb rgb24", "mov", (48, 64)),
    "rawvideo": ("yuyv422 nv12", "avi", (48, 64)),
    "png": ("rgba", "mov", (48, 64)),
}


@pytest.mark.parametrize("codec", KINDS)
def test_colours_are_ffmpegs(encoded, codec):
    formats, suffix, size = KINDS[codec]
    for pix_fmt in formats.split():
        for options in ("", "interlaced=1") if pix_fmt in ("yuv420p", "yuv422p") and codec == "libx264" else ("",):
            kind = {"codec": codec, "pix_fmt": pix_fmt, "size": size, "encoder_options": options}
            path = encoded(suffix, num_frames=2, b_frames=0, **kind)
            np.testing.assert_array_equal(pictures_of(path), ffmpegs_pictures(path), f"{pix_fmt} {options}")


def flat_video(path, frames, *, pix_fmt, colours):
    """A video of flat colours, stored without loss as these values of the planes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "12" not in pix_fmt else "ffv1", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = colours
        for planes in frames:
            frame = av.VideoFrame(64, 48, pix_fmt)
            frame.colorspace, frame.color_range = colours
            for plane, value in zip(frame.planes, planes, strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


FLAT = np.array([(60, 110, 150), (120, 128, 128), (150, 150, 90), (200, 120, 135)])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_deep_colours_follow_the_standards(tmp_path, matrix, colour_range):
    """RGB by the formulas of BT.601, 709 and 2020; a file that names no matrix is taken for BT.601."""
    shares = {BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593), BT2020_CONSTANT: (0.2627, 0.0593)}
    red, blue = shares.get(matrix, (0.299, 0.114))
    y, u, v = FLAT.T
    luma, chroma = ((y - 16) / 219, 224) if colour_range == LIMITED else (y / 255, 255)
    r = luma + 2 * (1 - red) * (v - 128) / chroma
    b = luma + 2 * (1 - blue) * (u - 128) / chroma
    g = (luma - red * r - blue * b) / (1 - red - blue)
    expected = np.clip(255 * np.stack([r, g, b], axis=1), 0, 255)[:, None, None]
    for pix_fmt in ("yuv420p10le", "yuv422p10le", "yuv420p12le", "yuv444p12le"):
        scale = 2 ** (int(pix_fmt[-4:-2]) - 8)
        path = tmp_path / f"{pix_fmt}.mkv"
        flat_video(path, (FLAT * scale).tolist(), pix_fmt=pix_fmt, colours=(matrix, colour_range))
        assert np.abs(pictures_of(path) - expected).max() < 3, pix_fmt


@pytest.mark.parametrize("decoder", OTHERS)
def test_other_decoders_have_the_same_colours_or_refuse(encoded, decoder):
    for matrix, colour_range in itertools.product([*MATRICES, 4, 7, 8], [LIMITED, FULL]):
        path = encoded("mp4", num_frames=2, colours=(matrix, colour_range))
        np.testing.assert_array_equal(pictures_of(path, decoder), pictures_of(path), f"{matrix}, {colour_range}")
    with pytest.raises(DecodeError, match="is not exact"):  # no matrix for what is not stored as RGB
        open_video(encoded("mp4", num_frames=2, colours=(0, LIMITED)), decoder)


@pytest.mark.parametrize(("suffix", "options"), [("ts", {}), ("mkv", {"pix_fmt": "yuv420p10le"}), ("mp4", {})])
def test_frames_are_scaled_to_the_size_of_the_first(tmp_path, suffix, options):
    path = write_two_sizes(tmp_path, suffix, **options)
    with av.open(str(path)) as container:
        assert {(frame.height, frame.width) for frame in container.decode(video=0)} == {(48, 64), (96, 120)}
    frames = pictures_of(path)
    np.testing.assert_array_equal(frames, ffmpegs_pictures(path, scale="scale=w=64:h=48:flags=bicubic"))
    assert read_numbers(frames) == [*range(10), *range(10)]
    with open_video(path) as video:  # whichever is asked for first
        np.testing.assert_array_equal(video.frames([15, 3]), frames[[15, 3]])
    np.testing.assert_array_equal(of_stream(path), frames)


def test_pixels_that_are_not_square_are_not_stretched(encoded):
    path = encoded("mp4", num_frames=2, pixel_aspect=Fraction(16, 11))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
    assert pictures_of(path).shape == (2, 48, 64, 3)
