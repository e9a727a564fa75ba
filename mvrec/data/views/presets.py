"""The protocols of published accuracies, by name.

A preset says how a file becomes views. Frames per clip, crop size, mean and standard deviation belong to the
weights and stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError, nearest

if TYPE_CHECKING:
    from mvrec.data.views.protocol import Protocol


@dataclass(frozen=True)
class Preset:
    """One protocol.

    Attributes:
        source: Its source.
        clip: Values of a `ClipSpec`.
        views: Values of `Views`, but for the short side; empty for images.
        short_side: Pixels of the short side for a crop of 224 pixels, and in proportion for others.
        crop_fraction: Share of the scaled short side that the crop of an image keeps.
    """

    source: str
    clip: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)
    short_side: int = 224
    crop_fraction: float = 0.875

    @property
    def kind(self) -> "type[Protocol]":
        """The class of its protocol."""
        from mvrec.data.views.protocol import ClipProtocol, ImageProtocol  # import torch, which a name does not need

        return ClipProtocol if self.views else ImageProtocol

    def settings(self, size: int) -> dict[str, Any]:
        """Return the arguments of a data module whose crops have `size` pixels."""
        if not self.views:
            return {"crop_fraction": self.crop_fraction, "interpolation": "bicubic"}
        return {"clip": dict(self.clip), "test_views": {**self.views, "short_side": size * self.short_side // 224}}

    def applied(self, protocol: "Protocol") -> "Protocol":
        """Return a protocol with the values of this preset.

        Raises:
            UserError: One of them is for images and the other for videos.
        """
        if protocol.kind != self.kind.kind:
            raise UserError(f"this protocol is for {self.kind.noun}s, the network takes {protocol.noun}s")
        return protocol.under(self.settings(protocol.size))


_SLOWFAST = {"positions": "spread", "interpolation": "bilinear", "antialias": False, "rounding": "slowfast"}
_DENSE = {"sampling": "dense", "target_fps": 30.0}

PRESETS: dict[str, Preset] = {
    "slowfast-5x1": Preset(
        "SlowFast's models of the MViT papers on Kinetics: arXiv 2104.11227, section 4.1; one crop of 224 from 256",
        _DENSE,
        {"num_clips": 5, "num_crops": 1, **_SLOWFAST},
        short_side=256,
    ),
    # With three crops SlowFast scales the short side to the crop.
    "slowfast-10x3": Preset(
        "SlowFast networks on Kinetics: arXiv 1812.03982, section 4",
        _DENSE,
        {"num_clips": 10, "num_crops": 3, **_SLOWFAST},
    ),
    "v2l-5x3": Preset(
        "MViTv2-L on Kinetics: arXiv 2112.01526, section 5.3", _DENSE, {"num_clips": 5, "num_crops": 3, **_SLOWFAST}
    ),
    "ssv2-1x3": Preset(
        "Something-Something v2 in both MViT papers: one clip of segments over the whole video, three crops",
        {"sampling": "segments"},
        {"num_clips": 1, "num_crops": 3, **_SLOWFAST},
    ),
    "torchvision-mvit": Preset(
        "torchvision's mvit_v1_b and mvit_v2_s: frame_rate=7.5, clips_per_video=5, clip_len=16",
        {"sampling": "dense", "target_fps": 30.0, "stride_frames": 4},
        {
            **{"num_clips": 5, "num_crops": 1, "positions": "uniform"},
            **{"interpolation": "bilinear", "antialias": False, "rounding": "torchvision"},
        },
        short_side=256,
    ),
    "imagenet-shunted": Preset("Shunted Transformer's release"),
    "imagenet-cloformer": Preset("CloFormer's release"),
    "imagenet-mvit": Preset("MViT v1 and v2 in SlowFast and the mvit repository"),
    "imagenet-sgformer": Preset("SG-Former's release, with timm 0.3.4's crop", crop_fraction=0.9),
}


def preset(name: str, *, where: str = "--protocol") -> Preset:
    """Return a preset by name.

    Raises:
        UserError: Unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise UserError(f"{where}: there is no protocol {name!r}{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
