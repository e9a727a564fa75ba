"""Detectors in two stages: proposals, then class, box and mask of each of them.

Faster R-CNN (Ren et al. 2015, arXiv 1506.01497), Mask R-CNN (He et al. 2017, 1703.06870) and their cascades.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mvrec.models.heads.detection.anchors import Anchors
from mvrec.models.heads.detection.cascade import BETA, IOUS, WEIGHTS, CascadeHeads
from mvrec.models.heads.detection.masks import MaskBranch
from mvrec.models.heads.detection.results import Detections, ImageSize
from mvrec.models.heads.detection.roi_heads import BoxBranch, Choice, RoIHeads
from mvrec.models.heads.detection.rpn import ProposalNetwork


class TwoStage(nn.Module):
    """A detector in two stages on the maps of a pyramid.

    Args:
        rpn: The first stage.
        roi_heads: The second one.
    """

    def __init__(self, rpn: ProposalNetwork, roi_heads: RoIHeads | CascadeHeads) -> None:
        super().__init__()
        self.rpn, self.roi_heads = rpn, roi_heads

    def forward(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Return losses by name with targets, else the detections of each image.

        Args:
            maps: (B, C, H_i, W_i), fine to coarse; the coarsest one has proposals only.
            size: (height, width) of the padded batch in pixels.
            images: The images' own sizes in it.
            targets: For each image "boxes" float32 (M, 4) in pixels of the batch, "labels" int64 (M,), 0..K-1, and
                "masks" uint8 (M, h, w) if the detector has masks.
        """
        proposals, losses = self.rpn(maps, size, images, targets)
        if targets is None:
            return self.roi_heads(maps, proposals, images)
        return losses | self.roi_heads.losses(maps, size, proposals, images, targets)


def two_stage(
    num_classes: int,
    strides: Sequence[int],
    arguments: Mapping[str, Any],
    *,
    masks: bool,
    cascade: bool,
    choice: Choice,
) -> TwoStage:
    """Return the detector that arguments of `DetectionHead` describe.

    Args:
        num_classes: K.
        strides: Pixels per cell of the maps, fine to coarse.
        arguments: Those of the head.
        masks: Whether it has masks.
        cascade: Whether the second stage is a cascade.
        choice: What is kept of the answers.
    """
    style, channels, norm = arguments["style"], arguments["channels"], arguments["head_norm"]
    scale = arguments["anchor_scale"]
    rpn = ProposalNetwork(
        channels,
        Anchors(strides, [(stride * scale,) for stride in strides], style=style),
        style=style,
        convs=arguments["rpn_convs"],
        samples=arguments["rpn_samples"],
        train_proposals=arguments["train_proposals"] or (2000 if cascade and style == "mmdetection" else None),
        test_proposals=arguments["test_proposals"],
        of_cascade=cascade,
    )
    common: dict[str, Any] = {"style": style, "norm": norm}
    of_boxes: dict[str, Any] = {
        "width": arguments["box_width"],
        "convs": arguments["box_convs"],
        "samples": arguments["box_samples"],
    }
    read = strides[:-1]

    def branch_of_masks() -> MaskBranch:
        convs, width = arguments["mask_convs"], arguments["mask_width"]
        return MaskBranch(read, channels, num_classes, convs=convs, width=width, **common)

    if not cascade:
        boxes = BoxBranch(read, channels, num_classes, **common, **of_boxes)
        return TwoStage(rpn, RoIHeads(boxes, branch_of_masks() if masks else None, style=style, choice=choice))
    of_stages: dict[str, Any] = {"agnostic": True, "beta": BETA[style]}
    stages = [
        BoxBranch(read, channels, num_classes, iou=iou, weights=weights, **of_stages, **common, **of_boxes)
        for iou, weights in zip(IOUS, WEIGHTS[style], strict=True)
    ]
    count = (len(stages) if style == "mmdetection" else 1) if masks else 0
    branches = [branch_of_masks() for _ in range(count)]
    return TwoStage(rpn, CascadeHeads(stages, branches, style=style, choice=choice))
