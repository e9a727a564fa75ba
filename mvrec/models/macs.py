"""Counting a network's multiply-adds."""

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mvrec.models.backbone import Backbone
from mvrec.models.fast.accelerate import as_written
from mvrec.models.heads.resizing import as_papers_count


def count_macs(model: Backbone, input_shape: tuple[int, ...] | None = None) -> int:
    """Count multiply-adds of convolutions, linear layers and attention for one image or clip, as papers do.

    Nothing is computed: only shapes pass through the network, in its plain form.

    Args:
        model: The network; it is not changed.
        input_shape: `(C, H, W)` or `(C, T, H, W)`; the network's own by default.

    Raises:
        ValueError: The network does not take this shape.
    """
    shape = model.input_shape if input_shape is None else input_shape
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    was_training = model.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), as_written(model), as_papers_count():
            functional_call(model.eval(), on_meta, (torch.empty(1, *shape, device="meta"),))
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 2
