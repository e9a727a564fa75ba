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
        logits, deltas = self.head(list(maps))
        # Scores and boxes are float32 from here on, also under autocast.
        levels = [each.float() for each in logits]
        anchors = self.anchors.of_levels(maps, size)
        all_logits, all_deltas = concat_box_prediction_layers(levels, [each.float() for each in deltas])
        by_image = (all_logits.view(len(images), -1), all_deltas.view(len(images), -1, 4))
        with torch.no_grad():
            pairs = zip(*by_image, images, strict=True)
            proposals = [self._best(*pair, anchors=anchors, training=targets is not None) for pair in pairs]
        if targets is None:
            return proposals, {}
        return proposals, self._losses(*by_image, maps=maps, anchors=torch.cat(anchors), images=images, targets=targets)

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
        logits: Tensor,
        deltas: Tensor,
        *,
        maps: Sequence[Tensor],
        anchors: Tensor,
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the losses of logits (B, A) and corrections (B, A, 4) of all anchors (A, 4)."""
        labels, wanted_deltas = [], []
        for image, target in zip(images, targets, strict=True):
            truth = target["boxes"].float()
            objects = self.matcher.assign(truth, anchors, self.anchors.usable(maps, image, within=self.within))
            labels.append((objects >= 0).float() - (objects == self.matcher.BETWEEN_THRESHOLDS).float())
            # Those of other anchors are not read.
            boxes = truth[objects.clamp(min=0)] if len(truth) else anchors
            wanted_deltas.append(self.box_coder.encode_single(boxes, anchors))
        choice = self.fg_bg_sampler(labels)  # of positive and of negative anchors, for each image
        positive, negative = (torch.cat(list(each)) > 0 for each in choice)
        places, sampled = torch.where(positive)[0], torch.where(positive | negative)[0]
        chances = F.binary_cross_entropy_with_logits(
            logits.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
        )
        boxes = box_loss(deltas.flatten(0, 1)[places], torch.cat(wanted_deltas)[places], beta=self.beta)
        divisor: float | Tensor = max(1, len(sampled))
        if self.style == "detectron2":
            divisor = self.samples * len(images)
        elif self.style == "mmdetection":  # an image counts one of each kind at least
            divisor = sum((flags > 0).sum().clamp(min=1) for kind in choice for flags in kind)
        return {"rpn_class": chances / divisor, "rpn_box": boxes / divisor}


def box_loss(deltas: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Return the sum of the losses of corrections (N, 4): smooth L1, quadratic below beta; L1 for beta 0."""
    return F.smooth_l1_loss(deltas.float(), targets, beta=beta, reduction="sum")
