"""RetinaNet: classes and boxes from every cell of the maps, without proposals (Lin et al. 2017, arXiv 1708.02002)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss, sigmoid_focal_loss

from mvrec.models.heads.detection.anchors import RATIOS, Anchors
from mvrec.models.heads.detection.coding import BoxCoder, Matcher
from mvrec.models.heads.detection.results import Detections, ImageSize, Style

STRIDES = (8, 16, 32, 64, 128)  # of the maps P3 to P7
SCALES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))  # sides of a cell's anchors over the stride
POSITIVE, NEGATIVE = 0.5, 0.4  # IoU with an object
GROUPS = 32  # of a group normalisation
CANDIDATES = 1000  # of each map, before the suppression of doubles
# detectron2 divides its losses by a running mean of the number of positive anchors.
FIRST_NORMALIZER, MOMENTUM = 100.0, 0.9


class RetinaNet(nn.Module):
    """Two towers of convolutions on the maps of a feature pyramid, shared by all maps.

    Its parameters have torchvision's names. There is no row for the background: class K of the data is row K, as in
    all three libraries. (torchvision's published weights have a row 0, which no object has.)

    Args:
        channels: Channels of the maps, and width of the towers.
        num_classes: K.
        strides: Pixels per cell of each map, fine to coarse.
        style: Whose anchors, losses and order of steps it has. The losses of an image or a batch are divided by its
            positive anchors: "mmdetection" by those of the batch, where an image counts 1 or more; "torchvision" image
            by image; "detectron2" by a running mean. "mmdetection" suppresses doubles at the file's size.
        norm: Whether the towers have group normalisation. In style "torchvision" boxes then have the GIoU loss in place
            of L1, as its second version.
        score_threshold: Least score of a detection.
        nms_threshold: IoU with a better detection of the same class from which on a detection is dropped.
        max_detections: Most detections of an image.
    """

    normalizer: Tensor

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        strides: Sequence[int] = STRIDES,
        style: Style = "mmdetection",
        norm: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        num_anchors = len(RATIOS) * len(SCALES)
        layer: Callable[..., nn.Module] | None = partial(nn.GroupNorm, GROUPS) if norm else None
        self.classification_head = RetinaNetClassificationHead(channels, num_anchors, num_classes, norm_layer=layer)
        self.regression_head = RetinaNetRegressionHead(channels, num_anchors, norm_layer=layer)
        sizes = [[stride * scale for scale in SCALES] for stride in strides]
        self.anchors = Anchors(strides, sizes, style=style)
        self.coder = BoxCoder(style=style)
        self.matcher = Matcher(POSITIVE, NEGATIVE, least_best=0.0, style=style)
        self.num_classes, self.style = num_classes, style
        self.has_giou_loss = norm and style == "torchvision"
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        if style == "detectron2":
            self.register_buffer("normalizer", torch.tensor(FIRST_NORMALIZER))

    def forward(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Return the losses "class" and "box" if there are targets, else the detections of each image.

        Args:
            maps: (B, channels, h, w) for each stride.
            size: (height, width) of the padded batch in pixels.
            images: The sizes of the B images in it.
            targets: For each image `boxes` float32 (N, 4) in pixels of the view and `labels` int64 (N,), 0..K-1.
        """
        levels = list(maps)
        logits = self.classification_head(levels).float()  # (B, N, K) for the N anchors of all maps
        deltas = self.regression_head(levels).float()  # (B, N, 4)
        anchors = self.anchors.of_levels(levels, size)
        if targets is not None:
            usable = [self.anchors.usable(levels, image) for image in images]
            return self._losses(logits, deltas, torch.cat(anchors), usable, targets)
        counts = [len(level) for level in anchors]
        outputs = zip(logits.split(1), deltas.split(1), images, strict=True)
        return [
            self._detections(scores[0].split(counts), codes[0].split(counts), anchors, image)
            for scores, codes, image in outputs
        ]

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        usable: Sequence[Tensor | None],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        sums = []  # for each image: focal loss, L1 loss, number of positive anchors
        for i, target in enumerate(targets):
            matches = self.matcher.assign(target["boxes"], anchors, usable[i])
            sums.append(self._sums(logits[i], deltas[i], anchors, matches, target))
        focal, box, positives = (list(each) for each in zip(*sums, strict=True))
        counts = torch.stack(positives).clamp(min=1)
        if self.style == "torchvision":
            means = (sum(total / count for total, count in zip(totals, counts, strict=True)) for totals in (focal, box))
            class_loss, box_loss = (each / len(targets) for each in means)
            return {"class": class_loss, "box": box_loss}
        divisor = counts.sum()
        if self.style == "detectron2":
            divisor = self._running_mean(torch.stack(positives).sum().clamp(min=1))
        return {"class": sum(focal) / divisor, "box": sum(box) / divisor}

    def _sums(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, matches: Tensor, target: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the focal loss and the box loss of an image as sums over anchors, and the number of positive ones."""
        positive = matches >= 0
        objects = matches[positive]
        classes = torch.zeros_like(logits)  # (N, K)
        classes[positive, target["labels"][objects]] = 1
        valid = matches != self.matcher.BETWEEN_THRESHOLDS
        focal = sigmoid_focal_loss(logits[valid], classes[valid], reduction="sum")
        box = self._box_loss(deltas[positive], anchors[positive], target["boxes"][objects])
        return focal, box, positive.sum()

    def _box_loss(self, deltas: Tensor, anchors: Tensor, truth: Tensor) -> Tensor:
        """Return the sum of the losses of corrections (N, 4) that should make `anchors` (N, 4) `truth` (N, 4)."""
        if self.has_giou_loss:
            return generalized_box_iou_loss(self.coder.decode_single(deltas, anchors), truth, reduction="sum")
        return functional.l1_loss(deltas, self.coder.encode_single(truth, anchors), reduction="sum")

    def _running_mean(self, count: Tensor) -> Tensor:
        self.normalizer.mul_(MOMENTUM).add_(count, alpha=1 - MOMENTUM)
        return self.normalizer.clone()

    def _detections(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], image: ImageSize
    ) -> Detections:
        """Return the detections of an image, from the outputs for the anchors of each map."""
        candidates = [self._candidates(*level, image) for level in zip(logits, deltas, anchors, strict=True)]
        boxes, scores, labels = (torch.cat(each) for each in zip(*candidates, strict=True))
        if self.style == "mmdetection":
            boxes = image.in_frame(boxes)
            solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        best = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
        boxes = boxes[best]
        if self.style != "mmdetection":
            boxes = image.in_frame(clip_boxes_to_image(boxes, image[:2]))
        return Detections(boxes, scores[best], labels[best])

    def _candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, image: ImageSize
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best boxes, scores and labels of a map, from (N, K), (N, 4) and (N, 4)."""
        scores = logits.sigmoid().flatten()
        pairs = torch.where(scores > self.score_threshold)[0]
        best, order = scores[pairs].topk(min(CANDIDATES, len(pairs)))
        rows, labels = pairs[order] // self.num_classes, pairs[order] % self.num_classes
        boxes = self.coder.decode_single(deltas[rows], anchors[rows])
        if self.style != "detectron2":  # which clips at the end
            boxes = clip_boxes_to_image(boxes, image[:2])
        return boxes, best, labels
