"""Protocols: how a file becomes views for scoring, without which a published accuracy means little.

It belongs to this package because it describes the reading of data; evaluation prints it and checkpoints store it.
There is one class per kind of views. A new kind needs a subclass of `Protocol`, a line in `KINDS`, and a function in
`mvrec.data.loading.file_views` that reads a file under it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.clip_spec import ClipPositions, ClipSpec
from mvrec.data.views.geometry import Box, Geometry, Interpolation, Rounding, eval_geometries, rescaled_size
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.ranges import check_ranges

FrameOrder = Literal["natural", "reversed", "shuffled"]

LEAST_SIDE = 32  # pixels of a segmenter's input, the least that all image networks of the zoo take


@dataclass(frozen=True)
class Views:
    """The views of a video.

    Attributes:
        num_clips: Temporal views.
        num_crops: Spatial views per clip: 1 (centre) or 3 (along the long side).
        short_side: Pixels of the short side of a frame before it is cropped.
        positions: Places of the clips: "spread" over the video as in SlowFast, "uniform" as in torchvision's
            references, or pytorchvideo's "constant_clips_per_video".
        interpolation: How frames are scaled.
        antialias: Whether scaling down averages over all covered pixels. The published accuracies of videos,
            SlowFast's and torchvision's, are without.
        rounding: Whose rounding the long side and the place of the crops have; they differ by a pixel at most.
        frame_order: "natural"; "reversed" and "shuffled" are controls that show what a score owes to time.
    """

    num_clips: int = 5
    num_crops: int = 1
    short_side: int = 256
    positions: ClipPositions = "spread"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    rounding: Rounding = "slowfast"
    frame_order: FrameOrder = "natural"

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        if self.num_crops == 2:
            raise ValueError("num_crops must be 1 or 3, got 2")
        if self.rounding == "torchvision" and self.num_crops != 1:
            raise ValueError(f"torchvision's rounding is for one crop, num_crops must be 1, got {self.num_crops}")


class Protocol(ABC):
    """Everything between a file and a score except the model.

    Attributes:
        kind: Its name in dictionaries.
        noun: The name of a file.
        view_noun: The name of a view.
        is_video: Whether views have an axis T.
        size: Side of a view in pixels.
        normalisation: Mean and standard deviation.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    view_noun: ClassVar[str]
    is_video: ClassVar[bool]
    size: int
    normalisation: Normalisation

    @property
    @abstractmethod
    def num_views(self) -> int:
        """Views per file."""

    @property
    @abstractmethod
    def view_shape(self) -> tuple[int, ...]:
        """(C, T, H, W) or (C, H, W) of a view."""

    @abstractmethod
    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the spatial views of frames of this size."""

    @abstractmethod
    def central(self) -> Self:
        """Return the protocol with one view, the central one."""

    @abstractmethod
    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return the protocol with the values of a data module's arguments."""

    @classmethod
    @abstractmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "Protocol":
        """Return the protocol of a data module's arguments."""

    @classmethod
    @abstractmethod
    def of_values(cls, values: Mapping[str, Any]) -> "Protocol":
        """Return the protocol from the values of `as_dict` without `kind`."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, the form in checkpoints."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]  # all subclasses are dataclasses


@dataclass(frozen=True)
class ClipProtocol(Protocol):
    """Clips of videos.

    Attributes:
        clip: Frames of a clip.
        views: Clips and crops.
        size: Side of a crop in pixels.
        normalisation: Mean and standard deviation.
        aggregation: How the views of a video become one score.
    """

    kind: ClassVar[str] = "clips"
    noun: ClassVar[str] = "video"
    view_noun: ClassVar[str] = "clip"
    is_video: ClassVar[bool] = True

    clip: ClipSpec = field(default_factory=ClipSpec)
    views: Views = field(default_factory=Views)
    size: int = 224
    normalisation: Normalisation = field(default_factory=Normalisation)
    aggregation: Literal["mean of softmax", "mean of sigmoid", "mean of values"] = "mean of softmax"

    def __post_init__(self) -> None:
        if self.size > self.views.short_side:
            raise ValueError(f"crops of {self.size} pixels do not fit in a short side of {self.views.short_side}")
        if self.clip.sampling == "segments" and self.views.num_clips != 1:
            raise ValueError(
                f"segments over the whole video make one clip, num_clips must be 1, got {self.views.num_clips}"
            )

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.views.num_clips * self.views.num_crops

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a view."""
        return 3, self.clip.num_frames, self.size, self.size

    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the crops of frames of this size."""
        views = self.views
        return eval_geometries(
            height,
            width,
            short_side=views.short_side,
            size=self.size,
            num_crops=views.num_crops,
            interpolation=views.interpolation,
            antialias=views.antialias,
            rounding=views.rounding,
        )

    def central(self) -> Self:
        """Return the protocol with one clip and one crop."""
        return replace(self, views=replace(self.views, num_clips=1, num_crops=1))

    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return the protocol with these values of `clip` and `test_views`."""
        clip, views = replace(self.clip, **settings["clip"]), replace(self.views, **settings["test_views"])
        return replace(self, clip=clip, views=views)  # in one step: segments with many clips are invalid

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "ClipProtocol":
        """Return the protocol of a video data module's arguments."""
        return cls.of_values({**_shared(settings), "clip": settings["clip"], "views": settings["test_views"]})

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "ClipProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        return cls(**{**values, "clip": ClipSpec(**values["clip"]), "views": Views(**values["views"])})

    def __str__(self) -> str:
        clip, views = self.clip, self.views
        rate = "own fps" if clip.target_fps is None else f"{clip.target_fps:g} fps"
        scaling = views.interpolation if views.antialias else f"{views.interpolation} without antialias"
        order = "" if views.frame_order == "natural" else f", frames {views.frame_order}"
        frames = f"{clip.num_frames}x{clip.stride_frames} at {rate}"
        if clip.sampling == "segments":
            frames = f"{clip.num_frames} segments"
        return (
            f"{frames}, {views.num_clips} clips x {views.num_crops} crops, "
            f"short side {views.short_side}, crop {self.size}, {scaling}, {self.aggregation}{order}"
        )


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
        return cls.of_values({**_shared(settings), "short_side": settings["size"], "upright": True}).under(settings)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "ImageProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        return cls(**values)

    def __str__(self) -> str:
        turned = ", turned upright" if self.upright else ""
        return f"{self.split} images, short side {self.short_side}, crop {self.size}, {self.interpolation}{turned}"


