"""The second stage of detectors: class, box and mask of each proposal (Girshick 2015; He et al. 2017)."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from mvrec.models.heads.detection.coding import BoxCoder, Matcher
from mvrec.models.heads.detection.masks import MaskBranch
from mvrec.models.heads.detection.pooler import Pooler
from mvrec.models.heads.detection.results import Detections, ImageSize, Style
from mvrec.models.heads.detection.rpn import BETAS, box_loss

CELLS = 7  # of features per side of a box
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the four corrections of a box
NARROWEST = 1e-2  # torchvision leaves out boxes with a shorter side in pixels


class Samples(NamedTuple):
    """The boxes that a training step looks at, for each image.

    Attributes:
        boxes: (N, 4) in pixels of the batch.
        objects: int64 (N,), the object that a box is trained on; 0 for background.
        labels: int64 (N,), its class, 1..K, or 0 for background.
    """

    boxes: list[Tensor]
    objects: list[Tensor]
    labels: list[Tensor]

    def positive(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return boxes and objects without background, for each image."""
        flags = [labels > 0 for labels in self.labels]
        boxes, objects = (
            [each[flag] for each, flag in zip(tensors, flags, strict=True)] for tensors in (self.boxes, self.objects)
        )
        return boxes, objects


class BoxBranch(nn.Module):
    """Class logits and corrections of boxes.

    Parameters have torchvision's names, with its background as the first class, whose corrections nothing reads.

    Args:
        strides: Pixels per cell of the maps that are read.
        channels: Channels of the maps.
        num_classes: K.
        style: Whose pooling, assignment and loss.
        width: Features of a box.
        convs: Convolutions before them, and one layer; 0 for two layers.
        norm: Whether convolutions have batch normalisation in place of a bias.
        iou: From which IoU on a box belongs to an object.
        weights: Of the four corrections.
        agnostic: Whether all classes share their corrections.
        beta: Of the smooth L1 loss of corrections; None for the style's.
        samples: Boxes of an image that a training step looks at; a quarter of them at most belong to an object.

    Attributes:
        fg_bg_sampler: Draws boxes; may be replaced.
    """

    def __init__(
        self,
        strides: Sequence[int],
        channels: int,
        num_classes: int,
        *,
        style: Style,
        width: int = 1024,
        convs: int = 0,
        norm: bool = False,
        iou: float = 0.5,
        weights: tuple[float, float, float, float] = WEIGHTS,
        agnostic: bool = False,
        beta: float | None = None,
        samples: int = 512,
    ) -> None:
        super().__init__()
        self.style = style
        self.box_roi_pool = Pooler(strides, CELLS, style=style)
        if convs:
            norm_layer = nn.BatchNorm2d if norm else None
            grid = (channels, CELLS, CELLS)
            self.box_head: nn.Module = FastRCNNConvFCHead(grid, [channels] * convs, [width], norm_layer=norm_layer)
        else:
            self.box_head = TwoMLPHead(channels * CELLS**2, width)
        self.box_predictor = FastRCNNPredictor(width, num_classes + 1)
        if agnostic:
            self.box_predictor.bbox_pred = nn.Linear(width, 4)
        if style != "torchvision":
            _start_small(self.box_predictor)
        self.agnostic, self.beta = agnostic, BETAS[style] if beta is None else beta
        self.box_coder = BoxCoder(weights, style=style)
        self.matcher = Matcher(iou, iou, style=style)
        self.fg_bg_sampler = BalancedPositiveNegativeSampler(samples, 0.25)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return float32 logits (sum of N, K + 1), background first, and corrections (sum of N, K + 1 or 1, 4).

        Args:
            maps: (B, C, H_i, W_i).
            boxes: For each image (N, 4) in pixels of the batch.
        """
        features = self.box_head(self.box_roi_pool(maps, boxes))
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would make many scores equal
            logits, deltas = self.box_predictor(features.to(self.box_predictor.cls_score.weight.dtype))
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    def sample(self, proposals: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Samples:
        """Choose boxes for a training step among the proposals (N, 4) and the true boxes of each image.

        Args:
            proposals: For each image.
            targets: For each image its "boxes" (M, 4) and "labels" int64 (M,), 0..K-1.
        """
        boxes = []
        for each, target in zip(proposals, targets, strict=True):
            truth = target["boxes"].float()
            boxes.append(torch.cat([truth, each] if self.style == "mmdetection" else [each, truth]))
        samples = self.label(boxes, targets)
        flags = zip(*self.fg_bg_sampler(samples.labels), strict=True)
        places = [torch.where(positive | negative)[0] for positive, negative in flags]
        return Samples(*([x[place] for x, place in zip(column, places, strict=True)] for column in samples))

    def label(self, boxes: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Samples:
        """Return all boxes (N, 4) of each image with their objects and labels; see `sample`."""
        objects, labels = [], []
        for each, target in zip(boxes, targets, strict=True):
            matches = self.matcher.assign(target["boxes"], each)
            objects.append(matches.clamp(min=0))
            classes = target["labels"] + 1 if len(target["labels"]) else matches.new_zeros(1)
            labels.append(classes[objects[-1]].masked_fill(matches < 0, 0))
        return Samples(list(boxes), objects, labels)

    def losses(
        self, logits: Tensor, deltas: Tensor, samples: Samples, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the losses "class" and "box", sums over the samples divided by their number.

        Args:
            logits: (sum of N, K + 1).
            deltas: (sum of N, K + 1 or 1, 4).
            samples: What they are of.
            targets: For each image its "boxes" (M, 4).
        """
        labels = torch.cat(samples.labels)
        places = torch.where(labels > 0)[0]
        boxes, objects = samples.positive()
        truth = torch.cat([target["boxes"].float()[each] for target, each in zip(targets, objects, strict=True)])
        own_deltas = deltas[places, 0 if self.agnostic else labels[places]]
        count = max(1, len(labels))
        wanted_deltas = self.box_coder.encode_single(truth, torch.cat(boxes))
        return {
            "class": F.cross_entropy(logits, labels, reduction="sum") / count,
            "box": box_loss(own_deltas, wanted_deltas, beta=self.beta) / count,
        }


