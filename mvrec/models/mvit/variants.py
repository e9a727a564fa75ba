"""The released MViT v1 and v2 networks: every function is one row of the papers' tables."""

from typing import Any

from mvrec.models.mvit.mvit import MViT
from mvrec.models.mvit.pooling_attention import Pooling

Stages = tuple[int, int, int, int]
Size = int | tuple[int, int]

# Blocks per stage, shared by both papers; heads and width double and the grid halves where a stage begins.
DEPTH_10: Stages = (1, 2, 5, 2)
DEPTH_16: Stages = (1, 2, 11, 2)
DEPTH_24: Stages = (2, 3, 16, 3)
DEPTH_48: Stages = (2, 6, 36, 4)
# The form for detection, as detectron2's projects/MViTv2 has it: its width changes in the attention in all sizes.
DETECTION = {"window": 56, "double_last_kv_stride": True, "level_norms": True, "dim_change": "attention"}


def _mvit_v1(stages: Stages, **knobs: Any) -> MViT:
    return MViT(embed_dim=96, num_heads=1, **_stage_starts(stages), **knobs)


def _mvit_v2(
    stages: Stages,
    *,
    num_frames: int | None,
    embed_dim: int = 96,
    num_heads: int = 1,
    detection: bool = False,
    **knobs: Any,
) -> MViT:
    is_video = num_frames is not None
    return MViT(
        num_frames=num_frames,
        embed_dim=embed_dim,
        num_heads=num_heads,
        kv_stride=8 if is_video else 4,
        pool_kernel=(3, 3, 3) if is_video else (1, 3, 3),
        pool_every_q=True,
        cls_token=is_video,
        pos_embed="none",
        rel_pos=True,
        residual_pooling=True,
        **{"dim_change": "attention", **_stage_starts(stages), **knobs, **(DETECTION if detection else {})},
    )


def _stage_starts(stages: Stages) -> dict[str, Any]:
    """Return the settings that double heads and width and halve the grid at the start of later stages."""
    starts = [sum(stages[:i]) for i in range(1, len(stages))]
    return {
        "depth": sum(stages),
        **{name: dict.fromkeys(starts, 2) for name in ("dim_mults", "head_mults", "q_strides")},
    }


# A function's `locals()` are its arguments: a row of a table, and the knobs that users may change.


def mvit_b_16x4(
    num_classes: int = 400,
    *,
    num_frames: int = 16,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.2,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
    unpooled_kv_blocks: tuple[int, ...] = (),
) -> MViT:
    """Build MViT-B 16x4: 36.6 M parameters, 70.8 GFLOPs, 78.4 % on Kinetics-400 (MViT, table 3).

    `unpooled_kv_blocks=(14, 15)` is the network as first released in April 2021, of 70.5 GFLOPs.
    """
    return _mvit_v1(DEPTH_16, kv_stride=8, pool_kernel=(3, 3, 3), pos_embed="separate", **locals())


def mvit_b_32x3(
    num_classes: int = 400,
    *,
    num_frames: int = 32,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.3,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViT-B 32x3: 36.6 M parameters, 170 GFLOPs, 80.3 % on Kinetics-400."""
    return _mvit_v1(DEPTH_16, kv_stride=8, pool_kernel=(3, 3, 3), pos_embed="separate", **locals())


def mvit_b24_32x3(
    num_classes: int = 400,
    *,
    num_frames: int = 32,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.3,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViT-B-24 32x3: 53.1 M parameters, 236 GFLOPs, the depth of the released "B 32x3" configuration.

    It pools only space, with kernels one wider than their strides, and nothing where the stride is 1.
    """
    return _mvit_v1(DEPTH_24, kv_stride=8, pool_kernel=None, pos_embed="separate", **locals())


def mvit_b_image(
    num_classes: int = 1000,
    *,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.1,
    head_dropout: float = 0.0,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViT-B-16 for images: 37.0 M parameters, 7.8 GFLOPs, 83.0 % on ImageNet-1k."""
    return _mvit_v1(DEPTH_16, kv_stride=4, pool_kernel=(1, 3, 3), pos_embed="joint", num_frames=None, **locals())


def mvit_v2_t(
    num_classes: int = 1000,
    *,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.1,
    head_dropout: float = 0.0,
    pooling: Pooling = "conv",
    detection: bool = False,
) -> MViT:
    """Build MViTv2-T: 24.2 M parameters, 4.7 GFLOPs, 82.3 % on ImageNet-1k (MViTv2, table 1).

    With `detection` it attends in windows and norms all its maps, as under the detectors of the paper (section 4.2).
    """
    return _mvit_v2(DEPTH_10, num_frames=None, **locals())


def mvit_v2_s(
    num_classes: int = 1000,
    *,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.1,
    head_dropout: float = 0.0,
    pooling: Pooling = "conv",
    detection: bool = False,
) -> MViT:
    """Build MViTv2-S: 34.9 M parameters, 7.0 GFLOPs, 83.6 % on ImageNet-1k (MViTv2, table 1)."""
    return _mvit_v2(DEPTH_16, num_frames=None, **locals())


def mvit_v2_b(
    num_classes: int = 1000,
    *,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.3,
    head_dropout: float = 0.0,
    pooling: Pooling = "conv",
    detection: bool = False,
) -> MViT:
    """Build MViTv2-B: 51.5 M parameters, 10.2 GFLOPs, 84.4 % on ImageNet-1k (MViTv2, table 1)."""
    return _mvit_v2(DEPTH_24, num_frames=None, **locals())


def mvit_v2_l(
    num_classes: int = 1000,
    *,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.5,
    head_dropout: float = 0.0,
    pooling: Pooling = "conv",
    detection: bool = False,
) -> MViT:
    """Build MViTv2-L: 218 M parameters, 43.9 GFLOPs, 85.3 % on ImageNet-1k (MViTv2, table 1).

    The released weights for classification change width in the MLPs, unlike every other MViTv2.
    """
    return _mvit_v2(DEPTH_48, embed_dim=144, num_heads=2, dim_change="mlp", num_frames=None, **locals())


def mvit_v2_s_16x4(
    num_classes: int = 400,
    *,
    num_frames: int = 16,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.2,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViTv2-S 16x4: 34.5 M parameters, 64.5 GFLOPs, 81.0 % on Kinetics-400."""
    return _mvit_v2(DEPTH_16, **locals())


def mvit_v2_b_32x3(
    num_classes: int = 400,
    *,
    num_frames: int = 32,
    image_size: Size = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.3,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViTv2-B 32x3: 51.2 M parameters, 225 GFLOPs, 82.9 % on Kinetics-400."""
    return _mvit_v2(DEPTH_24, **locals())


def mvit_v2_l_40x3(
    num_classes: int = 400,
    *,
    num_frames: int = 40,
    image_size: Size = 312,
    in_channels: int = 3,
    drop_path_rate: float = 0.75,
    head_dropout: float = 0.5,
    pooling: Pooling = "conv",
) -> MViT:
    """Build MViTv2-L 40x3 at 312 pixels: 213 M parameters, 2.8 TFLOPs, 86.1 % on Kinetics-400."""
    return _mvit_v2(DEPTH_48, embed_dim=144, num_heads=2, **locals())
