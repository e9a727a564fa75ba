"""Fully sharded data parallelism: every process keeps a part of each block's weights."""

from typing import Any

import lightning as L
from torch import nn
from torch.distributed.fsdp import fully_shard

from mvrec.errors import UserError


def shard(backbone: nn.Module, stages: list[tuple[str, ...]], device_mesh: Any) -> int:
    """Shard each block of a network, then what is left of it, over the data-parallel processes.

    Args:
        backbone: The network, with its weights.
        stages: Prefixes of parameter names from the stem to the head; see `Backbone.parameter_stages`. The ones
            between are the blocks.
        device_mesh: Lightning's, with the dimension "data_parallel".

    Returns:
        How many blocks were sharded by themselves.

    Raises:
        UserError: Tensor parallelism, which no network here has.
    """
    if device_mesh["tensor_parallel"].size() > 1:
        raise UserError("trainer.strategy.tensor_parallel_size must be 1: the networks are sharded by data only")
    mesh = device_mesh["data_parallel"]
    blocks = [backbone.get_submodule(stage[0].rstrip(".")) for stage in stages[1:-1] if len(stage) == 1]
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(backbone, mesh=mesh)
    return len(blocks)


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether the trainer's strategy leaves the sharding to the model."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    return isinstance(trainer.strategy, ModelParallelStrategy)
