"""Our image networks in timm: after `import mvrec.timm`, `timm.create_model("shunted_s", ...)` builds them.

They are the networks of `mvrec.models` under the authors' parameter names, so that checkpoints load:
`mvrec.models.load_weights` reads every layout, timm's `checkpoint_path=` those whose head has the right size.
One method differs, as timm requires: `forward_features` returns the last map instead of its mean.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from mvrec.models import CloFormer, SGFormer, Shunted, create_model, list_models
from mvrec.models.backbone import Backbone

FAMILIES = ("shunted", "sgformer", "cloformer")
FIRST_CONVS = {
    "shunted": "patch_embed1.conv.0",
    "sgformer": "patch_embed1.conv.0.c",
    "cloformer": "patch_embed.conv1.conv.0",
}
PAPERS = {"shunted": "arXiv:2111.15193", "sgformer": "arXiv:2308.12216", "cloformer": "arXiv:2303.17803"}
CROPS = {"shunted": 0.875, "sgformer": 0.9, "cloformer": 0.875}  # of the released evaluations


class TimmModel(Backbone):
    """The methods that timm requires of a model, on top of one of our image networks."""

    global_pool: str
    drop_rate: float

    @property
    def head_hidden_size(self) -> int:
        """Width of the classifier's input."""
        return self.num_features

    def forward(self, x: Tensor, *inputs: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to raw logits, or to features if there are no classes."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to the last map `(B, D, h, w)`, as timm's own networks do."""
        return self.feature_maps(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last map `(B, D, h, w)` to logits, or with `pre_logits` to the classifier's input `(B, D)`."""
        if not self.global_pool:
            return x
        x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return `feature_maps`, or those of some levels, preceded by the last map unless `intermediates_only`.

        The other arguments are timm's and have no effect: the maps have passed the norms that the networks have.

        Raises:
            ValueError: The output format is not NCHW.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"the maps are NCHW, not {output_fmt!r}")
        maps = self.feature_maps(x)
        levels = [maps[index] for index in _levels(indices, len(maps))]
        return levels if intermediates_only else (maps[-1], levels)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the head for `features_only` and keep the stages; return the levels counted from the finest."""
        if prune_head:
            self.reset_classifier(0)
        return _levels(indices, len(self.feature_info))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or an identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling if `global_pool` is given: "avg", or "" for bare maps.

        Raises:
            ValueError: `num_classes` is negative, or does not fit the pooling.
        """
        self._set_pool(self.global_pool if global_pool is None else global_pool, num_classes)
        self.reset_head(num_classes)

    def _set_pool(self, global_pool: str, num_classes: int) -> None:
        if global_pool not in ("avg", "") or (num_classes and not global_pool):
            raise ValueError(f"global_pool must be 'avg', or '' with 0 classes, got {global_pool!r} with {num_classes}")
        self.global_pool = global_pool

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch activation checkpointing, as `set_activation_checkpointing` does."""
        self.set_activation_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from a parameter's name to its block, or its stage if `coarse`, for layer-wise decay."""
        stages = self.parameter_stages()
        if coarse:
            stages = _merged(stages)
        return lambda name: next(level for level, prefixes in enumerate(stages) if name.startswith(prefixes))


class TimmShunted(TimmModel, Shunted):
    """Shunted Transformer in timm."""


class TimmSGFormer(TimmModel, SGFormer):
    """SG-Former in timm."""


class TimmCloFormer(TimmModel, CloFormer):
    """CloFormer in timm."""


CLASSES: dict[type[Backbone], type[TimmModel]] = {
    Shunted: TimmShunted,
    SGFormer: TimmSGFormer,
    CloFormer: TimmCloFormer,
}


def _levels(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return levels by timm's count: None for all, n for the last n, else these; negative ones count from the end."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    levels = [index + count if index < 0 else index for index in indices]
    if any(not 0 <= level < count for level in levels):
        raise ValueError(f"there are {count} maps, 0..{count - 1}, got the indices {tuple(indices)}")
    return levels


def _merged(stages: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Merge the blocks of each stage into one level: those whose names differ in the last number alone."""
    merged: dict[str, tuple[str, ...]] = {}
    for prefixes in stages:
        block = next((prefix for prefix in prefixes if prefix.rstrip(".")[-1:].isdigit() and "." in prefix[:-1]), None)
        key = block[:-1].rpartition(".")[0] if block else prefixes[0]
        merged[key] = merged.get(key, ()) + prefixes
    return list(merged.values())


def _build(
    variant: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 224,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    global_pool: str = "avg",
) -> TimmModel:
    model = create_model(
        variant, num_classes=num_classes, in_channels=in_chans, image_size=img_size, drop_path_rate=drop_path_rate
    )
    levels = [{"num_chs": info.channels, "reduction": info.stride} for info in model.feature_info]
    # The same object with timm's methods: no wrapper, so the parameter names stay.
    model.__class__ = CLASSES[type(model)]
    assert isinstance(model, TimmModel)
    model.drop_rate = drop_rate
    model._set_pool(global_pool, num_classes)
    model.feature_info = [{**info, "module": f"level{i}"} for i, info in enumerate(levels)]  # type: ignore[misc]
    return model


def _config(variant: str) -> dict[str, Any]:
    family = variant.partition("_")[0]
    return {
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "pool_size": (7, 7),
        "crop_pct": CROPS[family],
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": FIRST_CONVS[family],
        "classifier": "head",
        "paper_ids": PAPERS[family],
    }


VARIANTS = [name for family in FAMILIES for name in list_models(f"{family}_*")]
default_cfgs = generate_default_cfgs({name: _config(name) for name in VARIANTS})  # timm requires this name


def _entry_point(variant: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise ValueError(
                f"{variant} has no hosted weights for pretrained=True; load a file with "
                "mvrec.models.load_weights(model, path)"
            )
        kwargs.pop("cache_dir", None)
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        return build_model_with_cfg(
            lambda **knobs: _build(variant, **knobs), variant, pretrained=False, feature_cfg=features, **kwargs
        )

    create.__name__ = create.__qualname__ = variant
    create.__doc__ = f"`mvrec.models.{variant}` as timm has it."
    return create


# timm requires a function per variant in a module.
globals().update({name: register_model(_entry_point(name)) for name in VARIANTS})