def _start_small(predictor: FastRCNNPredictor) -> None:
    """Initialise the last layers as mmdetection and detectron2 do."""
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)


class Choice(NamedTuple):
    """Limits of a detector's answers.

    Attributes:
        score_threshold: Answers with this score or less are left out.
        nms_threshold: Answers that overlap a better one of their class by more than this IoU are left out.
        max_detections: Answers of an image.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    def best(
        self, scores: Tensor, decode: Callable[[Tensor, Tensor], Tensor], image: ImageSize, *, style: Style
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (D, 4) in pixels of the batch, scores (D,) and labels (D,) of the best answers, best first.

        Args:
            scores: (N, K) of proposals and classes.
            decode: Returns the boxes (n, 4) for n numbers of proposals and of classes.
            image: Its size; boxes are cut to it.
            style: Whose rule.
        """
        places, labels = torch.where(scores > self.score_threshold)
        boxes = clip_boxes_to_image(decode(places, labels), image[:2])
        scores = scores[places, labels]
        if style == "torchvision":
            keep = remove_small_boxes(boxes, NARROWEST)
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
        return boxes[keep], scores[keep], labels[keep]


def detections_in_frame(
    boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None, *, image: ImageSize, style: Style
) -> Detections:
    """Return the detections of a view's boxes (D, 4), in pixels of the file.

    detectron2 cuts them to the file once more and leaves out empty ones.
    """
    boxes = image.in_frame(boxes)
    if style != "detectron2":
        return Detections(boxes, scores, labels, masks)
    boxes = clip_boxes_to_image(boxes, image.frame)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Detections(boxes[keep], scores[keep], labels[keep], None if masks is None else masks[keep])


class RoIHeads(nn.Module):
    """Class, box and, if there is a branch for it, mask of each proposal.

    Args:
        boxes: The branch of boxes.
        masks: The branch of masks.
        style: Whose rules.
        choice: What is kept of the answers.
    """

    def __init__(self, boxes: BoxBranch, masks: MaskBranch | None, *, style: Style, choice: Choice) -> None:
        super().__init__()
        self.boxes, self.masks, self.style, self.choice = boxes, masks, style, choice

    def losses(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        proposals: Sequence[Tensor],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the losses "class", "box" and, with a branch for them, "mask".

        Args:
            maps: (B, C, H_i, W_i).
            size: (height, width) of the padded batch in pixels.
            proposals: For each image (N, 4) in pixels of the batch.
            images: Their sizes, which cascades read.
            targets: For each image its "boxes" (M, 4), "labels" int64 (M,) and "masks" uint8 (M, h, w).
        """
        samples = self.boxes.sample(proposals, targets)
        logits, deltas = self.boxes(maps, samples.boxes)
        losses = self.boxes.losses(logits, deltas, samples, targets)
        if self.masks is not None:
            losses["mask"] = self.masks.loss(maps, size, *samples.positive(), targets)
        return losses

    def forward(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], images: Sequence[ImageSize]
    ) -> list[Detections]:
        """Return the detections of each image.

        Args:
            maps: (B, C, H_i, W_i).
            proposals: For each image (N, 4) in pixels of the batch.
            images: Their sizes.
        """
        logits, deltas = self.boxes(maps, proposals)
        counts = [len(each) for each in proposals]
        rows = zip(logits.softmax(1)[:, 1:].split(counts), deltas.split(counts), proposals, images, strict=True)
        answers = [self._answers(*row) for row in rows]
        masks: list[Tensor] | list[None] = [None] * len(images)
        if self.masks is not None:
            masks = self.masks.probabilities(maps, [each[0] for each in answers], [each[2] for each in answers])
        return [
            detections_in_frame(*answer, mask, image=image, style=self.style)
            for answer, mask, image in zip(answers, masks, images, strict=True)
        ]

    def _answers(
        self, scores: Tensor, deltas: Tensor, proposals: Tensor, image: ImageSize
    ) -> tuple[Tensor, Tensor, Tensor]:
        def decode(places: Tensor, labels: Tensor) -> Tensor:
            return self.boxes.box_coder.decode_single(deltas[places, labels + 1], proposals[places])

        return self.choice.best(scores, decode, image, style=self.style)
