"""Drawing and writing, read back from the files."""

import av
import numpy as np
import pytest

from mvrec.inference import overlay
from mvrec.inference.overlay import in_range, overlaid


def grey(count, height, width, value=100):
    return np.full((count, height, width, 3), value, np.uint8)


def test_heat_is_scaled_from_its_least_to_its_most():
    assert in_range(np.array([[3.0, 5.0], [7.0, 3.0]], np.float32)).tolist() == [[0, 0.5], [1, 0]]
    assert in_range(np.full((2, 2), 3, np.float32)).tolist() == [[0, 0], [0, 0]]


def test_overlay_leaves_cold_pixels_and_lightens_hot_ones():
    heat = np.linspace(0, 1, 11, dtype=np.float32).reshape(1, 1, 11)
    drawn = overlaid(grey(1, 1, 11), heat)
    assert drawn[0, 0, 0].tolist() == [100, 100, 100]
    # 15 % of the frame, 85 % of the lightest colour.
    assert drawn[0, 0, 10].tolist() == [232, 219, 117]
    covered = overlaid(grey(1, 1, 11, value=0), heat)[0, 0].astype(int).sum(1)
    assert (np.diff(covered) > 0).all()


def test_overlay_of_a_whole_frame_marks_the_crop_and_other_sizes_are_refused():
    heat = np.zeros((2, 4, 6), np.float32)
    heat[1, 2, 3] = 1
    drawn = overlaid(grey(2, 9, 13), heat, crop=overlay.Crop(2, 5, 4, 6))
    assert drawn[0, 0, 0].tolist() == [50, 50, 50]
    assert drawn[0, 3, 7].tolist() == [100, 100, 100]
    edge = [drawn[0, 2, 5], drawn[0, 5, 10], drawn[0, 2, 8], drawn[0, 4, 5], drawn[0, 4, 10]]
    assert all(pixel.tolist() == [0, 255, 255] for pixel in edge)
    assert drawn[0, 6, 8].tolist() == drawn[0, 4, 11].tolist() == [50, 50, 50]
    assert drawn[1, 4, 8].tolist() == [232, 219, 117]
    with pytest.raises(AssertionError):
        overlaid(grey(1, 4, 4), np.zeros((1, 4, 5), np.float32))


def test_only_heat_has_colours():
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    cold = overlaid(frames, np.zeros((1, 4, 4), np.float32)).astype(int)
    assert (np.ptp(cold, axis=-1) == 0).all()
    assert abs(cold[..., 0] - frames @ np.array([0.299, 0.587, 0.114])).max() <= 0.5


def test_a_caption_stands_above_every_picture_with_the_colour_scale_of_heat():
    pictures = grey(2, 40, 300, value=7)
    drawn = overlay.captioned(pictures, ["фильм.mp4", "cam for прыжок"])
    long = overlay.captioned(pictures, ["a" * 200, "one word after another until the line is too long for the picture"])
    band = drawn[0, :-40]
    assert (drawn[:, -40:] == 7).all()
    assert np.array_equal(drawn[0], drawn[1])
    assert (band.min(axis=(1, 2)) < 100).sum() > 20  # rows with letters
    colours = np.ptp(band.astype(int), axis=-1).max(axis=1) > 60
    assert 10 <= colours.sum() <= 20  # the scale alone has colours, in the last row
    assert colours[: len(band) // 2].sum() == 0
    assert long.shape[1] > drawn.shape[1]


def test_contact_sheet_has_every_frame_above_its_overlay():
    frames = np.stack([np.full((5, 7, 3), 10 * i, np.uint8) for i in range(11)])
    drawn = frames + 1
    sheet = overlay.contact_sheet(frames, drawn)
    assert sheet.shape == (2 * (2 * 5 + 4 + 4) + 4, 8 * (7 + 4) + 4, 3)
    for i in range(11):
        top, left = divmod(i, 8)
        top, left = top * 18 + 4, left * 11 + 4
        assert (sheet[top : top + 5, left : left + 7] == 10 * i).all()
        assert (sheet[top + 9 : top + 14, left : left + 7] == 10 * i + 1).all()
    assert overlay.contact_sheet(frames[:3], drawn[:3]).shape[1] == 3 * 11 + 4
    assert overlay.side_by_side(frames, drawn).shape == (11, 5, 18, 3)


def test_small_frames_are_enlarged():
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    large = overlay.enlarged(frames, least=10)
    assert large.shape == (2, 9, 12, 3)
    assert np.array_equal(large[:, 1::3, 1::3], frames)
    assert np.array_equal(overlay.enlarged(frames, least=2), frames)


@pytest.mark.parametrize(("height", "width", "fps"), [(33, 47, 29.97), (64, 130, 3.6129)])
def test_written_mp4_has_the_frames_rate_and_text(tmp_path, height, width, fps):
    frames = np.zeros((9, height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = 40 + 10 * i
        frame[:, : width // 2, 0] = 200
    path = tmp_path / "heat für alle.mp4"
    overlay.write_mp4(path, frames, fps=fps, about="rollout for 走る")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.height, stream.width) == (height + height % 2, width + width % 2)
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        assert container.metadata["comment"] == "rollout for 走る"
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for expected, frame in zip(frames, read, strict=True):
        assert abs(frame[4:-4, 4 : width // 2 - 4].astype(int) - expected[4, 4]).max() < 12
        assert abs(frame[4:-4, width // 2 + 4 : -4].astype(int) - expected[4, -5]).max() < 12
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_nothing_behind(tmp_path, file_size_limit):
    frames = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), dtype=np.uint8)
    file_size_limit(20_000)
    with pytest.raises(OSError, match="File too large"):
        overlay.write_png(tmp_path / "a.png", frames[0])
    with pytest.raises(OSError, match="File too large"):
        overlay.write_mp4(tmp_path / "a.mp4", frames, fps=4)
    assert list(tmp_path.iterdir()) == []
