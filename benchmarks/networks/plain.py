"""Our image networks as they are written down: explicit softmax, permuted copies, torch's own layers.

`plain` gives the modules of a network other forward passes and leaves their parameters, so that both forms are one
network with the same names. Every convolution gets a contiguous `(B, C, H, W)` and every token layer a contiguous
`(B, h, w, C)`, and attention forms its probabilities, head by head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models import cloformer, layers, sgformer, shunted


def plain(network: nn.Module) -> nn.Module:
    """The same network, whose modules compute in the plain way from now on."""
    for module in network.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return network


def split_heads(grid: Tensor, head_dim: int) -> Tensor:
    """`(B, h, w, heads * d)` to `(B, heads, N, d)`."""
    return grid.flatten(1, 2).unflatten(-1, (-1, head_dim)).permute(0, 2, 1, 3).contiguous()


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`(..., N, d)` of every head."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, *, head_dim: int) -> Tensor:
    """Grids `(B, h, w, heads * d)`."""
    out = softmax_attention(*(split_heads(part, head_dim) for part in (q, k, v)))
    return out.transpose(1, 2).flatten(2).unflatten(1, q.shape[1:3])


class GridConv(layers.GridConv):
    def forward(self, grid: Tensor) -> Tensor:
        x = F.conv2d(
            grid.permute(0, 3, 1, 2).contiguous(), self.weight, self.bias, self.stride, self.padding, groups=self.groups
        )
        return x.permute(0, 2, 3, 1).contiguous()


class DetailMlp(layers.DetailMlp):
    def forward(self, grid: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(grid))))


# -- Shunted -----------------------------------------------------------------------------------------------------------


class ShuntedStem(shunted.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).permute(0, 2, 3, 1).contiguous())


class ShuntedFullAttention(shunted.FullAttention):
    def forward(self, grid: Tensor) -> Tensor:
        k, v = self.kv(grid).chunk(2, -1)
        return self.proj(attend(self.q(grid), k, v, head_dim=self.head_dim) + self.local_conv(v))


class ShuntedAttention(shunted.ShuntedAttention):
    def _branch(self, q: Tensor, merged: Tensor, kv: nn.Module, local_conv: nn.Module) -> Tensor:
        k, v = kv(merged).chunk(2, -1)
        return attend(q, k, v + local_conv(v), head_dim=self.head_dim)


# -- SG-Former ---------------------------------------------------------------------------------------------------------


class SGConvNorm(sgformer.ConvNorm):
    def forward(self, grid: Tensor) -> Tensor:
        x = self.bn(self.c(grid).permute(0, 3, 1, 2).contiguous())
        return x.permute(0, 2, 3, 1).contiguous()


class SGFullAttention(sgformer.FullAttention):
    def forward(self, grid: Tensor, importance: None = None) -> tuple[Tensor, None]:
        k, v = self.kv(grid).chunk(2, -1)
        return self.projected(attend(self.q(grid), k, v, head_dim=self.head_dim), grid), None


class HybridAttention(sgformer.HybridAttention):
    """For grids of whole windows and patches. Scores are float32 here, too, for their sums are sorted."""

    def forward(self, grid: Tensor, importance: None = None) -> tuple[Tensor, Tensor]:
        far, of_patches = self._globally(grid)
        near, in_windows = self._locally(grid)
        return self.projected(torch.cat([far, near], -1), grid), (of_patches + in_windows).detach()

    def _globally(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.act(self.norm(self.sr(grid)))
        k, v = (split_heads(part, self.head_dim) for part in self.kv1(patches).chunk(2, -1))
        out, probabilities = self._attend(split_heads(self.q1(grid), self.head_dim), k, v)
        received = probabilities.mean((1, 2)).unflatten(1, patches.shape[1:3])
        received = received.repeat_interleave(self.sr_ratio, 1).repeat_interleave(self.sr_ratio, 2)
        return out.transpose(1, 2).flatten(2).unflatten(1, grid.shape[1:3]), received

    def _locally(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        size, (h, w) = sgformer.WINDOW, grid.shape[1:3]
        q, k, v = (self._cut(part) for part in (self.q2(grid), *self.kv2(grid).chunk(2, -1)))
        out, probabilities = self._attend(q, k, v)  # (B * windows, heads, 49, d or 49)
        received = probabilities.mean((1, 2)).view(-1, h // size, w // size, size, size)
        received = received.permute(0, 1, 3, 2, 4).reshape(-1, h, w)
        out = out.transpose(1, 2).reshape(-1, h // size, w // size, size, size, q.shape[1] * self.head_dim)
        return out.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, q.shape[1] * self.head_dim), received

    def _cut(self, grid: Tensor) -> Tensor:
        """`(B, h, w, heads * d)` to `(B * windows, heads, 49, d)`."""
        size = sgformer.WINDOW
        batch, h, w, _ = grid.shape
        windows = grid.view(batch, h // size, size, w // size, size, -1, self.head_dim)
        return windows.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, windows.shape[5], size * size, self.head_dim)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            scores = q.to(dtype) @ k.to(dtype).transpose(-2, -1) * q.shape[-1] ** -0.5
            probabilities = scores.softmax(-1)
        return probabilities.to(v.dtype) @ v, probabilities


class GuidedAttention(sgformer.GuidedAttention):
    """For grids whose parts are whole chunks."""

    def forward(self, grid: Tensor, importance: Tensor) -> tuple[Tensor, None]:
        order = importance.flatten(1).sort(stable=True).indices
        tokens = grid.flatten(1, 2)
        tokens = tokens.gather(1, order[..., None].expand_as(tokens))
        merged = []
        parts = tokens.split(sgformer._part_lengths(tokens.shape[1], len(self.chunks)), 1)
        for i, (part, chunk) in enumerate(zip(parts, self.chunks, strict=True), start=1):
            turned = part.unflatten(1, (-1, chunk)).transpose(2, 3).contiguous()  # (B, M, dim, chunk)
            merged.append(getattr(self, f"f{i}")(turned).squeeze(-1))
        keys = torch.cat(merged, 1)
        (k1, v1), (k2, v2) = self.kv1(keys).chunk(2, -1), self.kv2(keys).chunk(2, -1)
        k, v = (torch.cat(halves, -1)[:, None] for halves in ((k1, k2), (v1, v2)))
        return self.projected(attend(self.q(grid), k, v, head_dim=self.head_dim), grid), None


# -- CloFormer ---------------------------------------------------------------------------------------------------------


class CloPatchEmbed(cloformer.PatchEmbed):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return self.layernorm(self.conv5(x))


class CloAttention(cloformer.Attention):
    def _attend_locally(self, x: Tensor) -> Tensor:
        qkv = self.convs[0](self.qkvs[0](x))
        q, k, v = qkv.unflatten(1, (3, -1)).transpose(0, 1).contiguous()
        return torch.tanh(self.act_blocks[0](q * k) * self.head_dim**-0.5) * v

    def _attend_globally(self, x: Tensor) -> Tensor:
        heads = (self.global_heads, self.head_dim)
        q = self.global_q(x).flatten(2).unflatten(1, heads).transpose(2, 3).contiguous()  # (B, heads, N, d)
        k, v = self.global_kv(self.avgpool(x)).flatten(2).unflatten(1, (2, *heads)).permute(1, 0, 2, 4, 3).contiguous()
        out = softmax_attention(q, k, v)
        return out.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]).contiguous()


class CloDepthwise(cloformer.DepthwiseConv):
    def forward(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, x)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    layers.Linear: nn.Linear,
    layers.GridConv: GridConv,
    layers.DetailMlp: DetailMlp,
    shunted.Stem: ShuntedStem,
    shunted.FullAttention: ShuntedFullAttention,
    shunted.ShuntedAttention: ShuntedAttention,
    sgformer.ConvNorm: SGConvNorm,
    sgformer.FullAttention: SGFullAttention,
    sgformer.HybridAttention: HybridAttention,
    sgformer.GuidedAttention: GuidedAttention,
    cloformer.Attention: CloAttention,
    cloformer.DepthwiseConv: CloDepthwise,
    cloformer.PatchEmbed: CloPatchEmbed,
    cloformer.PointwiseConv: nn.Conv2d,
}
