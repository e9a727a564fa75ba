"""Protocols of key frames of videos, in which boxes get classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import Box, Geometry, Interpolation, eval_geometries, short_side_size
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocols.base import Protocol, shared
from mvrec.data.views.protocols.clips import FrameOrder


@dataclass(frozen=True)
class KeyFrameProtocol(Protocol):
    """Clips around key frames, in whose boxes actions are recognised.

    Attributes:
        name: The name of the rule of scoring, of `NAMED_KEY_FRAME_PROTOCOLS` or one's own.
        clip: Frames of a clip. With T frames the key frame is frame T // 2, counted from 0; frames before the start and
            after the end of the video repeat its first and last.
        size: Pixels of the short side of a view.
        pixels: Whether a view is the square in the "centre" of the scaled frames, or the "full" frames.
        normalisation: Mean and standard deviation.
        boxes: The boxes that are scored: those of the ground "truth", or those of a detector ("detected").
        min_score: Least score of a detector's boxes.
        scored_frames: Whether detections count as false in "all" key frames without true boxes, as in ActivityNet's
            evaluation of AVA, or only frames "with_truth" are scored, as in mmaction2.
        frame_order: "natural"; "reversed" and "shuffled" are controls that show what a score owes to time.
        interpolation: How frames are scaled.
        antialias: Whether scaling down averages over all covered pixels.
    """

    kind: ClassVar[str] = "key frames"
    noun: ClassVar[str] = "key frame"
    view_noun: ClassVar[str] = "clip"
    is_video: ClassVar[bool] = True

    name: str = "ava"
    clip: ClipSpec = field(default_factory=ClipSpec)
    size: int = 224
    pixels: Literal["centre", "full"] = "centre"
    normalisation: Normalisation = field(default_factory=Normalisation)
    boxes: Literal["truth", "detected"] = "truth"
    min_score: float = 0.0
    scored_frames: Literal["all", "with_truth"] = "all"
    frame_order: FrameOrder = "natural"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    @classmethod
    def named(cls, name: str, **values: Any) -> "KeyFrameProtocol":
        """Return the protocol of a name, with further values.

        Raises:
            ValueError: There is no such name.
        """
        if name not in NAMED_KEY_FRAME_PROTOCOLS:
            raise ValueError(f"there is no protocol {name!r}, only {', '.join(NAMED_KEY_FRAME_PROTOCOLS)}")
        return cls(name=name, **{**NAMED_KEY_FRAME_PROTOCOLS[name], **values})

    @property
    def num_views(self) -> int:
        """Views per key frame."""
        return 1

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a training view."""
        return 3, self.clip.num_frames, self.size, self.size

    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the one view of frames of this size."""
        settings: dict[str, Any] = {"interpolation": self.interpolation, "antialias": self.antialias}
        if self.pixels == "full":
            scaled = short_side_size(height, width, self.size)
            return [Geometry(Box(0, 0, height, width), scaled, **settings)]
        return eval_geometries(height, width, short_side=self.size, size=self.size, **settings)

    def central(self) -> Self:
        """Return the protocol of the whole key frame alone, on which boxes can be drawn."""
        return replace(self, clip=replace(self.clip, num_frames=1), pixels="full")

    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return the protocol with these values of `clip`."""
        return replace(self, clip=replace(self.clip, **settings["clip"]))

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "KeyFrameProtocol":
        """Return the protocol of a data module's arguments."""
        values = {**shared(settings), "clip": ClipSpec(**settings["clip"]), "pixels": settings["pixels"]}
        return cls.named(settings["protocol"], **values)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "KeyFrameProtocol":
        """Return the protocol from the values of `as_dict` without `kind`."""
        return cls(**{**values, "clip": ClipSpec(**values["clip"])})

    def __str__(self) -> str:
        clip = self.clip
        rate = "own fps" if clip.target_fps is None else f"{clip.target_fps:g} fps"
        pixels = "crop" if self.pixels == "centre" else "full frames"
        least = f" of score {self.min_score:g} or more" if self.min_score else ""
        scaling = self.interpolation if self.antialias else f"{self.interpolation} without antialias"
        parts = [self.name, f"{clip.num_frames}x{clip.stride_frames} at {rate}"]
        parts += [f"short side {self.size}, {pixels}, {scaling}"]
        parts += ["true boxes" if self.boxes == "truth" else f"detected boxes{least}"]
        parts += ["only frames with true boxes"] if self.scored_frames == "with_truth" else []
        parts += [f"frames {self.frame_order}"] if self.frame_order != "natural" else []
        return ", ".join(parts)


# ActivityNet's evaluation of AVA, and mmaction2's, which leaves out detections in frames without ground truth.
NAMED_KEY_FRAME_PROTOCOLS: dict[str, dict[str, Any]] = {
    "ava": {"scored_frames": "all"},
    "ava-gt-frames": {"scored_frames": "with_truth"},
}
