"""How a file becomes the views that are scored: what a published accuracy cannot be read without.

It stands in this package because it says how data are read; evaluation prints it and checkpoints carry it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mvrec.data.views.sampling import ClipPositions, ClipSpec
from mvrec.data.views.transforms import IMAGENET_NORMALISATION, Interpolation, Normalisation, Rounding

FrameOrder = Literal["natural", "reversed", "shuffled"]


@dataclass(frozen=True)
class Views:
    """The views of a video.

    Attributes:
        num_clips: Temporal views.
        num_crops: Spatial views per clip: 1 (centre) or 3 (along the long side).
        short_side: Pixels of the short side of a frame before it is cropped.
        positions: Where the clips lie: "spread" over the video as SlowFast does it, "uniform" as torchvision's
            references do it, or pytorchvideo's "constant_clips_per_video".
        interpolation: How frames are scaled.
        antialias: Whether scaling down averages over all pixels that it covers. The published accuracies of videos,
            SlowFast's and torchvision's, are without.
        rounding: Whose rounding the long side and the place of the crops follow; they differ by a pixel at most.
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
        if self.num_clips < 1 or self.num_crops not in (1, 3):
            raise ValueError(f"views need num_clips >= 1 and num_crops 1 or 3, got {self.num_clips} x {self.num_crops}")
        if self.rounding == "torchvision" and self.num_crops != 1:
            raise ValueError(f"torchvision's rounding is for one crop, num_crops must be 1, got {self.num_crops}")


@dataclass(frozen=True)
class Protocol:
    """Everything between a file and a score except the model.

    Attributes:
        clip: Frames of a clip.
        views: Clips and crops.
        size: Side of a crop in pixels.
        normalisation: Mean and standard deviation.
        aggregation: How the views of a video become one score.
    """

    clip: ClipSpec = field(default_factory=ClipSpec)
    views: Views = field(default_factory=Views)
    size: int = 224
    normalisation: Normalisation = field(default_factory=Normalisation)
    aggregation: Literal["mean of softmax", "mean of sigmoid"] = "mean of softmax"

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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as checkpoints hold it."""
        return asdict(self)


@dataclass(frozen=True)
class ImageProtocol:
    """Everything between an image and a score except the model: short side scaled with antialiasing, centre cropped.

    Attributes:
        split: Which images are scored. ImageNet's published accuracies are those of "val".
        short_side: Pixels of the short side after scaling.
        size: Side of the crop in pixels.
        interpolation: How the image is scaled, antialiased.
        normalisation: Mean and standard deviation.
        upright: Whether the image is turned as its EXIF block asks for; the published accuracies are without.
    """

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

    def __str__(self) -> str:
        turned = ", turned upright" if self.upright else ""
        return f"{self.split} images, short side {self.short_side}, crop {self.size}, {self.interpolation}{turned}"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as checkpoints hold it."""
        return asdict(self)


def protocol_of(values: Mapping[str, Any]) -> Protocol | ImageProtocol:
    """The protocol that `as_dict` has written.

    Raises:
        ValueError: It is not one of this version.
    """
    try:
        values = {**values, "normalisation": _normalisation(values["normalisation"])}
        if "clip" not in values:
            return ImageProtocol(**values)
        return Protocol(**{**values, "clip": ClipSpec(**values["clip"]), "views": Views(**values["views"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"this protocol was not written by this version of mvrec: {error}") from None


def _normalisation(values: Mapping[str, Any]) -> Normalisation:
    return Normalisation(mean=tuple(values["mean"]), std=tuple(values["std"]))
