"""From logits to probabilities."""

from torch import Tensor


def probabilities_of(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Softmax, or sigmoid in multi-label data, of logits (B, K): float64 (B, K) on the CPU."""
    logits = logits.float().cpu()
    # In float32 the sigmoid of all logits above 17 is 1: their order, which is what counts, would be lost.
    return logits.double().sigmoid() if multi_label else logits.softmax(dim=1).double()
