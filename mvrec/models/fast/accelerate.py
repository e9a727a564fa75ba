"""Acceleration of our networks: other classes for their modules, with equal results and the same parameters."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from mvrec.models.cloformer import CloFormer, ConvMlp, PatchEmbed
from mvrec.models.fast import bricks, mvit
from mvrec.models.fast.choice import measure_by
from mvrec.models.fast.operations import operations
from mvrec.models.fast.products import Linear
from mvrec.models.layers import DetailConv, DetailMlp, GridConv, Mlp, SoftmaxAttention
from mvrec.models.mvit.mvit import MViT
from mvrec.models.mvit.pooling_attention import Block, PoolingAttention
from mvrec.models.sgformer import ConvNorm, SGFormer
from mvrec.models.sgformer import Stem as SGFormerStem
from mvrec.models.shunted import Shunted
from mvrec.models.shunted import Stem as ShuntedStem

SWITCH = "MVREC_PLAIN"  # any value but 0 keeps networks in their plain form

NETWORKS = (MViT, Shunted, SGFormer, CloFormer)
FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: bricks.Conv2d,
    SoftmaxAttention: bricks.SoftmaxAttention,
    Mlp: bricks.Mlp,
    GridConv: bricks.GridConv,
    DetailConv: bricks.DetailConv,
    DetailMlp: bricks.DetailMlp,
    ShuntedStem: bricks.ShuntedStem,
    SGFormerStem: bricks.SGFormerStem,
    ConvNorm: bricks.SGFormerConvNorm,
    PoolingAttention: mvit.PoolingAttention,
    Block: mvit.Block,
    MViT: mvit.MViT,
    ConvMlp: bricks.ConvMlp,
    PatchEmbed: bricks.CloFormerPatchEmbed,
}
PLAIN = {fast: plain for plain, fast in FAST.items()}

Module = TypeVar("Module", bound=nn.Module)
measure_by(operations)


def accelerate(model: Module) -> Module:
    """Switch a network's modules to their fast classes and return it; other networks stay as they are.

    Values and gradients are equal but for rounding, and random numbers are drawn in the same order. Parameters, their
    names and the network's own class name stay. With `MVREC_PLAIN=1` in the environment it does nothing. On a CPU the
    first network to compute measures which fast forms are faster (`choice.py`); the others run in their plain form.
    """
    if os.environ.get(SWITCH, "0") in ("", "0"):
        _swap(model, FAST)
    return model


def is_accelerated(model: nn.Module) -> bool:
    """Return whether a network has fast classes."""
    return any(type(module) in PLAIN for module in model.modules())


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Run an accelerated network in its plain form for a while, to count its operations."""
    quick = [module for module in model.modules() if type(module) in PLAIN]
    _swap(model, PLAIN)
    try:
        yield
    finally:
        for module in quick:
            module.__class__ = FAST[type(module)]


def _swap(model: nn.Module, table: dict[type[nn.Module], type[nn.Module]]) -> None:
    for network in model.modules():
        if isinstance(network, NETWORKS):
            for module in network.modules():
                module.__class__ = table.get(type(module), type(module))
