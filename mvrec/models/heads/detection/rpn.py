"""Proposals: the boxes of a pyramid's maps that most likely have an object (Ren et al. 2015, arXiv 1506.01497)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from mvrec.models.heads.detection.anchors import Anchors
from mvrec.models.heads.detection.coding import BoxCoder, Matcher
from mvrec.models.heads.detection.results import ImageSize, Style

TRAIN_PROPOSALS = {"mmdetection": 1000, "torchvision": 2000, "detectron2": 1000}
BETA = 1 / 9
BETAS = {"mmdetection": 0.0, "torchvision": BETA, "detectron2": 0.0}  # of the smooth L1 loss of boxes; 0 for L1
# Boxes must be wider and higher than 0; torchvision has a limit of its own.
SMALLEST = {"torchvision": 1e-3}


class ProposalNetwork(nn.Module):
    """A region proposal network.

    Args:
        channels: Channels of the maps.
        anchors: The anchors of the maps.
        style: Whose rules: torchvision trains on 2,000 proposals, with smooth L1. mmdetection gives an object its best
            anchor from an IoU of 0.3 on. detectron2 divides losses by the number of anchors that it wants to sample.
        convs: Convolutions before the two outputs.
        samples: Anchors of an image that a training step looks at; half of them at most belong to an object.
        train_proposals: Proposals of an image in training; None for the style's.
        test_proposals: Proposals of an image after it.
        of_cascade: Whether it is that of a cascade, which mmdetection trains with smooth L1 of beta 1/9, and without
            anchors that cross the border of the image.

    Attributes:
        fg_bg_sampler: Draws anchors; may be replaced.
        candidates: Boxes of a map before overlapping ones are left out, in training (True) and after it (False).
    """

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        *,
        style: Style,
        convs: int = 1,
        samples: int = 256,
        train_proposals: int | None = None,
        test_proposals: int = 1000,
        of_cascade: bool = False,
    ) -> None:
        super().__init__()
        self.anchors, self.style, self.samples = anchors, style, samples
        self.within = of_cascade and style == "mmdetection"
        self.beta = BETA if self.within else BETAS[style]
        self.head = RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=convs)
        self.box_coder = BoxCoder(style=style)
        self.matcher = Matcher(0.7, 0.3, least_best=0.3 if style == "mmdetection" else 0.0, style=style)
        self.fg_bg_sampler = BalancedPositiveNegativeSampler(samples, 0.5)
        self.candidates = {True: 2000, False: 1000}
        self.proposals = {True: train_proposals or TRAIN_PROPOSALS[style], False: test_proposals}

    def forward(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals (N, 4) of each image, best first, and with targets the losses "rpn_class", "rpn_box".

        Args:
            maps: (B, C, H_i, W_i), fine to coarse.
            size: (height, width) of the padded batch in pixels.
            images: The images' own sizes in it.
            targets: For each image its "boxes" (M, 4) in pixels of the batch.
        """
        anchors = self.anchors.of_levels(maps, size)
        with torch.no_grad():  # the loss reads a few of the outputs, which are computed once more
            # Scores and boxes are float32, also under autocast.
            outputs = ([each.float() for each in kind] for kind in self.head(list(maps)))
            logits, deltas = concat_box_prediction_layers(*outputs)
            pairs = zip(logits.view(len(images), -1), deltas.view(len(images), -1, 4), images, strict=True)
            proposals = [self._best(*pair, anchors=anchors, training=targets is not None) for pair in pairs]
        if targets is None:
            return proposals, {}
        return proposals, self._losses(maps, anchors, images, targets)

    def _best(
        self, logits: Tensor, deltas: Tensor, image: ImageSize, *, anchors: Sequence[Tensor], training: bool
    ) -> Tensor:
        """Return the proposals (N, 4) of one image from logits (A,) and corrections (A, 4) of all anchors."""
        counts = [len(each) for each in anchors]
        places, offset = [], 0
        for level in logits.split(counts):
            places.append(level.topk(min(self.candidates[training], len(level))).indices + offset)
            offset += len(level)
        numbers = torch.cat([each.new_full((len(each),), number) for number, each in enumerate(places)])
        place = torch.cat(places)
        boxes = self.box_coder.decode_single(deltas[place], torch.cat(list(anchors))[place])
        boxes, scores = clip_boxes_to_image(boxes, image[:2]), logits[place].sigmoid()
        keep = remove_small_boxes(boxes, SMALLEST.get(self.style, torch.finfo(torch.float32).tiny))
        boxes, scores, numbers = boxes[keep], scores[keep], numbers[keep]
        keep = batched_nms(boxes, scores, numbers, 0.7)[: self.proposals[training]]
        return boxes[keep]

    def _losses(
        self,
        maps: Sequence[Tensor],
        anchors: Sequence[Tensor],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        all_anchors = torch.cat(list(anchors))
        labels, truth = [], []
        for image, target in zip(images, targets, strict=True):
            boxes = target["boxes"].float()
            objects = self.matcher.assign(boxes, all_anchors, self.anchors.usable(maps, image, within=self.within))
            labels.append((objects >= 0).float() - (objects == self.matcher.BETWEEN_THRESHOLDS).float())
            # Those of other anchors are not read.
            truth.append(boxes[objects.clamp(min=0)] if len(boxes) else all_anchors)
        choice = self.fg_bg_sampler(labels)  # of positive and of negative anchors, for each image
        flags = torch.stack([(positive + negative) > 0 for positive, negative in zip(*choice, strict=True)])
        logits, deltas, (numbers, places) = self._outputs_at(maps, flags.split([len(each) for each in anchors], 1))
        own_labels = torch.stack(labels)[numbers, places]
        chances = F.binary_cross_entropy_with_logits(logits, own_labels, reduction="sum")
        positive = own_labels > 0
        wanted_boxes = torch.stack(truth)[numbers, places][positive]
        wanted_deltas = self.box_coder.encode_single(wanted_boxes, all_anchors[places][positive])
        boxes = box_loss(deltas[positive], wanted_deltas, beta=self.beta)
        divisor: float | Tensor = max(1, len(logits))
        if self.style == "detectron2":
            divisor = self.samples * len(images)
        elif self.style == "mmdetection":  # an image counts one of each kind at least
            divisor = sum((flags > 0).sum().clamp(min=1) for kind in choice for flags in kind)
        return {"rpn_class": chances / divisor, "rpn_box": boxes / divisor}

    def _outputs_at(
        self, maps: Sequence[Tensor], flags: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return logits (N,) and corrections (N, 4) of some anchors, and their images (N,) and numbers (N,).

        Args:
            maps: (B, C, H_i, W_i).
            flags: For each map which of its anchors (B, A_i).
        """
        shapes = self.anchors.num_anchors_per_location()[0]
        logits, deltas, images, anchors, offset = [], [], [], [], 0
        for level, flag in zip(maps, flags, strict=True):
            image, anchor = torch.where(flag)
            cell, shape = anchor // shapes, anchor % shapes
            hidden = _convolved_at(self.head.conv, level, image, cell // level.shape[3], cell % level.shape[3])
            numbers = torch.arange(len(image), device=image.device)
            logits.append(_whole(hidden, self.head.cls_logits).float()[numbers, shape])
            deltas.append(_whole(hidden, self.head.bbox_pred).float().unflatten(1, (shapes, 4))[numbers, shape])
            images.append(image)
            anchors.append(anchor + offset)
            offset += flag.shape[1]
        return torch.cat(logits), torch.cat(deltas), (torch.cat(images), torch.cat(anchors))


def _convolved_at(convs: nn.Sequential, level: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return what 3 x 3 convolutions with a bias and ReLU give for some cells of a map: (N, C).

    A training step looks at a few cells of some ten thousand, so the gradient of the whole map is all but empty, and
    would take a third of the time of the step.

    Args:
        convs: The convolutions.
        level: (B, C, H, W).
        image: For each cell its image (N,).
        row: And its row (N,).
        column: And its column (N,).
    """
    height, width = level.shape[2:]
    steps = torch.arange(-len(convs), len(convs) + 1, device=level.device)
    rows, columns = row[:, None, None] + steps[:, None], column[:, None, None] + steps  # (N, s, 1), (N, 1, s)
    inside = ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))[:, None]  # (N, 1, s, s)
    cells = level[image[:, None, None], :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)].movedim(3, 1)
    for block in convs.children():
        conv = next(block.children())
        assert isinstance(conv, nn.Conv2d)
        cells, inside = cells * inside, inside[:, :, 1:-1, 1:-1]
        is_last = cells.shape[2:] == conv.weight.shape[2:]
        cells = F.relu(_whole(cells, conv) if is_last else F.conv2d(cells, conv.weight, conv.bias))
    return cells


def _whole(cells: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return a convolution's outputs (N, D) for inputs (N, C, s, s) of the size of its kernel, as one product."""
    return F.linear(cells.flatten(1), conv.weight.flatten(1), conv.bias)


def box_loss(deltas: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Return the sum of the losses of corrections (N, 4): smooth L1, quadratic below beta; L1 for beta 0."""
    return F.smooth_l1_loss(deltas.float(), targets, beta=beta, reduction="sum")
