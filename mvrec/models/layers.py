"""Bricks that two architectures really share."""

from torch import Tensor, nn


def init_trunc_normal(module: nn.Module) -> None:
    """Initialise one module: weights truncated normal of std 0.02, biases 0, norms the identity.

    Meant for `root.apply(init_trunc_normal)`, once, by the network that owns the whole tree.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class Mlp(nn.Module):
    """Two linear layers around a GELU, `(..., dim)` to `(..., dim_out)`."""

    def __init__(self, dim: int, *, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., dim)` to `(..., dim_out)`."""
        return self.fc2(self.act(self.fc1(x)))
