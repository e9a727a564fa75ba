"""How many multiply-adds a network takes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mvrec.models.backbone import Backbone
from mvrec.models.mvit.mvit import all_tokens
from mvrec.models.mvit.pooling_attention import PoolingAttention


def count_macs(model: Backbone, input_shape: tuple[int, ...] | None = None) -> int:
    """Multiply-adds of convolutions, linear layers and attention for one image or clip, as papers count them.

    Nothing is computed: shapes alone go through the network. MViT counts as in the papers: relative positions as
    products with their tables, not as the wider keys that stand in for them here, and keys, values and last tokens that
    nobody reads as if they were made.

    Args:
        model: The network; it is not changed.
        input_shape: `(C, H, W)` or `(C, T, H, W)`; what the network was constructed for by default.

    Raises:
        ValueError: The network does not take this shape.
    """
    shape = model.input_shape if input_shape is None else input_shape
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    surplus: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, PoolingAttention)
        surplus.append(module.surplus_macs(inputs[1]))

    attentions = [module for module in model.modules() if isinstance(module, PoolingAttention)]
    handles = [attention.register_forward_hook(note) for attention in attentions]
    was_training = model.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), all_tokens(model):
            functional_call(model.eval(), on_meta, (torch.empty(1, *shape, device="meta"),))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2 - sum(surplus)
