"""Masks of boxes in images, and their run lengths."""

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.rle import encoded

HEIGHT, WIDTH = 60, 80


def objects() -> tuple[Tensor, Tensor]:
    """Masks (N, 28, 28) and boxes (N, 4): all over the image, beyond its border, over all of it, narrow, empty."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, 1, 5, 5, generator=generator)
    probabilities = F.interpolate(coarse, size=(28, 28), mode="bilinear")[:, 0]
    start = torch.rand(40, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([start, start + torch.rand(40, 2, generator=generator) * 50], 1)
    boxes[:4] = torch.tensor([[-7.3, -4.6, 90.2, 70.1], [0, 0, WIDTH, HEIGHT], [30.2, 10, 30.7, 50], [20, 20, 20, 40]])
    probabilities[1] = 1.0
    return probabilities, boxes


def test_a_pixel_belongs_to_an_object_by_the_probability_at_its_centre() -> None:
    probabilities, boxes = objects()
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
    y, x = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    across = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    down = (y - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack([across[:, None].expand(-1, HEIGHT, -1), down[:, :, None].expand(-1, -1, WIDTH)], 3)
    chances = F.grid_sample(probabilities[:, None], grid, align_corners=False)[:, 0]
    masks = paste_masks(probabilities, boxes, HEIGHT, WIDTH)
    certain = ((chances - 0.5).abs() > 1e-5) & solid[:, None, None]
    assert certain.float().mean() > 0.9
    assert torch.equal(masks[certain], (chances >= 0.5)[certain])
    assert masks[1].sum() == HEIGHT * WIDTH - 4  # its corners are less than half
    assert not masks[3].any()


def test_masks_of_torchvision_are_its_own_to_the_pixel() -> None:
    probabilities, boxes = objects()
    reference = paste_masks_in_image(probabilities[:, None], boxes, (HEIGHT, WIDTH))[:, 0] >= 0.5
    assert torch.equal(paste_masks(probabilities, boxes, HEIGHT, WIDTH, style="torchvision"), reference)
    assert not torch.equal(paste_masks(probabilities, boxes, HEIGHT, WIDTH), reference)


@pytest.mark.parametrize("style", ["mmdetection", "torchvision"])
def test_run_lengths_are_those_of_whole_masks(style: str) -> None:
    probabilities, boxes = objects()
    masks = paste_masks(probabilities, boxes, HEIGHT, WIDTH, style=style)
    reference = coco.encode(masks.permute(1, 2, 0).byte().numpy().copy(order="F"))
    assert encoded(probabilities, boxes, HEIGHT, WIDTH, style=style) == reference
    assert encoded(probabilities[:0], boxes[:0], HEIGHT, WIDTH) == []


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        self.size = max([self.size, *(x.nbytes for x in results if isinstance(x, Tensor))])
        return result


def test_a_hundred_masks_of_a_large_image_take_the_memory_of_one() -> None:
    height, width = 3000, 4000
    probabilities = torch.full((100, 28, 28), 0.9)
    boxes = torch.rand(100, 4, generator=torch.Generator().manual_seed(0)) * 100
    boxes[:, 2:] += 300
    boxes[0] = torch.tensor([0.0, 0, width, height])
    with Largest() as largest:
        codes = encoded(probabilities, boxes, height, width)
    assert len(codes) == 100
    assert coco.area(codes[0]) > 0.99 * height * width
    assert largest.size <= 4 * height * width
