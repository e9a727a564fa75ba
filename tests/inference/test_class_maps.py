"""Class maps as colours, legends and videos."""

from pathlib import Path

import av
import numpy as np
import pytest

from mvrec.errors import UserError
from mvrec.inference.class_maps.drawing import painted
from mvrec.inference.class_maps.files import PictureFiles
from mvrec.inference.overlay import Mp4Writer, legend_picture
from mvrec.inference.results import PixelPrediction
from mvrec.tasks.segmentation.colours import colours
from mvrec.tasks.segmentation.outputs import ClassMap


def test_colours_are_mixed_with_the_image_in_every_row():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (600, 5, 3), dtype=np.uint8)
    classes = rng.integers(0, 7, (600, 5), dtype=np.uint8)
    for opacity in (0, 0.25, 0.5, 1):
        expected = pixels * (1 - opacity) + colours(7)[classes] * float(opacity)
        assert np.abs(painted(pixels, classes, colours(7), opacity=opacity) - expected).max() <= 0.5
    with pytest.raises(ValueError, match=r"opacity must lie between 0 and 1, got 1\.5"):
        painted(pixels, classes, colours(7), opacity=1.5)


def test_a_legend_has_a_square_of_each_colour_in_columns():
    picture = legend_picture([f"class {number}" for number in range(70)], colours(70))
    drawn = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in colours(70).tolist()} <= drawn
    assert picture.shape[0] < 32 * 30


def test_pictures_are_shown_at_their_times_and_have_one_size(tmp_path):
    with Mp4Writer(tmp_path / "v.mp4", fps=30) as writer:
        for seconds in (0.0, 0.04, 0.5, 0.5, 2.0):
            writer.write(np.zeros((31, 40, 3), np.uint8), seconds=seconds)
    with av.open(str(tmp_path / "v.mp4")) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == pytest.approx([0, 0.04, 0.5, 0.501, 2.0], abs=1e-6)
    with pytest.raises(ValueError, match="a picture of"):
        write_two_sizes(tmp_path / "w.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def write_two_sizes(path: Path) -> None:
    with Mp4Writer(path, fps=30) as writer:
        writer.write(np.zeros((31, 40, 3), np.uint8))
        writer.write(np.zeros((32, 40, 3), np.uint8))


def frame_of(source: str, seconds: float, size: tuple[int, int]) -> PixelPrediction:
    output = ClassMap(np.zeros(size, np.uint8), ("a", "b"))
    return PixelPrediction(source, seconds, seconds + 0.1, output=output, pixels=np.zeros((*size, 3), np.uint8))


def test_several_videos_are_files_of_their_own_and_another_size_is_one_line(tmp_path):
    names = {"x": Path("below/x"), "y": Path("y")}
    with PictureFiles(overlays=tmp_path / "over", masks=tmp_path / "masks", names=names) as files:
        for source in names:
            for number in range(3):
                files.write(frame_of(source, 5 + 0.1 * number, (40, 50)))
    for name in ("below/x", "y"):
        with av.open(str(tmp_path / "over" / f"{name}.mp4")) as container:
            assert len(list(container.decode(video=0))) == 3
        assert len(list((tmp_path / "masks" / name).iterdir())) == 3
    with pytest.raises(UserError, match=r"x: a picture of .* write --masks only"):
        draw_two_sizes(tmp_path / "again", names)
    assert not list((tmp_path / "again").rglob("*.mp4"))


def draw_two_sizes(folder: Path, names: dict[str, Path]) -> None:
    with PictureFiles(overlays=folder, masks=None, names=names) as files:
        files.write(frame_of("x", 0, (40, 50)))
        files.write(frame_of("x", 0.1, (50, 40)))
