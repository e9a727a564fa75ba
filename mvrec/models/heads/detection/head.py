"""The head of detection: from a network's maps to boxes, classes and masks of objects."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo, MapsHead
from mvrec.models.heads.detection.results import Detections, ImageSize, Style
from mvrec.models.heads.level_norms import LevelNorm, norm_of_level

DetectorName = Literal["mask_rcnn", "faster_rcnn", "retinanet", "cascade_mask_rcnn", "cascade_rcnn"]
WITH_MASKS = {"mask_rcnn", "cascade_mask_rcnn"}
FINEST_STRIDE = {"retinanet": 8}  # of the maps that are read; 4 for the others
MULTIPLE = 32  # pixels; sides of a padded batch are multiples of it, as in the three libraries
LEAST = {
    **{"num_classes": 1, "channels": 1, "max_detections": 1, "anchor_scale": 0.1, "rpn_convs": 1, "rpn_samples": 2},
    **{"train_proposals": 1, "test_proposals": 1, "box_width": 1, "box_convs": 0, "box_samples": 4},
    **{"mask_convs": 1, "mask_width": 1},
}


class DetectionHead(MapsHead):
    """A feature pyramid and a detector on a network's maps.

    `arguments` has the keyword arguments that build the same head again for the same levels and classes.

    Args:
        levels: The network's maps, fine to coarse. Maps finer than stride 4, or 8 for RetinaNet, stay unused.
        num_classes: K; the background is none of them.
        detector: "mask_rcnn" (He et al. 2017), "faster_rcnn" (Ren et al. 2015), "retinanet" (Lin et al. 2017),
            "cascade_mask_rcnn" or "cascade_rcnn" (Cai and Vasconcelos 2018).
        style: Whose rules of anchors, pooling, losses and masks: detections of a checkpoint are those of its library.
        channels: Channels of the pyramid.
        score_threshold: Detections with this score or less are left out.
        nms_threshold: Detections that overlap a better one of their class by more than this IoU are left out.
        max_detections: Detections of an image.
        level_norm: A norm on every map: "layer" over channels, "group" over channels and pixels in one group, or
            "none".
        anchor_scale: Side of a square anchor in cells of its map, in detectors of two stages.
        p6_source: Whether RetinaNet's coarser maps are made before the pyramid ("input"), or after it ("output").
        neck_norm: Whether the pyramid has batch normalisation.
        head_norm: Whether convolutions of boxes and masks have batch normalisation, or RetinaNet's group normalisation.
        rpn_convs: Convolutions of the first stage.
        rpn_samples: Anchors of an image that a training step of the first stage looks at.
        train_proposals: Proposals of an image in training; None for 1,000, or 2,000 with style "torchvision" and in
            mmdetection's cascades.
        test_proposals: Proposals of an image after it.
        box_width: Features of a box.
        box_convs: Convolutions before them; 0 for two layers.
        box_samples: Proposals of an image that a training step of the second stage looks at.
        mask_convs: Convolutions of the branch of masks.
        mask_width: Their channels; None for those of the pyramid.

    Raises:
        ValueError: An argument is out of its range.
    """

    kind = "objects"

    def __init__(
        self,
        levels: Sequence[FeatureInfo],
        num_classes: int,
        *,
        detector: DetectorName = "mask_rcnn",
        style: Style = "mmdetection",
        channels: int = 256,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        level_norm: LevelNorm = "none",
        anchor_scale: float = 8.0,
        p6_source: Literal["input", "output"] = "input",
        neck_norm: bool = False,
        head_norm: bool = False,
        rpn_convs: int = 1,
        rpn_samples: int = 256,
        train_proposals: int | None = None,
        test_proposals: int = 1000,
        box_width: int = 1024,
        box_convs: int = 0,
        box_samples: int = 512,
        mask_convs: int = 4,
        mask_width: int | None = None,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {name: value for name, value in locals().items() if name not in NOT_ARGUMENTS}
        _check(levels, num_classes, self.arguments)
        from mvrec.models.heads.detection.neck import Neck  # torchvision is slow to import

        finest = FINEST_STRIDE.get(detector, 4)
        self.first_level = next((i for i, level in enumerate(levels) if level.stride >= finest), 0)
        levels = levels[self.first_level :]
        self.level_norms = nn.ModuleList(norm_of_level(level_norm, level.channels) for level in levels)
        if detector == "retinanet":
            relu = style != "mmdetection"
            self.neck = Neck(levels, channels, coarser="convolutions", source=p6_source, relu=relu, norm=neck_norm)
        else:
            self.neck = Neck(levels, channels, norm=neck_norm)
        self.detector = _detector(num_classes, self.neck.strides, self.arguments)

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.arguments["detector"] in WITH_MASKS

    def forward(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        images: Sequence[ImageSize],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Return losses by name with targets, else the detections of each image.

        An image whose maps are not finite has a single detection with the score nan.

        Args:
            maps: The network's maps `(B, C_i, H_i, W_i)`, fine to coarse.
            size: (height, width) of the padded batch in pixels, multiples of 32.
            images: The images' own sizes in it.
            targets: For each image "boxes" float32 (M, 4) in pixels of the batch, "labels" int64 (M,), 0..K-1, and
                "masks" uint8 (M, h, w) if the detector has masks.

        Raises:
            ValueError: The maps are not those of images, or masks are missing.
        """
        if maps[0].ndim != 4:
            raise ValueError(f"detection needs maps of images (B, C, H, W), got shape {tuple(maps[0].shape)}")
        if targets is not None and self.has_masks and any("masks" not in target for target in targets):
            name = self.arguments["detector"]
            raise ValueError(f"{name} needs masks of all objects: use data with shapes, or a detector without masks")
        pairs = zip(self.level_norms, maps[self.first_level :], strict=True)
        levels = self.neck([norm(level) for norm, level in pairs])
        answers = self.detector(levels, size, images, targets)
        if targets is not None:
            return answers
        finite = torch.stack([level.sum((1, 2, 3), dtype=torch.float32) for level in levels]).isfinite().all(0)
        return [each if flag else _not_finite(each) for each, flag in zip(answers, finite.tolist(), strict=True)]


