"""Objects of large images by tiles, each of them once."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from mvrec.data.views.geometry import Box
from mvrec.data.views.protocol import DetectionProtocol
from mvrec.inference.objects.detecting import objects_in
from mvrec.inference.objects.knobs import ObjectKnobs
from mvrec.inference.objects.tiles import Candidates, is_cut, merged, tiles_of
from mvrec.inference.recogniser import Recogniser
from mvrec.models.heads.detection.results import Detections
from mvrec.tasks.detection.outputs import DetectionOutputs

LEAST_SIDE = 16  # pixels of an object in the network's input, for the finder to see it


class Finder(nn.Module):
    """Finds bright rectangles, of class 1 if they are green, unless they are small."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.head = nn.Identity()
        self.head.arguments = {"nms_threshold": 0.5}

    def forward(self, x, images):
        boxes, labels = [], []
        for rows, columns in ndimage.find_objects(ndimage.label(x[0, 1].numpy() > 0)[0]):
            if min(rows.stop - rows.start, columns.stop - columns.start) >= LEAST_SIDE:
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                labels.append(int(x[0, 0, rows, columns].mean() < 0))
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        scores = 0.5 + (corners[:, 2:] - corners[:, :2]).amin(1) / 1000
        return [Detections(images[0].in_frame(corners), scores, torch.tensor(labels))]


def recogniser(protocol_name: str = "mmdetection-600x400") -> Recogniser:
    protocol = DetectionProtocol.named(protocol_name)
    return Recogniser(
        Finder(), DetectionOutputs(["white", "green"], {"style": "mmdetection"}), protocol, Path("weights")
    )


def test_small_objects_in_a_large_image_are_found_once_each_and_a_large_one_is_whole():
    generator = np.random.default_rng(0)
    image, placed = np.zeros((3, 800, 1200), np.uint8), []
    places = [(y, x) for y in range(20, 760, 60) for x in range(20, 1100, 60) if not (330 < y < 560 and 380 < x < 960)]
    for row in generator.permutation(len(places))[:60]:
        (y, x), sides = places[row], ((12, 18), (18, 12))[row % 2]
        image[row % 2 : 2, y : y + sides[0], x : x + sides[1]] = 255
        placed.append((x, y, x + sides[1], y + sides[0]))
    image[:2, 400:520, 420:920] = 255
    placed.append((420, 400, 920, 520))
    whole = objects_in(recogniser(), torch.from_numpy(image), ObjectKnobs())
    assert len(whole) == 1
    objects = objects_in(recogniser(), torch.from_numpy(image), ObjectKnobs(tiles=256, overlap=0.25))
    distances = np.abs(objects.boxes[:, None] - np.array(placed)[None]).max(2)
    assert len(objects) == len(placed)
    assert sorted(distances.argmin(1)) == list(range(len(placed)))
    assert distances.min(1).max() < 3
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    assert np.array_equal(objects.labels, sides[:, 1] > sides[:, 0])
    assert (np.diff(objects.scores) <= 0).all()


def test_the_whole_image_next_to_tiles_is_as_large_as_one_if_the_network_sees_images_in_their_own_size():
    detector, sides = recogniser("whole"), []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: sides.append(max(inputs[0].shape[-2:])))
    image = torch.zeros(3, 400, 600, dtype=torch.uint8)
    image[:, 100:300, 200:500] = 255
    objects = objects_in(detector, image, ObjectKnobs(tiles=128))
    assert max(sides) == 128
    np.testing.assert_allclose(objects.boxes, [[200, 100, 500, 300]], atol=3)


def test_tiles_cover_an_image_and_overlap():
    for height, width, side in ((800, 1200, 256), (100, 700, 256), (256, 257, 256), (50, 60, 256)):
        tiles = tiles_of(height, width, side=side, overlap=0.2)
        covered = np.zeros((height, width), int)
        for tile in tiles:
            assert tile.height == min(side, height)
            covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
            assert tile.top + tile.height <= height
        assert covered.min() > 0
        assert len(set(tiles)) == len(tiles)
        lefts = sorted({tile.left for tile in tiles})
        assert all(after - before <= 0.8 * side + 1 for before, after in pairwise(lefts))


def test_boxes_at_a_border_between_tiles_are_cut_and_those_at_the_border_of_the_image_are_not():
    tile = Box(100, 200, 300, 300)
    boxes = np.array(
        [[201, 150, 230, 170], [300, 180, 340, 399], [300, 200, 499, 250], [300, 101, 330, 120]], np.float32
    )
    assert is_cut(boxes, tile, height=1000, width=1000).tolist() == [True, True, True, True]
    assert is_cut(boxes, tile, height=400, width=500).tolist() == [True, False, False, True]
    assert not is_cut(boxes + 50, Box(150, 250, 400, 400), height=1000, width=1000)[1]


def test_a_part_goes_where_the_whole_is_and_others_stay():
    boxes = np.array(
        [[0, 0, 100, 100], [2, 2, 98, 98], [0, 0, 30, 90], [0, 0, 30, 90], [0, 0, 30, 90], [70, 0, 190, 100]]
    )
    values = (np.array([0.6, 0.9, 0.99, 0.98, 0.5, 0.7], np.float32), np.array([0, 0, 0, 1, 0, 0]))
    cut = np.array([False, True, True, True, False, True])
    winners = merged(Candidates(boxes.astype(np.float32), *values, cut), threshold=0.5)
    # The whole box wins over a cut one with a higher score; the part goes; another class, an uncut one and one that
    # lies outside for the most part stay.
    assert winners.tolist() == [3, 5, 0, 4]
