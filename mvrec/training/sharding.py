"""Fully sharded data parallelism: every process holds a part of each block's weights."""

from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from mvrec.lightning_private import set_data_parallel_size


class FullyShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism over all processes (FSDP2), with whole checkpoints.

    The weights, gradients and optimiser state of each block are spread over the processes and gathered when needed.
    The task shards its network; see `shard`.

    Args:
        timeout_seconds: How long a process waits for the others.
    """

    def __init__(self, timeout_seconds: float = 1800) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout_seconds)
        )

    def setup_environment(self) -> None:
        """Spread the data over all processes; Lightning would spread it over nodes only."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()


def shard(backbone: nn.Module, stages: list[tuple[str, ...]], device_mesh: Any) -> int:
    """Shard each block of a network, then its remaining parameters, over the data-parallel processes.

    Args:
        backbone: The network, with its weights.
        stages: Prefixes of parameter names from the stem to the head; see `Backbone.parameter_stages`. All but the
            first and last are the blocks.
        device_mesh: Lightning's, with the dimension "data_parallel".

    Returns:
        The number of sharded blocks.
    """
    from torch.distributed.fsdp import fully_shard  # takes a second, and few runs shard

    mesh = device_mesh["data_parallel"]
    blocks = [backbone.get_submodule(stage[0].rstrip(".")) for stage in stages[1:-1] if len(stage) == 1]
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(backbone, mesh=mesh)
    return len(blocks)


def gather_weights(backbone: nn.Module, trainer: L.Trainer) -> None:
    """Gather the weights of a sharded network until `spread_weights`; all processes must call it together.

    In between, processes may run the network any number of times each, as in an evaluation of unequal shares.
    """
    if not is_sharded(trainer):
        return
    from torch.distributed.fsdp import FSDPModule

    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            if module is not backbone:  # torch keeps the outermost one's weights after a forward anyway
                module.set_reshard_after_forward(False, recurse=False)
            module.unshard()


def spread_weights(backbone: nn.Module, trainer: L.Trainer) -> None:
    """Spread the weights over the processes again."""
    if not is_sharded(trainer):
        return
    from torch.distributed.fsdp import FSDPModule

    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            if module is not backbone:
                module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def is_sharded(trainer: L.Trainer) -> bool:
    """Return whether the trainer's strategy leaves the sharding to the model."""
    return isinstance(trainer.strategy, ModelParallelStrategy)