NOT_ARGUMENTS = {"self", "__class__", "levels", "num_classes"}


def _not_finite(detections: Detections) -> Detections:
    nan = detections.boxes.new_full((1, 4), torch.nan)
    masks = detections.mask_probabilities
    no_mask = None if masks is None else masks.new_zeros((1, *masks.shape[1:]))
    return Detections(nan, nan[:, 0], detections.labels.new_zeros(1), no_mask)


def padded(images: Tensor) -> Tensor:
    """Return a copy of images `(B, C, H, W)` with zeros at the bottom and the right, up to multiples of 32 pixels."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))


def _check(levels: Sequence[FeatureInfo], num_classes: int, arguments: Mapping[str, Any]) -> None:
    if not levels:
        raise ValueError("detection needs a network with feature maps, and this one has none")
    for name, choices in (
        ("detector", get_args(DetectorName)),
        ("style", get_args(Style)),
        ("level_norm", get_args(LevelNorm)),
        ("p6_source", ("input", "output")),
    ):
        if arguments[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {arguments[name]!r}")
    if arguments["detector"].startswith("cascade") and arguments["style"] == "torchvision":
        raise ValueError("torchvision has no cascades: use style mmdetection or detectron2")
    numbers = {"num_classes": num_classes, **arguments}
    for name in ("score_threshold", "nms_threshold"):
        if not 0 <= numbers[name] <= 1:
            raise ValueError(f"{name} must lie in 0..1, got {numbers[name]}")
    for name, least in LEAST.items():
        if numbers[name] is not None and numbers[name] < least:
            raise ValueError(f"{name} must be {least} or more, got {numbers[name]}")


def _detector(num_classes: int, strides: Sequence[int], arguments: Mapping[str, Any]) -> nn.Module:
    """Return the detector that arguments of a head describe, on maps with so many pixels per cell."""
    name, channels = arguments["detector"], arguments["channels"]
    thresholds = {key: arguments[key] for key in ("score_threshold", "nms_threshold", "max_detections")}
    if name == "retinanet":
        from mvrec.models.heads.detection.retinanet import RetinaNet

        norm, style = arguments["head_norm"], arguments["style"]
        return RetinaNet(channels, num_classes, strides=strides, style=style, norm=norm, **thresholds)
    from mvrec.models.heads.detection.mask_rcnn import two_stage
    from mvrec.models.heads.detection.roi_heads import Choice

    choice = Choice(**thresholds)
    cascade = name.startswith("cascade")
    return two_stage(num_classes, strides, arguments, masks=name in WITH_MASKS, cascade=cascade, choice=choice)
