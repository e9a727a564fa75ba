"""Findings about clips and crops that leave out the labelled part."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mvrec.data.generated.digit_boxes import generate_digit_boxes
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import Box, Geometry
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.transforms import Augment
from mvrec.looking.audit.command import data_of, indices_of
from mvrec.looking.audit.findings import File, Settings
from mvrec.looking.audit.left_out import cropped_boxes, left_out, region_of, seen_shares
from mvrec.looking.audit.looks import MOMENTS, look_of
from mvrec.looking.audit.reading import Seen

CLIP = ClipSpec(num_frames=8, stride_frames=2, target_fps=16.0)  # a second


def seen(seconds: float = 10.0, left: int = 28) -> Seen:
    """A wide video in which a square moves down at a distance from the left."""
    frames = np.full((len(MOMENTS), 32, 64, 3), 60, np.uint8)
    for moment, frame in enumerate(frames):
        frame[moment : moment + 8, left : left + 8] = 250
    return Seen(look_of(frames, seconds=seconds, count=round(16 * seconds)))


def file(start: float | None = None, end: float | None = None, name: str = "a.mp4") -> File:
    return File("train", name, ("push",), (start, end))


def test_clips_much_shorter_or_longer_than_the_labelled_part_are_named_with_their_shares() -> None:
    files = [file(0, 8), file(2, None), file(1, 2), file(3, 3.25)]
    protocol = ClipProtocol(CLIP, Views(num_clips=3, short_side=32), size=32)
    short, long = left_out(files, [seen()] * 4, Settings(clip=CLIP), protocol)
    assert (short.kind, long.kind) == ("short clips", "long clips")
    assert "2 of 4 labelled parts, usually 8.0 s long, a training clip of 1.0 s shows 12 %" in short.text
    assert "the 3 clips of evaluation 38 %" in short.text
    assert long.files == ((3,),)
    (whole,) = left_out([file()], [seen()], Settings(clip=CLIP), None)
    assert "1 of 1 training videos, usually 10.0 s long" in whole.text
    segments = ClipSpec(num_frames=8, sampling="segments")
    assert not [*left_out(files, [seen()] * 4, Settings(clip=segments), None)]


def test_movement_at_the_border_is_named_unless_crops_cover_it() -> None:
    files = [file(name="a.mp4"), file(name="b.mp4")]
    reads = [seen(1.0, left=0), seen(1.0, left=28)]
    (finding,) = left_out(files, reads, Settings(), ClipProtocol(CLIP, Views(num_clips=1, short_side=32), size=32))
    assert finding.kind == "movement outside the crop"
    assert finding.files == ((0,),)
    three = ClipProtocol(CLIP, Views(num_clips=1, num_crops=3, short_side=32), size=32)
    assert not [*left_out(files, reads, Settings(), three)]


def test_random_crops_that_lose_the_movement_are_named() -> None:
    protocol = ClipProtocol(CLIP, Views(num_clips=1, num_crops=3, short_side=32), size=32)
    files, reads = [file()] * 20, [seen(1.0, left=28)] * 20
    (finding,) = left_out(files, reads, Settings(), protocol, Augment(crop_area=(0.05, 0.3)))
    assert finding.kind == "crops without the movement"
    assert "(crop_area 0.05 to 0.3) show less than a quarter" in finding.text
    assert not [*left_out(files, reads, Settings(), protocol, Augment(crop_area=(0.9, 1.0)))]


def test_a_region_is_that_of_the_frame_and_boxes_count_by_their_area_in_it() -> None:
    region = region_of(Geometry(Box(10, 20, 40, 80), (20, 40), Box(5, 10, 10, 20)))
    np.testing.assert_allclose(region, [40, 20, 80, 40])
    corners = np.array([[40.0, 20, 60, 30], [0, 0, 10, 10], [70, 30, 90, 50]])
    np.testing.assert_allclose(seen_shares(corners, region), [1, 0, 0.25])


def test_random_crops_that_leave_out_boxes_are_named(tmp_path: Path) -> None:
    generate_digit_boxes(tmp_path / "boxes", videos={"train": 4, "val": 1, "test": 1}, size=64)
    data = data_of(tmp_path / "boxes")
    files = [File(split, "a", ()) for split, rows in indices_of(data).items() for _ in rows]
    blank = Seen(look_of([np.zeros((64, 64, 3), np.uint8)], seconds=0.0, count=1))

    def kinds(crop_side: tuple[float, float]) -> list[str]:
        data.augment = replace(data.augment, crop_side=crop_side)
        return [finding.kind for finding in cropped_boxes(data, files, [blank] * len(files))]

    assert kinds((0.4, 0.5)) == ["cropped boxes"]
    assert kinds((0.95, 1.0)) == []
