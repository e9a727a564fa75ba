"""Boxes and masks of objects follow the pixels of their views, and the truth of the file stays as it is."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from mvrec.data.listing.objects.table import ObjectPacking
from mvrec.data.views.geometry import Box, Geometry
from mvrec.data.views.mask_augment import PhotometricDistortion
from mvrec.data.views.objects import Objects, shapes
from mvrec.data.views.objects.augment import (
    ObjectAugment,
    ObjectCrop,
    ScaleJitter,
    choose_angle,
    choose_object_geometry,
    turned_frames,
)
from mvrec.data.views.objects.shapes import stacked
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError

HEIGHT, WIDTH = 90, 120
WHOLE = Box(0, 0, HEIGHT, WIDTH)
TRIANGLES = ([10.25, 8, 60, 12.5, 30, 55.75], [70, 20, 110.5, 25, 104, 80, 66, 77.3])  # one object of two parts
PENTAGON = ([24, 40.5, 60, 46, 75.2, 62, 58, 83, 21, 71],)
GEOMETRIES = {
    "as it is": Geometry(WHOLE, (HEIGHT, WIDTH)),
    "cut, enlarged and mirrored": Geometry(Box(5, 12, 70, 90), (140, 175), flip=True, antialias=False),
    "reduced": Geometry(WHOLE, (61, 83), antialias=False),
    "cropped after scaling": Geometry(WHOLE, (120, 150), Box(10, 20, 100, 110), antialias=False),
    "padded": Geometry(Box(0, 30, 80, 90), (100, 112), flip=True, padded=(128, 128), antialias=False),
}


def annotations(*objects, height=HEIGHT, width=WIDTH, image_id=7):
    """The objects of an image: a label, a box, and the options of `add_object`."""
    packed = ObjectPacking("some.json")
    image = packed.add_image("images/a.png", height, width, image_id)
    for label, box, options in objects:
        packed.add_object(image, label, box, **options)
    return packed.table([f"class {number}" for number in range(10)]).objects(0)


def target(*objects, frame=(HEIGHT, WIDTH), evaluated=False, **options):
    objects = annotations(*objects)
    return Objects(objects, "images/a.png", evaluated=evaluated, **options).in_frame(*frame)


def filled(polygons, height=HEIGHT, width=WIDTH):
    return coco.decode(coco.merge(coco.frPyObjects([list(map(float, part)) for part in polygons], height, width)))


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def box_around(polygons):
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in polygons])
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return x1, y1, x2 - x1, y2 - y1


def with_runs(polygons):
    return {"runs": bytes(coco.encode(np.asfortranarray(filled(polygons)))["counts"])}


@pytest.mark.parametrize("angle", [0.0, 25.0, -140.0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_masks_and_boxes_follow_the_pixels(name, angle):
    geometry = GEOMETRIES[name]
    outlines = [TRIANGLES, PENTAGON]
    frames = np.stack([np.repeat(255 * filled(outline)[..., None], 3, 2) for outline in outlines])
    objects = [
        (number, box_around(outline), options)
        for number, outline in enumerate(outlines)
        for options in ({"polygons": outline}, with_runs(outline))
    ]
    if angle:
        frames = turned_frames(frames, angle, padding=(0, 0, 0))
    (single,) = Objects.batched([target(*objects).turned(angle).moved(geometry)])
    shown = views_of(frames, [geometry], padding=(0, 0, 0))[0, :, 0] > 127
    height, width = single["size"].tolist()
    assert (height, width) == geometry.content_size
    assert single["masks"].shape == (4, height, width)
    for label, box, mask in zip(single["labels"], single["boxes"], single["masks"], strict=True):
        pixels = shown[label, :height, :width].numpy()
        inter, union = (pixels & mask.numpy()).sum(), (pixels | mask.numpy().astype(bool)).sum()
        assert inter / union > 0.93, (label, inter / union)
        assert np.abs(box.numpy() - box_of(pixels)).max() <= 2.0


def test_polygons_are_filled_as_pycocotools_fills_them_also_over_the_border():
    rng = np.random.default_rng(0)
    for _ in range(60):
        sizes = rng.integers(3, 9, rng.integers(1, 3))
        parts = [(rng.random((size, 2)) * [210, 170] - [20, 20]).round(1) for size in sizes]  # many ties of fifths
        expected = filled([part.ravel() for part in parts], 133, 171)
        assert np.array_equal(stacked([shapes.filled(parts, 133, 171)], 133, 171)[0], expected)
    assert shapes.filled([np.array([[-9.0, -9], [-1, -9], [-1, -1]])], 20, 20) is None
    far = shapes.filled([np.array([[0.0, 0], [1e9, 0], [1e9, 1e9], [0, 1e9]])], 20, 20)
    assert far.pixels.shape == (20, 20)


def test_a_view_has_what_it_shows_of_each_object():
    box = (20.5, 10.25, 30.0, 40.5)
    objects = [
        (3, box, {"polygons": [[20.5, 10.25, 50.5, 10.25, 20.5, 50.75]]}),  # cut: a triangle's visible part
        (4, (70, 60, 20, 20), {"polygons": [[70, 60, 90, 60, 90, 80, 70, 80]]}),  # whole: its own box stays
        (5, (0, 0, 119, 89), {"crowd": True, "polygons": [[0, 0, 119, 0, 119, 89]]}),
        (6, (80, 70, 0.4, 9), {"polygons": [[80, 70, 80.4, 70, 80.4, 79]]}),  # narrower than a pixel
        (7, (95, 65, 10, 5), {}),  # without an outline
        (8, (2, 2, 10, 4), {"polygons": [[2, 2, 12, 2, 12, 6]]}),  # outside
        (9, (30, 10, 40, 60), {"polygons": [[30, 10, 70, 10, 30, 60], [40, 65, 44, 65, 44, 70]]}),
    ]
    geometry = Geometry(Box(30, 20, 60, 100), (120, 200))
    (single,) = Objects.batched([target(*objects).moved(geometry)])
    assert single["labels"].tolist() == [3, 4, 7, 9]
    assert torch.equal(single["boxes"][1], torch.tensor([100.0, 60.0, 140.0, 100.0]))
    assert torch.equal(single["boxes"][2], torch.tensor([150.0, 70.0, 170.0, 80.0]))
    assert single["masks"][2, 70:80, 150:170].all()
    assert int(single["masks"][2].sum()) == 200
    assert single["masks"].dtype == torch.uint8
    for number in (0, 3):
        assert single["boxes"][number].tolist() == box_of(single["masks"][number].numpy())
    assert single["boxes"][0, 2] < 32  # the triangle is narrow down there, its box is not
    (plain,) = Objects.batched([target(*objects, masks=False).moved(geometry)])
    assert plain.keys() == {"boxes", "labels", "size"}
    assert torch.equal(plain["boxes"][0], torch.tensor([1.0, 0.0, 61.0, 41.5]))


def test_a_view_without_objects_has_empty_tensors():
    for objects in ([], [(1, (100, 80, 10, 5), {"polygons": [[100, 80, 110, 80, 110, 85]]})]):
        (single,) = Objects.batched([target(*objects).moved(Geometry(Box(0, 0, 40, 40), (32, 32)))])
        tensors = {name: (tuple(values.shape), values.dtype) for name, values in single.items()}
        assert tensors == {
            "boxes": ((0, 4), torch.float32),
            "labels": ((0,), torch.int64),
            "size": ((2,), torch.int64),
            "masks": ((0, 32, 32), torch.uint8),
        }


OBJECTS = [
    (1, (10.1, 8.3, 50.7, 47.2), {"polygons": TRIANGLES, "area": 1234.5, "object_id": 41}),
    (0, (3, 4, 20, 30), {"object_id": 43}),
    (2, (21, 40.5, 54.2, 42.5), {"crowd": True, "object_id": 40, **with_runs(PENTAGON)}),
]


def test_an_evaluation_has_the_truth_as_the_file_has_it():
    (single,) = Objects.batched([target(*OBJECTS, evaluated=True).moved(Geometry(WHOLE, (180, 252)))])
    assert "masks" not in single
    assert single["labels"].tolist() == [1, 0]
    assert torch.allclose(single["boxes"][1], torch.tensor([6.3, 8.0, 48.3, 68.0]))
    assert single["scale"].tolist() == [2.1, 2.0]
    assert (single["frame"].tolist(), single["size"].tolist()) == ([HEIGHT, WIDTH], [180, 252])
    assert int(single["image_id"]) == 7
    assert single["truth_boxes"].tolist() == [list(map(float, box)) for _, box, _ in OBJECTS]
    assert single["truth_labels"].tolist() == [1, 0, 2]
    assert single["truth_crowd"].tolist() == [False, False, True]
    assert single["truth_areas"].tolist() == [1234.5, 600.0, 54.2 * 42.5]
    assert single["truth_ids"].tolist() == [41, 43, 40]
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[4:34, 3:23] = 1
    for runs, expected in zip(single["truth_masks"], (filled(TRIANGLES), square, filled(PENTAGON)), strict=True):
        assert np.array_equal(coco.decode({"size": [HEIGHT, WIDTH], "counts": runs}), expected)
    (boxes,) = Objects.batched([target(*OBJECTS, evaluated=True, outlined=False).moved(Geometry(WHOLE, (90, 120)))])
    assert boxes["truth_masks"] is None


def test_a_file_that_cannot_be_read_has_its_truth_alone():
    unread = Objects(annotations(*OBJECTS), "images/a.png")
    (single,) = Objects.batched([unread])
    assert (len(single["boxes"]), single["frame"].tolist()) == (0, [HEIGHT, WIDTH])
    assert len(single["truth_boxes"]) == len(single["truth_masks"]) == 3
    unknown = Objects(annotations(*OBJECTS[:2], height=0, width=0), "images/a.png")
    assert Objects.batched([unknown])[0]["truth_masks"] is None


def test_an_image_of_another_size_is_one_line_that_names_file_and_remedy():
    box = (1, (10, 10, 20, 20), {})
    with pytest.raises(DecodeError, match=r"a\.png: the image has 100x90 pixels, some\.json says 120x90 \(image 7\)"):
        target(box, frame=(90, 100))
    with pytest.raises(DecodeError, match=r"its EXIF block turns it; annotate it .* or set data\.upright false"):
        target(box, frame=(WIDTH, HEIGHT))
    unknown = Objects(annotations((1, (60, 10, 20, 20), {"object_id": 5}), height=0, width=0), "images/a.png")
    assert unknown.in_frame(50, 61).frame == (50, 61)
    with pytest.raises(DecodeError, match=r"object 5 with the box 60, 10, 20, 20 lies outside the image of 60x50 pix"):
        unknown.in_frame(50, 60)


def ways(height, width, count=200, **options):
    augment = ObjectAugment(**options)
    return [choose_object_geometry(height, width, augment=augment, seed=seed) for seed in range(count)]


def test_views_have_one_of_the_short_sides_and_no_long_side_above_the_limit():
    sides = (480, 512, 800)
    sizes = {way.size for way in ways(480, 640, short_sides=sides)}
    assert sizes == {(480, 640), (512, 683), (800, 1067)}
    assert {way.size for way in ways(300, 1000, short_sides=sides)} == {(400, 1333)}
    unscaled = ways(37, 53, short_sides=None)
    assert {(way.box, way.size) for way in unscaled} == {(Box(0, 0, 37, 53), (37, 53))}
    assert 70 < sum(way.flip for way in unscaled) < 130
    assert not any(way.flip for way in ways(37, 53, flip_probability=0.0))


def test_a_crop_before_scaling_has_the_sides_of_the_recipe_in_the_scaled_image():
    crops = ways(480, 640, count=400, short_sides=(800,), crop=ObjectCrop())
    whole = [way for way in crops if way.box == Box(0, 0, 480, 640)]
    assert 150 < len(whole) < 250
    areas = set()
    for way in crops:
        scale = way.size[0] / way.box.height
        assert abs(scale - way.size[1] / way.box.width) * max(way.box[2:]) < 2
        assert min(way.size) == 800 or max(way.size) == 1333
        assert 0 <= way.box.top <= 480 - way.box.height
        assert 0 <= way.box.left <= 640 - way.box.width
        areas.add((way.box.height, way.box.width))
    # 384 of a short side of 600 is 307 of 480 pixels, 600 of a short side of 400 is all of them.
    heights, widths = zip(*areas, strict=True)
    assert (min(heights), max(heights)) == (pytest.approx(307, abs=8), 480)
    assert (min(widths), max(widths)) == (pytest.approx(307, abs=12), 640)
    tiny = ways(30, 40, short_sides=(64,), longest=100, crop=ObjectCrop(1.0, (50,), 100, (40, 90)))
    assert all(way.box.height >= 24 for way in tiny)


def test_scale_jitter_makes_squares_padded_at_the_bottom_and_the_right():
    factors = []
    for way in ways(300, 400, jitter=ScaleJitter(256, (0.1, 2.0))):
        assert way.view_size == (256, 256)
        assert way.padded == (None if way.size == (256, 256) else (256, 256))
        factors.append(way.size[1] / way.box.width * 400 / 256)
    assert 0.1 <= min(factors) < 0.2
    assert 1.8 < max(factors) < 2.02


def test_angles_cover_their_range_and_follow_from_the_seed():
    angles = [choose_angle(ObjectAugment(rotation=20.0), seed=seed) for seed in range(100)]
    assert angles[3] == choose_angle(ObjectAugment(rotation=20.0), seed=3)
    assert -20 <= min(angles) < -15
    assert 15 < max(angles) <= 20
    assert ways(9, 9, 5, photometric=PhotometricDistortion()) == ways(9, 9, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_sides": ()}, "short_sides must have a number of pixels"),
        ({"short_sides": (0,)}, "short_sides must lie in 1..16384, got 0"),
        ({"rotation": 200.0}, "rotation must lie in 0..180"),
    ],
)
def test_ranges_that_make_no_view_are_refused(options, message):
    with pytest.raises((ValueError, DecodeError), match=message):
        ObjectAugment(**options)
    with pytest.raises(ValueError, match="sides must be two ascending numbers of pixels, got 9, 3"):
        ObjectCrop(sides=(9, 3))
    with pytest.raises(ValueError, match="ratio must be two ascending positive numbers, got 2, 1"):
        ScaleJitter(ratio=(2, 1))
