"""Protocols of images with one target each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.geometry import Geometry, Interpolation, eval_geometries
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.protocols.base import Protocol, shared


@dataclass(frozen=True)
class ImageProtocol(Protocol):
    """Images: short side scaled with antialiasing, centre cropped.

    Attributes:
        split: The scored split. ImageNet's published accuracies are those of "val".
        short_side: Pixels of the short side after scaling.
        size: Side of the crop in pixels.
        interpolation: How the image is scaled, antialiased.
        normalisation: Mean and standard deviation.
        upright: Whether the image is turned as its EXIF block says; the published accuracies are without.
    """

    kind: ClassVar[str] = "images"
    noun: ClassVar[str] = "image"
    view_noun: ClassVar[str] = "image"
    is_video: ClassVar[bool] = False

    split: Literal["val", "test"] = "val"
    short_side: int = 256
    size: int = 224
    interpolation: Interpolation = "bicubic"
    normalisation: Normalisation = IMAGENET_NORMALISATION
    upright: bool = False

    def __post_init__(self) -> None:
        if self.size > self.short_side:
            raise ValueError(f"crops of {self.size} pixels do not fit in a short side of {self.short_side}")

    @property
    def num_views(self) -> int:
        """Views per image."""
        return 1

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a view."""
        return 3, self.size, self.size

    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the one view; sizes and centre are rounded as in torchvision."""
        return eval_geometries(
            height,
            width,
            short_side=self.short_side,
            size=self.size,
            interpolation=self.interpolation,
            rounding="torchvision",
        )

    def central(self) -> Self:
        """Return itself."""
        return self

    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return the protocol with these values of `crop_fraction` and `interpolation`."""
        short_side = int(self.size / settings["crop_fraction"])
        return replace(self, short_side=short_side, interpolation=settings["interpolation"])

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "ImageProtocol":
        """Return the protocol of an image data module's arguments, which are for upright images."""
        return cls.of_values({**shared(settings), "short_side": settings["size"], "upright": True}).under(settings)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "ImageProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        return cls(**values)

    def __str__(self) -> str:
        turned = ", turned upright" if self.upright else ""
        return f"{self.split} images, short side {self.short_side}, crop {self.size}, {self.interpolation}{turned}"
