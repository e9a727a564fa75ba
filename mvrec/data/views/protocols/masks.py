"""Protocols of images whose pixels get a class each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.geometry import Box, Geometry, Sides, height_and_width, rescaled_size
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.protocols.base import Protocol, shared

LEAST_SIDE = 32  # pixels of a segmenter's input, the least that all image networks of the zoo take


@dataclass(frozen=True)
class MaskProtocol(Protocol):
    """Images whose pixels get a class each, scored at the size of their file.

    The loader gives the whole image in its own size; the network's input is made of it on the device, because views of
    several sizes make no batch.

    Attributes:
        name: The name of these settings, of `NAMED_MASK_PROTOCOLS` or one's own.
        split: The scored split.
        size: Side of the training crops in pixels, or their height and width.
        scale: Most pixels of the long and of the short side of the network's input, whose ratio stays as it is; `None`
            takes images in their own size.
        align: Both sides are then stretched up to a multiple of it.
        mode: "whole" images, or a "slide" of windows whose logits are averaged where they overlap.
        window: Side of a window in pixels, or its height and width.
        stride: Pixels from one window to the next, or down and across; the last one is shifted back into the image.
        ratios: Factors of the scale; over several of them the probabilities are averaged.
        flip: Whether the mirrored image is averaged too.
        normalisation: Mean and standard deviation.
        upright: Whether the image is turned as its EXIF block says.
    """

    kind: ClassVar[str] = "masks"
    noun: ClassVar[str] = "image"
    view_noun: ClassVar[str] = "image"
    is_video: ClassVar[bool] = False

    name: str = "mmseg-2048x512"
    split: Literal["val", "test"] = "val"
    size: Sides = 512  # type: ignore[assignment]  # other protocols have squares
    scale: tuple[int, int] | None = (2048, 512)
    align: int = 1
    mode: Literal["whole", "slide"] = "whole"
    window: Sides = 512
    stride: Sides = 341
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    normalisation: Normalisation = IMAGENET_NORMALISATION
    upright: bool = True

    @classmethod
    def named(cls, name: str, **values: Any) -> "MaskProtocol":
        """Return the protocol of a name, with further values.

        Raises:
            ValueError: There is no such name.
        """
        if name not in NAMED_MASK_PROTOCOLS:
            raise ValueError(f"there is no protocol {name!r}, only {', '.join(NAMED_MASK_PROTOCOLS)}")
        return cls(name=name, **{**NAMED_MASK_PROTOCOLS[name], **values})

    @property
    def num_views(self) -> int:
        """Views per image: it is read once."""
        return 1

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a training view."""
        return 3, *height_and_width(self.size)

    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the whole image as it is."""
        return [Geometry(Box(0, 0, height, width), (height, width))]

    def network_size(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Return (height, width) of the network's input for an image, by the rounding of mmsegmentation.

        Sides of fewer pixels than `LEAST_SIDE` are stretched to it.
        """
        sides = [max(side, LEAST_SIDE) for side in rescaled_size(height, width, self.scale, ratio)]
        return -(-sides[0] // self.align) * self.align, -(-sides[1] // self.align) * self.align

    def windows(self, height: int, width: int) -> list[Box]:
        """Return the windows over the network's input, by rows; one where it is no larger than a window."""
        window, stride = height_and_width(self.window), height_and_width(self.stride)
        rows, columns = (_starts(*sides) for sides in zip((height, width), window, stride, strict=True))
        size = min(window[0], height), min(window[1], width)
        return [Box(top, left, *size) for top in rows for left in columns]

    def central(self) -> Self:
        """Return the protocol with one size, not mirrored."""
        return replace(self, ratios=(1.0,), flip=False)

    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return itself: masks have no settings of images."""
        return self

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "MaskProtocol":
        """Return the protocol of a data module's arguments."""
        return cls.named(settings["protocol"], **shared(settings))

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "MaskProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        sizes = {name: values[name] for name in ("size", "scale", "window", "stride")}
        pairs = {name: tuple(sides) for name, sides in sizes.items() if isinstance(sides, list | tuple)}
        return cls(**{**values, "ratios": tuple(values["ratios"]), **pairs})

    def __str__(self) -> str:
        scale = "own size" if self.scale is None else f"at most {self.scale[0]} x {self.scale[1]} pixels"
        parts = [f"{self.split} images", self.name, scale]
        parts += [f"sides multiples of {self.align}"] if self.align > 1 else []
        parts += [f"windows of {_numbers(self.window)} every {_numbers(self.stride)}"] if self.mode == "slide" else []
        parts += [f"{len(self.ratios)} sizes"] if len(self.ratios) > 1 else []
        parts += ["mirrored too"] if self.flip else []
        return ", ".join(parts)


def windows_as_large_as(size: Sides) -> dict[str, Sides]:
    """Return windows as large as training crops; two of three pixels lie in one window per axis.

    512 and 341 are mmsegmentation's numbers for crops of 512.
    """
    if isinstance(size, int):
        return {"window": size, "stride": max(size * 2 // 3, 1)}
    height, width = (max(side * 2 // 3, 1) for side in size)
    return {"window": size, "stride": (height, width)}


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Return where the windows along a side begin."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [min(i * stride, max(side - window, 0)) for i in range(count)]


def _numbers(sides: Sides) -> str:
    return str(sides) if isinstance(sides, int) else f"{sides[0]} x {sides[1]}"


_SEVERAL: dict[str, Any] = {"ratios": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}
_SCALE: dict[str, Any] = {"scale": (2048, 512)}
# Those of the published figures on ADE20K: of mmsegmentation, and of PVT, which Shunted Transformer follows.
NAMED_MASK_PROTOCOLS: dict[str, dict[str, Any]] = {
    "mmseg-2048x512": _SCALE,
    "mmseg-2048x512-ms-flip": {**_SCALE, **_SEVERAL},
    "pvt-align32": {**_SCALE, "align": 32},
    "pvt-align32-ms-flip": {**_SCALE, "align": 32, **_SEVERAL},
    "whole": {"scale": None},
    "whole-ms-flip": {"scale": None, **_SEVERAL},
    "slide": {"scale": None, "mode": "slide"},
    "slide-ms-flip": {"scale": None, "mode": "slide", **_SEVERAL},
}
