"""A shallow build of every family and kind of network, for the tests that all of them must pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from mvrec.models import CloFormer, MViT, SGFormer, Shunted, accelerate, cloformer, sgformer, shunted
from mvrec.models.backbone import Backbone
from mvrec.models.zoo import _as_released

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Build:
    """One row of the table: a class of networks and its arguments."""

    network: Callable[..., Backbone]
    arguments: dict[str, Any]
    min_size: int  # pixels per side
    depth: int  # blocks
    shallower: dict[str, Any] = field(default_factory=dict)  # leaves every kind of layer once: tracing takes seconds
    zero: tuple[str, ...] = ()  # ends of names of parameters whose gradient is exactly zero, though there is one
    inert: tuple[str, ...] = ()  # the same for gradients that are zero but for rounding

    def __call__(self, **changes: Any) -> Backbone:
        """The network as it starts, with other arguments where wanted: quick, or plain under `MVREC_PLAIN=1`."""
        torch.manual_seed(0)
        return accelerate(self.network(**(self.arguments | changes)))

    @property
    def is_video(self) -> bool:
        return self.arguments.get("num_frames") is not None

    @property
    def has_batch_norm(self) -> bool:
        return self.network in (CloFormer, Shunted)


COMMON = {"num_classes": 5, "image_size": 64}
SHUNTED_STAGES = (
    shunted.Stage(dim=16, depth=1, heads=2, sr_ratio=8, mlp_ratio=2),
    shunted.Stage(dim=32, depth=2, heads=4, sr_ratio=4, mlp_ratio=2),
    shunted.Stage(dim=48, depth=1, heads=2, sr_ratio=2, mlp_ratio=1.5),
    shunted.Stage(dim=64, depth=1, heads=4, sr_ratio=1, mlp_ratio=2),
)
SGFORMER_STAGES = (
    sgformer.Stage(dim=16, depth=2, heads=2, sr_ratio=8, chunks=(8, 4, 2), mlp_ratio=2),
    sgformer.Stage(dim=32, depth=2, heads=4, sr_ratio=4, chunks=(4, 2, 1), mlp_ratio=2),
    sgformer.Stage(dim=48, depth=1, heads=2, sr_ratio=2, chunks=(2, 1), mlp_ratio=1.5),
    sgformer.Stage(dim=64, depth=1, heads=4, sr_ratio=1, chunks=(), mlp_ratio=2),
)
CLOFORMER_STAGES = (
    cloformer.Stage(dim=8, depth=2, heads=2, local_heads=1, kernel=3, kv_pool=8),
    cloformer.Stage(dim=12, depth=1, heads=3, local_heads=1, kernel=5, kv_pool=4),
    cloformer.Stage(dim=16, depth=1, heads=4, local_heads=3, kernel=7, kv_pool=2),
    cloformer.Stage(dim=24, depth=1, heads=6, local_heads=2, kernel=9, kv_pool=1),
)
SHUNTED = COMMON | {"stages": SHUNTED_STAGES, "num_stem_convs": 1}
SGFORMER = COMMON | {"stages": SGFORMER_STAGES}
CLOFORMER = COMMON | {"stages": CLOFORMER_STAGES}

# Three grids, the last with 16 pixels to a cell; as in the released networks, no stage starts at the first block.
MVIT_V1 = {
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 5,
    "dim_mults": {1: 2, 3: 2},
    "head_mults": {1: 2, 3: 2},
    "q_strides": {1: 2, 3: 2},
    "kv_stride": 4,
}
MVIT_V2 = MVIT_V1 | {
    "pool_every_q": True,
    "dim_change": "attention",
    "pos_embed": "none",
    "rel_pos": True,
    "residual_pooling": True,
}
VIDEO = {"num_frames": 4, "image_size": 32}
IMAGE = {"num_frames": None, "image_size": 32, "pool_kernel": (1, 3, 3)}
WINDOWS = {"window": 8, "double_last_kv_stride": True, "image_size": 64}  # with more than one key in each
MVIT_SHALLOWER = {"depth": 2, "dim_mults": {1: 2}, "head_mults": {1: 2}, "q_strides": {1: 2}}
# A bias of all keys shifts all scores of a query alike, and a softmax does not see that.
KEY_BIAS = (".attn.norm_k.bias",)
# Only the class token of the last block reaches the head: its query is neither pooled nor placed.
LAST_PLACES = tuple(f"blocks.4.attn.rel_pos_{axis}" for axis in "thw")
LAST_QUERY = ("blocks.4.attn.pool_q.weight", *LAST_PLACES)
# Batch norms take the mean away again.
BEFORE_BATCH_NORM = (*(f"patch_embed.conv{i}.conv.0.bias" for i in (1, 2, 3, 4)), ".downsample.0.bias")


OF_CLOFORMER: dict[str, Any] = {
    "min_size": 32,
    "depth": 5,
    "shallower": {"stages": CLOFORMER_STAGES[1:3]},
    "inert": BEFORE_BATCH_NORM,
}
OF_MVIT: dict[str, Any] = {"min_size": 16, "depth": 5, "shallower": MVIT_SHALLOWER, "inert": KEY_BIAS}
OF_POOLED_MVIT = OF_MVIT | {"inert": ()}  # without norms of keys

BUILDS = {
    "shunted": Build(Shunted, SHUNTED, min_size=31, depth=5, shallower={"stages": SHUNTED_STAGES[2:]}),
    "sgformer": Build(
        SGFormer, SGFORMER, min_size=17, depth=6, shallower={"stages": (SGFORMER_STAGES[1], SGFORMER_STAGES[3])}
    ),
    "cloformer": Build(CloFormer, CLOFORMER, **OF_CLOFORMER),
    "cloformer_global": Build(CloFormer, CLOFORMER | {"branches": "global"}, **OF_CLOFORMER),
    "cloformer_local": Build(CloFormer, CLOFORMER | {"branches": "local"}, **OF_CLOFORMER),
    "mvit_v1_video": Build(MViT, MVIT_V1 | VIDEO, **OF_MVIT),
    "mvit_v1_video_space": Build(MViT, MVIT_V1 | VIDEO | {"pool_kernel": None}, **OF_MVIT),
    "mvit_v1_video_max": Build(MViT, MVIT_V1 | VIDEO | {"pooling": "max"}, **OF_POOLED_MVIT),
    "mvit_v1_image": Build(MViT, MVIT_V1 | IMAGE | {"pos_embed": "joint"}, **OF_MVIT),
    "mvit_v2_video": Build(MViT, MVIT_V2 | VIDEO, zero=LAST_QUERY, **OF_MVIT),
    "mvit_v2_video_avg": Build(MViT, MVIT_V2 | VIDEO | {"pooling": "avg"}, zero=LAST_PLACES, **OF_POOLED_MVIT),
    "mvit_v2_image": Build(MViT, MVIT_V2 | IMAGE | {"cls_token": False}, **OF_MVIT),
    "mvit_v2_image_mlp": Build(MViT, MVIT_V2 | IMAGE | {"cls_token": False, "dim_change": "mlp"} | WINDOWS, **OF_MVIT),
}
# In plain networks neither layouts nor what a network computes are chosen for speed.
IS_PLAIN = type(accelerate(MViT(**MVIT_V1, **VIDEO))) is MViT
quick_form = pytest.mark.skipif(IS_PLAIN, reason="networks are plain, and this is about their quick form")
VIDEOS = [name for name, build in BUILDS.items() if build.is_video]


# A variant without memory for its weights, built once: for names and shapes, never to be changed.
released = _as_released


def lively(model: Network, *, seed: int = 1, spread: float = 0.2) -> Network:
    """Weights of ordinary size: at initialisation the attention is almost uniform and hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    return model


def small(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """The plain network of a row in evaluation, with weights of ordinary size."""
    torch.manual_seed(seed)
    build = BUILDS[name]
    return lively(build.network(**(build.arguments | changes)), seed=seed).eval()


def inputs(model: Backbone, size: int = 2, **axes: int) -> Tensor:
    """A batch of `size` images or clips as the network was constructed for, but for the axes (C, T, H, W) named."""
    shape = dict(zip("CTHW" if len(model.input_shape) == 4 else "CHW", model.input_shape, strict=True)) | axes
    return torch.randn(size, *shape.values(), generator=torch.Generator().manual_seed(2))


def channels_last(x: Tensor) -> Tensor:
    """The same batch with its channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
