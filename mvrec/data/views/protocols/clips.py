"""Protocols of videos with one target each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.clip_spec import ClipPositions, ClipSpec
from mvrec.data.views.geometry import Geometry, Interpolation, Rounding, eval_geometries
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocols.base import Protocol, shared
from mvrec.ranges import check_ranges

FrameOrder = Literal["natural", "reversed", "shuffled"]


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
        return cls.of_values({**shared(settings), "clip": settings["clip"], "views": settings["test_views"]})

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
