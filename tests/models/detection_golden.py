"""Our detectors next to mmdetection's recorded outputs; dense_golden.py has the weights and the maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from dense_golden import digest_error, number_error
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from mvrec.models.heads.detection.anchors import Anchors
from mvrec.models.heads.detection.results import Detections, ImageSize

STRIDES = (4, 8, 16, 32)  # of the recorded maps
TRAINING_SETS = ("all_with_objects", "last_without_objects")
NECK = {"neck.lateral_convs.": "neck.inner_blocks.", "neck.fpn_convs.": "neck.layer_blocks."}


def neck_name(name: str, finest: int = 0) -> str:
    """Our name of a parameter of mmdetection's neck, whose finest map has this number."""
    for prefix, replacement in NECK.items():
        if name.startswith(prefix):
            number, kind = name.removeprefix(prefix).split(".conv.")
            coarser = int(number) - (len(STRIDES) - finest)
            if coarser < 0:
                return f"{replacement}{number}.0.{kind}"
            return f"neck.extra_blocks.{('p6', 'p7')[coarser]}.{kind}"
    return name


def image_sizes(spec: Mapping[str, Any]) -> list[ImageSize]:
    return [ImageSize(*image["img_shape"], *image["scale_factor_w_h"]) for image in spec["input"]["images"]]


def batch_size(spec: Mapping[str, Any]) -> list[int]:
    return spec["input"]["images"][0]["padded_shape"]


def objects(spec: Mapping[str, Any], training_set: str) -> list[dict[str, Tensor]]:
    """The objects of each image, whose masks are the ellipses in their boxes."""
    height, width = batch_size(spec)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    targets = []
    for image in spec["input"]["ground_truth"][training_set]:
        boxes = torch.tensor(image["boxes"]).reshape(-1, 4)
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, image["boxes"], strict=True):
            across, down = (columns - (x1 + x2) / 2) / ((x2 - x1) / 2), (rows - (y1 + y2) / 2) / ((y2 - y1) / 2)
            mask[across**2 + down**2 <= 1] = 1
        labels = torch.tensor(image["labels"], dtype=torch.int64)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return targets


class EvenSampler(BalancedPositiveNegativeSampler):
    """The recording's choice of n of m numbers, in place of a random one: those at floor(j * m / n)."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positives, negatives = [], []
        for labels in matched_idxs:
            most = int(self.batch_size_per_image * self.positive_fraction)
            numbers_of_objects = self._spread(torch.where(labels >= 1)[0], most)
            rest = self._spread(torch.where(labels == 0)[0], self.batch_size_per_image - len(numbers_of_objects))
            for numbers, masks in ((numbers_of_objects, positives), (rest, negatives)):
                masks.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill(0, numbers, 1))
        return positives, negatives

    @staticmethod
    def _spread(numbers: Tensor, count: int) -> Tensor:
        if len(numbers) <= count:
            return numbers
        return numbers[torch.arange(count) * len(numbers) // count]


def check_anchors(anchors: Anchors, maps: Sequence[Tensor], spec: Mapping[str, Any]) -> None:
    recorded = spec["outputs"]["anchors"]
    for level, rows in zip(recorded, anchors.of_levels(maps, batch_size(spec)), strict=True):
        assert len(rows) == level["count"]
        torch.testing.assert_close(rows[: len(level["first_rows"])], torch.tensor(level["first_rows"]))
        torch.testing.assert_close(rows[-1], torch.tensor(level["last_row"]))
        assert abs(rows.double().sum().item() - level["sum"]) <= 1e-6 * level["abs_sum"]


def check_maps(maps: Sequence[Tensor], recorded: Sequence[Mapping[str, Any]]) -> None:
    for level, digest in zip(maps, recorded, strict=True):
        assert digest_error(level, digest) <= 2e-5


def check_detections(detections: Detections, recorded: Mapping[str, Any], *, scores: float = 1e-6) -> None:
    """The same detections in the same order; the first ones, where only these are recorded.

    Scores of two stages differ by more than 1e-6 between processors: the recorded float32 is as far from float64.
    """
    assert len(detections.boxes) == recorded["count"]
    count = len(recorded["boxes"])
    assert detections.labels[:count].tolist() == recorded["labels"]
    assert (detections.scores[:count] - torch.tensor(recorded["scores"])).abs().max() <= scores
    assert (detections.boxes[:count] - torch.tensor(recorded["boxes"])).abs().max() <= 1e-3


def check_gradients(
    module: nn.Module, maps: Sequence[Tensor], recorded: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Gradients of parameters, whose names `names` translates, and of the maps, after the backward pass of losses."""
    for name, norm in recorded["grad_norm"].items():
        gradient = module.get_parameter(names[name]).grad
        assert gradient is not None
        assert number_error(gradient.norm().item(), norm) <= 1e-4, name
    norms = [0.0 if level.grad is None else level.grad.norm().item() for level in maps]
    errors = [number_error(*pair) for pair in zip(norms, recorded["grad_norm_input"], strict=True)]
    assert max(errors) <= 1e-4