@dataclass(frozen=True)
class MaskProtocol(Protocol):
    """Images whose pixels get a class each, scored at the size of their file.

    The loader gives the whole image in its own size; the network's input is made of it on the device, because views of
    several sizes make no batch.

    Attributes:
        name: The name of these settings, of `NAMED_MASK_PROTOCOLS` or one's own.
        split: The scored split.
        size: Side of the square training crop in pixels.
        scale: Most pixels of the long and of the short side of the network's input, whose ratio stays as it is; `None`
            takes images in their own size.
        align: Both sides are then stretched up to a multiple of it.
        mode: "whole" images, or a "slide" of square windows whose logits are averaged where they overlap.
        window: Side of a window in pixels.
        stride: Pixels from one window to the next; the last one is shifted back into the image.
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
    size: int = 512
    scale: tuple[int, int] | None = (2048, 512)
    align: int = 1
    mode: Literal["whole", "slide"] = "whole"
    window: int = 512
    stride: int = 341
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
        return 3, self.size, self.size

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
        rows, columns = (
            [min(i * self.stride, max(side - self.window, 0)) for i in range(count)]
            for side, count in (
                (side, max(side - self.window + self.stride - 1, 0) // self.stride + 1) for side in (height, width)
            )
        )
        size = min(self.window, height), min(self.window, width)
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
        return cls.named(settings["protocol"], **_shared(settings))

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "MaskProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        scale = values["scale"]
        return cls(**{**values, "ratios": tuple(values["ratios"]), "scale": None if scale is None else tuple(scale)})

    def __str__(self) -> str:
        scale = "own size" if self.scale is None else f"at most {self.scale[0]} x {self.scale[1]} pixels"
        parts = [f"{self.split} images", self.name, scale]
        parts += [f"sides multiples of {self.align}"] if self.align > 1 else []
        parts += [f"windows of {self.window} every {self.stride}"] if self.mode == "slide" else []
        parts += [f"{len(self.ratios)} sizes"] if len(self.ratios) > 1 else []
        parts += ["mirrored too"] if self.flip else []
        return ", ".join(parts)


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

KINDS: dict[str, type[Protocol]] = {kind.kind: kind for kind in (ClipProtocol, ImageProtocol, MaskProtocol)}


def kind_of(values: Mapping[str, Any]) -> type[Protocol]:
    """Return the class of a protocol, from the values of `as_dict` or a data module's arguments.

    Values of earlier versions, and arguments, do not name the kind; only clips have an entry `clip`, and only
    masks one `protocol`.

    Raises:
        ValueError: This version does not know the kind.
    """
    name = values.get("kind", "clips" if "clip" in values else "masks" if "protocol" in values else "images")
    if name not in KINDS:
        raise ValueError(f"this version of mvrec knows no protocol of kind {name!r}, only {', '.join(KINDS)}")
    return KINDS[name]


def protocol_of(values: Mapping[str, Any]) -> Protocol:
    """Return the protocol from the values of `as_dict`.

    Raises:
        ValueError: This version does not know the protocol.
    """
    kind = kind_of(values)
    try:
        plain = {name: value for name, value in values.items() if name != "kind"}
        return kind.of_values({**plain, "normalisation": _normalisation(values["normalisation"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"this protocol was not written by this version of mvrec: {error}") from None


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": settings["size"], "normalisation": _normalisation(settings["normalisation"])}


def _normalisation(values: Mapping[str, Any]) -> Normalisation:
    return Normalisation(mean=tuple(values["mean"]), std=tuple(values["std"]))
