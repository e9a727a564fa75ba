"""The head of semantic segmentation: from a network's maps to logits of every pixel."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo, MapsHead
from mvrec.models.heads.decoders import (
    AuxiliaryFCN,
    Pyramid,
    SegFormer,
    SegFormerMMSeg,
    SemanticFPN,
    UPerNet,
)
from mvrec.models.heads.level_norms import LevelNorm, norm_of_level
from mvrec.models.heads.resizing import resize

DecoderName = Literal["semantic_fpn", "upernet", "segformer", "segformer_mmseg"]
# Channels of the papers, for ADE20K; SegFormer's are those of its smallest networks.
CHANNELS: dict[str, int] = {"semantic_fpn": 128, "upernet": 512, "segformer": 256, "segformer_mmseg": 256}
AUXILIARY_CHANNELS = 256
FINEST_STRIDE = 4  # decoders of the papers begin there; finer maps stay unused


class SegmentationHead(MapsHead):
    """A decoder on a network's maps, and in training an auxiliary one.

    Defaults are the papers' numbers. `arguments` has the keyword arguments that build the same head again for the same
    levels and classes, with its defaults filled in.

    Args:
        levels: The network's maps, fine to coarse. Maps finer than stride 4 stay unused if others remain.
        num_classes: K.
        decoder: "semantic_fpn" (Kirillov et al. 2019) on a feature pyramid, "upernet" (Xiao et al. 2018), "segformer"
            (Xie et al. 2021) in its authors' form, or "segformer_mmseg" in mmsegmentation's, which has other layers.
        channels: Width of the decoder; None for 128, 512, 256 and 256.
        neck_channels: Channels of Semantic FPN's pyramid; None for twice `channels`. Other decoders have none.
        dropout: Chance that a channel is dropped before a classifier, in training.
        auxiliary: Whether training has a second decoder on the second coarsest map; None for UPerNet only.
        auxiliary_channels: Its width; None for 256.
        level_norm: A norm on every map: "layer" over channels, "group" over channels and pixels in one group, or
            "none". Shunted and SG-Former norm their maps; MViT and CloFormer norm the last one only.

    Raises:
        ValueError: An argument is out of its range.
    """

    kind = "pixels"

    def __init__(
        self,
        levels: Sequence[FeatureInfo],
        num_classes: int,
        *,
        decoder: DecoderName = "semantic_fpn",
        channels: int | None = None,
        neck_channels: int | None = None,
        dropout: float = 0.1,
        auxiliary: bool | None = None,
        auxiliary_channels: int | None = None,
        level_norm: LevelNorm = "none",
    ) -> None:
        super().__init__()
        _check(levels, num_classes, decoder, level_norm, dropout)
        self.arguments = head_arguments(
            decoder=decoder,
            channels=channels,
            neck_channels=neck_channels,
            dropout=dropout,
            auxiliary=auxiliary,
            auxiliary_channels=auxiliary_channels,
            level_norm=level_norm,
        )
        channels, neck_channels = self.arguments["channels"], self.arguments["neck_channels"]
        self.first_level = next((i for i, level in enumerate(levels) if level.stride >= FINEST_STRIDE), 0)
        levels = levels[self.first_level :]
        self.level_norms = nn.ModuleList(norm_of_level(level_norm, level.channels) for level in levels)
        self.neck = nn.Identity() if neck_channels is None else Pyramid(levels, neck_channels)
        self.decoder = _decoder(decoder, levels, channels, neck_channels, num_classes=num_classes, dropout=dropout)
        self.auxiliary: AuxiliaryFCN | None = None
        if self.arguments["auxiliary"]:
            in_channels = levels[-2:][0].channels
            width = self.arguments["auxiliary_channels"]
            self.auxiliary = AuxiliaryFCN(in_channels, width, num_classes=num_classes, dropout=dropout)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits `(B, K, H, W)`; in training with an auxiliary decoder also its logits, of the same shape.

        Args:
            maps: The network's maps `(B, C_i, H_i, W_i)`, fine to coarse.
            size: (H, W) of the logits.

        Raises:
            ValueError: The maps are not those of images.
        """
        if maps[0].ndim != 4:
            raise ValueError(f"segmentation needs maps of images (B, C, H, W), got shape {tuple(maps[0].shape)}")
        pairs = zip(self.level_norms, maps[self.first_level :], strict=True)
        levels = [norm(level) for norm, level in pairs]
        logits = resize(self.decoder(self.neck(levels)), size)
        if self.auxiliary is None or not self.training:
            return logits
        return logits, resize(self.auxiliary(levels[-2:][0]), size)


def head_arguments(
    *,
    decoder: DecoderName = "semantic_fpn",
    channels: int | None = None,
    neck_channels: int | None = None,
    dropout: float = 0.1,
    auxiliary: bool | None = None,
    auxiliary_channels: int | None = None,
    level_norm: LevelNorm = "none",
) -> dict[str, Any]:
    """Fill in the defaults of `SegmentationHead`'s keyword arguments; widths of parts that it lacks are None.

    Raises:
        ValueError: A width is less than 1.
    """
    channels = CHANNELS[decoder] if channels is None else channels
    auxiliary = decoder == "upernet" if auxiliary is None else auxiliary
    neck_channels = 2 * channels if neck_channels is None else neck_channels
    auxiliary_channels = AUXILIARY_CHANNELS if auxiliary_channels is None else auxiliary_channels
    widths = {"channels": channels, "neck_channels": neck_channels, "auxiliary_channels": auxiliary_channels}
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} must be 1 or more, got {width}")
    return {
        "decoder": decoder,
        "channels": channels,
        "neck_channels": neck_channels if decoder == "semantic_fpn" else None,
        "dropout": dropout,
        "auxiliary": auxiliary,
        "auxiliary_channels": auxiliary_channels if auxiliary else None,
        "level_norm": level_norm,
    }


def _check(levels: Sequence[FeatureInfo], num_classes: int, decoder: str, level_norm: str, dropout: float) -> None:
    if not levels:
        raise ValueError("segmentation needs a network with feature maps, and this one has none")
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, got {num_classes}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie in 0..1, got {dropout}")
    for name, choice, choices in (
        ("decoder", decoder, get_args(DecoderName)),
        ("level_norm", level_norm, get_args(LevelNorm)),
    ):
        if choice not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")


def _decoder(
    name: DecoderName,
    levels: Sequence[FeatureInfo],
    channels: int,
    neck_channels: int | None,
    *,
    num_classes: int,
    dropout: float,
) -> nn.Module:
    if neck_channels is not None:
        strides = [level.stride for level in levels]
        return SemanticFPN(neck_channels, strides, channels, num_classes=num_classes, dropout=dropout)
    kind = {"upernet": UPerNet, "segformer": SegFormer, "segformer_mmseg": SegFormerMMSeg}[name]
    return kind(levels, channels, num_classes=num_classes, dropout=dropout)
