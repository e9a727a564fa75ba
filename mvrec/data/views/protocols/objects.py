"""Protocols of images in which objects are detected."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.geometry import Box, Geometry, Interpolation, rescaled_size
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.protocols.base import Protocol, normalisation_of

SizeRule = Literal["mmdetection", "detectron2", "torchvision"]
WHOLE = "whole"
_SCALED = re.compile(r"(mmdetection|detectron2|torchvision)-(\d{1,5})x(\d{1,5})")
_UNKNOWN = 224  # pixels of views in their own size, as long as no image is read


@dataclass(frozen=True)
class DetectionProtocol(Protocol):
    """Whole images in which objects are detected, scored in pixels of their files.

    An image is scaled in the loader and is a batch of its own, because padding to a common size would change features.
    Scaled pixels are whole grey levels, as mmdetection's and detectron2's are; torchvision does not round them.

    Attributes:
        name: The name of these settings; see `named`.
        split: The scored split.
        scale: Most pixels of the long and of the short side of the network's input, whose proportions stay; `None`
            takes images in their own size.
        rounding: Whose rule gives the sides in whole pixels. They differ by a pixel.
        interpolation: How images are scaled.
        antialias: Whether scaling down averages over all covered pixels.
        normalisation: Mean and standard deviation.
        upright: Whether the image is turned as its EXIF block says.
    """

    kind: ClassVar[str] = "objects"
    noun: ClassVar[str] = "image"
    view_noun: ClassVar[str] = "image"
    is_video: ClassVar[bool] = False

    name: str = "mmdetection-1333x800"
    split: Literal["val", "test"] = "val"
    scale: tuple[int, int] | None = (1333, 800)
    rounding: SizeRule = "mmdetection"
    interpolation: Interpolation = "bilinear"
    antialias: bool = False
    normalisation: Normalisation = IMAGENET_NORMALISATION
    upright: bool = True

    @classmethod
    def named(cls, name: str, **values: Any) -> "DetectionProtocol":
        """Return the protocol of a name, with further values.

        A name is "whole" for images in their own size, or a framework's with the most pixels of the long and of the
        short side, such as "mmdetection-1333x800". The framework's rule gives the sides; detectron2 antialiases.

        Raises:
            ValueError: There is no such name.
        """
        if name == WHOLE:
            return cls(name=name, scale=None, **values)
        parts = _SCALED.fullmatch(name)
        sides = sorted(int(side) for side in parts.groups()[1:]) if parts else [0]
        if parts is None or not sides[0]:
            raise ValueError(
                f"there is no protocol {name!r}, only {', '.join(NAMED_DETECTION_PROTOCOLS)}, and such names with other"
                " most pixels of the long and of the short side"
            )
        rule: Any = parts[1]
        return cls(name=name, scale=(sides[1], sides[0]), rounding=rule, antialias=rule == "detectron2", **values)

    @property
    def size(self) -> int:  # type: ignore[override]  # of both sides the shorter
        """Pixels of the short side of most views."""
        return _UNKNOWN if self.scale is None else self.scale[1]

    @property
    def num_views(self) -> int:
        """Views per image."""
        return 1

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the largest wide view; of images in their own size a square of a usual one."""
        longest, shortest = self.scale or (_UNKNOWN, _UNKNOWN)
        return 3, shortest, longest

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the view of an image, by the rule of `rounding`."""
        if self.scale is None:
            return height, width
        return _RULES[self.rounding](height, width, self.scale)

    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the whole image, scaled."""
        size, whole = self.network_size(height, width), Box(0, 0, height, width)
        return [Geometry(whole, size, interpolation=self.interpolation, antialias=self.antialias)]

    def central(self) -> Self:
        """Return itself."""
        return self

    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return itself: objects have no settings of images."""
        return self

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "DetectionProtocol":
        """Return the protocol of a data module's arguments."""
        values = {"normalisation": normalisation_of(settings["normalisation"])} if "normalisation" in settings else {}
        return cls.named(settings["protocol"], upright=settings.get("upright", True), **values)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "DetectionProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        scale = values["scale"]
        return cls(**{**values, "scale": None if scale is None else tuple(scale)})

    def __str__(self) -> str:
        scale = "own size" if self.scale is None else f"at most {self.scale[0]} x {self.scale[1]} pixels"
        parts = [f"{self.split} images", self.name, scale]
        if self.scale is not None:
            parts += [f"sides rounded as in {self.rounding}"]
            parts += [self.interpolation if self.antialias else f"{self.interpolation} without antialias"]
        parts += [] if self.upright else ["not turned as their EXIF blocks say"]
        return ", ".join(parts)


def _detectron2_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """Return the sides by detectron2's `ResizeShortestEdge`: the short one exact, both again if the long one is over.

    https://github.com/facebookresearch/detectron2, detectron2/data/transforms/augmentation_impl.py
    """
    longest, shortest = scale
    factor = shortest / min(height, width)
    sides = [float(shortest) if height < width else factor * height, factor * width if height < width else shortest]
    if max(sides) > longest:
        factor = longest / max(sides)
        sides = [side * factor for side in sides]
    return int(sides[0] + 0.5), int(sides[1] + 0.5)


def _torchvision_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """Return the sides of torchvision's detectors: rounded down, so that the short one may miss a pixel."""
    factor = min(scale[1] / min(height, width), scale[0] / max(height, width))
    return max(math.floor(height * factor), 1), max(math.floor(width * factor), 1)


_RULES = {"mmdetection": rescaled_size, "detectron2": _detectron2_size, "torchvision": _torchvision_size}
# Those of the published figures on COCO, and images as they are.
NAMED_DETECTION_PROTOCOLS = ("mmdetection-1333x800", "detectron2-1333x800", "torchvision-1333x800", WHOLE)
