"""Detectors of people: torchvision's, with weights from a file, and those of users."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from mvrec.class_paths import calling, imported, is_class_path
from mvrec.errors import UserError, nearest
from mvrec.inference.actions.people import Detector, Pixels
from mvrec.models.checkpoints.files import Source, read_weights

DEFAULT = "fasterrcnn_resnet50_fpn"
PERSON = 1  # in COCO's numbers, which torchvision's weights have
_COUNTS = "num_batches_tracked"  # in files of norms that were trained; of no use to a detector
# Detectors whose published files were trained with frozen norms, to whose variance nothing was added (torchvision's
# pull request 2933).
_WITHOUT_EPS = {
    *("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
}
_CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"  # (classes, features), of Faster, Mask and Keypoint R-CNN


class TorchvisionDetector:
    """A detector of torchvision, as a function from a frame to boxes and scores of people.

    Args:
        name: Its name in `torchvision.models.detection`.
        weights: The file of its weights.
        device: The device.
        person: The number of the class of people.

    Raises:
        UserError: There is no such detector, or the file does not fit it.
    """

    def __init__(
        self, name: str, weights: str | Path, *, device: torch.device | str = "cpu", person: int = PERSON
    ) -> None:
        check_detector(name)
        self.name, self.person = name, person
        self.network = _network(name, weights).eval().to(device)
        self.device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, frame: Pixels) -> tuple[Tensor, Tensor]:
        """Return the boxes of people, float32 (N, 4) in pixels of a frame uint8 (H, W, 3), and their scores (N,)."""
        image = torch.from_numpy(frame).to(self.device).permute(2, 0, 1).float() / 255
        (objects,) = self.network([image])
        people = objects["labels"] == self.person
        return objects["boxes"][people].cpu(), objects["scores"][people].cpu()

    def __str__(self) -> str:
        return self.name


def load_detector(name: str, weights: str | Path | None, *, device: torch.device | str = "cpu") -> Detector:
    """Return a detector by name.

    Args:
        name: One of torchvision's, or the class path of one's own: it is called with the file of weights, if there is
            one, and returns a function from a frame uint8 (H, W, 3) to boxes (N, 4) and scores (N,).
        weights: The file of its weights.
        device: The device of torchvision's.

    Raises:
        UserError: There is no such detector, its weights are missing, or the file does not fit it.
    """
    check_detector(name, key="--detector")
    if is_class_path(name):
        part = imported(name)
        with calling("--detector", part):
            detector = part(*([weights] if weights is not None else []))
        if not callable(detector):
            raise UserError(f"--detector: {name} returned a {type(detector).__name__}, not a function of a frame")
        return cast(Detector, detector)
    if weights is None:
        raise UserError(f"--detector {name} needs its weights: add --detector_weights FILE")
    return TorchvisionDetector(name, weights, device=device)


def check_detector(name: str, *, key: str = "detector") -> None:
    """Check that a detector is one of torchvision's, or can be imported.

    Raises:
        UserError: It is neither.
    """
    if is_class_path(name):
        try:
            imported(name)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        return
    if name not in (names := detector_names()):
        raise UserError(f"{key}: torchvision has no detector {name!r}, only {', '.join(names)}{nearest(name, names)}")


def detector_names() -> list[str]:
    """Return the names of torchvision's detectors."""
    from torchvision import models

    return models.list_models(module=models.detection)


def _network(name: str, weights: Source) -> nn.Module:
    from torchvision import models

    stored = read_weights(weights)
    tensors = stored.tensors
    build = cast(Callable[..., nn.Module], models.get_model_builder(name))
    classes = {"num_classes": len(tensors[_CLASSIFIER])} if _CLASSIFIER in tensors else {}
    network = build(weights=None, weights_backbone=None, **classes)
    try:  # torchvision renames the keys of files of its earlier versions while it loads them
        keys = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:  # its message lists tensors of other sizes, one a line after the first
        fault = str(error).splitlines()[1].strip()
        raise UserError(f"{stored.source}: these weights are not those of {name}: {fault}") from None
    missing = [key for key in keys.missing_keys if not key.endswith(_COUNTS)]
    strange = [key for key in keys.unexpected_keys if not key.endswith(_COUNTS)]
    if missing or strange:
        fault = f"lacks {missing[0]}" if missing else f"has {strange[0]} too"
        raise UserError(f"{stored.source}: these weights are not those of {name}: the file {fault}")
    if name in _WITHOUT_EPS and not any(key.endswith(_COUNTS) for key in tensors):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return network
