"""Bricks shared by two or more architectures. A token grid is `(B, h, w, C)`: its size is the tensor's own."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int, int]  # tokens along (T, H, W)


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


def init_fan_out(module: nn.Module) -> None:
    """Initialise one module like `init_trunc_normal`, but convolutions with normal of std sqrt(2 / fan_out)."""
    if not isinstance(module, nn.Conv2d):
        init_trunc_normal(module)
        return
    fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class StochasticDepth(nn.Module):
    """Drops the residual branch of random samples and scales up the others (Huang et al. 2016, 1603.09382).

    Draws and numbers equal those of torchvision's class of this name, which is slow to import.

    Args:
        p: Chance that a sample's branch is dropped, in training.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"the drop path rate must lie in 0..1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` to the same shape."""
        if not self.training or self.p == 0:
            return x
        survival = 1 - self.p
        survivors = x.new_empty([len(x)] + [1] * (x.ndim - 1)).bernoulli_(survival)
        return x * (survivors.div_(survival) if survival > 0 else survivors)

    def extra_repr(self) -> str:
        """Return the text for printing a network."""
        return f"p={self.p}"


def resized_positions(positions: Tensor, size: Grid, new_size: Grid) -> Tensor:
    """Interpolate `(1, t*h*w, C)` from one grid to another; return it unchanged for the same grid."""
    if size == new_size:
        return positions
    grid = positions.unflatten(1, size).permute(0, 4, 1, 2, 3)  # (1, C, t, h, w)
    if size[0] == new_size[0]:
        frames = grid.squeeze(0).transpose(0, 1)  # (t, C, h, w)
        frames = F.interpolate(frames, size=new_size[1:], mode="bicubic")
        return frames.permute(0, 2, 3, 1).flatten(0, 2)[None]
    return F.interpolate(grid, size=new_size, mode="trilinear").flatten(2).mT


class SoftmaxAttention(nn.Module):
    """`softmax(q k^T * scale + bias) v` of every head."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float | None = None
    ) -> Tensor:
        """Map queries `(B, heads, N, d)`, keys and values `(B, heads, M, d)` to `(B, heads, N, d)`.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            bias: Bias of the scores, `(B, heads, N, M)`.
            scale: Scale of the products; `d ** -0.5` by default.
        """
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


class GridAttention(nn.Module):
    """Softmax attention of the cells of one grid to those of another, head by head."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.softmax = SoftmaxAttention()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map grids `(B, h, w, heads * d)` of queries and of keys and values to one like the queries'."""
        heads = (part.flatten(1, 2).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        out = self.softmax(*heads)  # (B, heads, N, d)
        return out.transpose(1, 2).flatten(2).unflatten(1, q.shape[1:3])


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


class GridConv(nn.Conv2d):
    """Convolution over a token grid."""

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, C)` to `(B, h', w', C')`."""
        return super().forward(grid.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)


def depthwise(dim: int) -> GridConv:
    """Build a 3x3 depthwise convolution over a token grid that keeps its size."""
    return GridConv(dim, dim, 3, padding=1, groups=dim)


class DetailConv(nn.Module):
    """Each cell plus a depthwise 3x3 convolution of its neighbourhood."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = depthwise(dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return grid + self.dwconv(grid)


class DetailMlp(nn.Module):
    """Two linear layers with the neighbourhood's details added between them."""

    def __init__(self, dim: int, *, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = DetailConv(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return self.fc2(self.act(self.dwconv(self.fc1(grid))))
