"""Cascade R-CNN: three second stages, each on the boxes of the one before (Cai and Vasconcelos 2018, 1712.00726)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from mvrec.models.heads.detection.masks import MaskBranch
from mvrec.models.heads.detection.results import Detections, ImageSize, Style
from mvrec.models.heads.detection.roi_heads import BoxBranch, Choice, Samples, detections_in_frame

IOUS = (0.5, 0.6, 0.7)  # from which on a box belongs to an object, stage by stage
# Of the four corrections. mmdetection writes standard deviations, rounded.
WEIGHTS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "mmdetection": tuple(
        (1 / centre, 1 / centre, 1 / side, 1 / side) for centre, side in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
    ),
    "detectron2": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
}
BETA = {"mmdetection": 1.0, "detectron2": 0.0}  # of the smooth L1 loss of corrections
LOSS_WEIGHTS = {"mmdetection": (1.0, 0.5, 0.25), "detectron2": (1.0, 1.0, 1.0)}


class CascadeHeads(nn.Module):
    """Three branches of boxes in a row, and branches of masks.

    mmdetection samples boxes for each stage, adds the true ones each time, has a branch of masks per stage, and answers
    with the mean of logits and of the masks' probabilities. detectron2 samples once, has one branch of masks, on the
    boxes of the first stage, divides the gradient of the maps by 3, and answers with the mean of probabilities.

    Args:
        boxes: A branch for each stage.
        masks: The branches of masks: none, one for each stage, or in style "detectron2" one.
        style: "mmdetection" or "detectron2".
        choice: What is kept of the answers.
    """

    def __init__(
        self, boxes: Sequence[BoxBranch], masks: Sequence[MaskBranch], *, style: Style, choice: Choice
    ) -> None:
        super().__init__()
        self.boxes = cast("Sequence[BoxBranch]", nn.ModuleList(boxes))
        self.masks = cast("Sequence[MaskBranch]", nn.ModuleList(masks))
        self.style, self.choice = style, choice

    def losses(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        proposals: Sequence[Tensor],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the losses "class_1", "box_1", with branches for them "mask_1", and so on for each stage.

        Args:
            maps: (B, C, H_i, W_i).
            size: (height, width) of the padded batch in pixels.
            proposals: For each image (N, 4) in pixels of the batch.
            images: Their sizes.
            targets: For each image its "boxes" (M, 4), "labels" int64 (M,) and "masks" uint8 (M, h, w).
        """
        losses: dict[str, Tensor] = {}
        levels = maps if self.style == "mmdetection" else [_with_share_of_gradient(x, len(self.boxes)) for x in maps]
        for stage, (branch, weight) in enumerate(zip(self.boxes, LOSS_WEIGHTS[self.style], strict=True)):
            if stage == 0 or self.style == "mmdetection":
                samples = branch.sample(proposals, targets)
            else:
                samples = branch.label(proposals, targets)
            logits, deltas = branch(levels, samples.boxes)
            stage_losses = branch.losses(logits, deltas, samples, targets)
            if stage < len(self.masks):
                stage_losses["mask"] = self.masks[stage].loss(maps, size, *samples.positive(), targets)
            losses |= {f"{name}_{stage + 1}": loss * weight for name, loss in stage_losses.items()}
            with torch.no_grad():
                proposals = self._refined_samples(branch, deltas, samples, images, targets)
        return losses

    def _refined_samples(
        self,
        branch: BoxBranch,
        deltas: Tensor,
        samples: Samples,
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> list[Tensor]:
        """Return the boxes of the next stage: the corrected samples."""
        refined = _refined(branch, deltas, samples.boxes, images)
        if self.style == "detectron2":
            solid = [each[(each[:, 2:] > each[:, :2]).all(1)] for each in refined]
            return solid if any(map(len, solid)) else refined  # normalisation needs a number
        boxes = []
        for each, before, objects, labels, target in zip(refined, *samples, targets, strict=True):
            if len(target["boxes"]):  # of which those among the samples are added again
                each = each[~((before == target["boxes"][objects]).all(1) & (labels > 0))]
            boxes.append(each)
        return boxes

    def forward(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], images: Sequence[ImageSize]
    ) -> list[Detections]:
        """Return the detections of each image.

        Args:
            maps: (B, C, H_i, W_i).
            proposals: For each image (N, 4) in pixels of the batch.
            images: Their sizes.
        """
        boxes, outputs = list(proposals), []
        for branch in self.boxes:
            logits, deltas = branch(maps, boxes)
            outputs.append(logits if self.style == "mmdetection" else logits.softmax(1))
            boxes = _refined(branch, deltas, boxes, images)
        scores = torch.stack(outputs).mean(0)
        if self.style == "mmdetection":
            scores = scores.softmax(1)
        rows = zip(scores[:, 1:].split([*map(len, boxes)]), boxes, images, strict=True)
        answers = [self._answers(*row) for row in rows]
        masks = self._masks(maps, [each[0] for each in answers], [each[2] for each in answers])
        return [
            detections_in_frame(*answer, mask, image=image, style=self.style)
            for answer, mask, image in zip(answers, masks, images, strict=True)
        ]

    def _answers(self, scores: Tensor, boxes: Tensor, image: ImageSize) -> tuple[Tensor, Tensor, Tensor]:
        return self.choice.best(scores, lambda places, _labels: boxes[places], image, style=self.style)

    def _masks(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        if not self.masks:
            return [None] * len(boxes)
        of_stages = [branch.probabilities(maps, boxes, labels) for branch in self.masks]
        return [torch.stack(each).mean(0) for each in zip(*of_stages, strict=True)]


def _refined(branch: BoxBranch, deltas: Tensor, boxes: Sequence[Tensor], images: Sequence[ImageSize]) -> list[Tensor]:
    """Return the corrected boxes (N, 4) of each image, cut to it, from corrections (sum of N, 1, 4)."""
    corrected = branch.box_coder.decode_single(deltas.flatten(1), torch.cat(list(boxes)))
    pairs = zip(corrected.split([*map(len, boxes)]), images, strict=True)
    return [clip_boxes_to_image(each, image[:2]) for each, image in pairs]


def _with_share_of_gradient(level: Tensor, stages: int) -> Tensor:
    """Return the same numbers, whose gradient is divided by the number of stages."""
    level = level.view_as(level)
    if level.requires_grad:
        level.register_hook(lambda gradient: gradient / stages)
    return level
