"""Fast forms of our networks' bricks, and of torch's layers within them: equal values, equal gradients.

CPUs compute fast with channels last in memory. A token grid `(B, h, w, C)` seen through
`permute(0, 3, 1, 2)` is such an input of a convolution, so no layer needs a transposed copy.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.cloformer import ConvMlp as PlainConvMlp
from mvrec.models.cloformer import PatchEmbed
from mvrec.models.fast.attention import attention
from mvrec.models.fast.choice import is_faster
from mvrec.models.fast.depthwise import depthwise_conv, has_slow_backward
from mvrec.models.fast.gelu import conv_gelu, linear_gelu
from mvrec.models.fast.products import MANY_ROWS, POINTWISE, linear, precision
from mvrec.models.fast.recompute import gelu_linear, is_plain, norm_linear, product_dtype
from mvrec.models.layers import DetailConv as PlainDetailConv
from mvrec.models.layers import DetailMlp as PlainDetailMlp
from mvrec.models.layers import GridConv as PlainGridConv
from mvrec.models.layers import Mlp as PlainMlp
from mvrec.models.layers import SoftmaxAttention as PlainSoftmaxAttention
from mvrec.models.sgformer import ConvNorm
from mvrec.models.sgformer import Stem as PlainSGFormerStem
from mvrec.models.shunted import Stem as PlainShuntedStem


class SoftmaxAttention(PlainSoftmaxAttention):
    """Softmax attention by the fastest exact method of the device."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float | None = None
    ) -> Tensor:
        if bias is not None:
            return super().forward(q, k, v, bias, scale=scale)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return attention(*(part.transpose(1, 2) for part in (q, k, v)), scale=scale).transpose(1, 2)


class Mlp(PlainMlp):
    """An MLP that keeps only its input for the backward pass, and includes the norm before it."""

    def forward(self, x: Tensor, *, norm: nn.Module | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return self.fc2(linear_gelu(x if norm is None else norm(x), self.fc1, self.act))
        hidden = self.fc1(x) if norm is None else norm_linear(x, norm, self.fc1)
        return gelu_linear(hidden, self.act, self.fc2)


class DetailMlp(PlainDetailMlp):
    """A `DetailMlp` that does not keep the output of the GELU."""

    def forward(self, grid: Tensor) -> Tensor:
        hidden = self.fc1(grid)
        if not torch.is_grad_enabled() and is_plain(self.dwconv, DetailConv) and _joins_shortcut(hidden, self.dwconv):
            conv = self.dwconv.dwconv
            padding = cast("tuple[int, int]", conv.padding)
            return self.fc2(conv_gelu(hidden, _with_shortcut(conv), conv.bias, padding, self.act))
        return gelu_linear(self.dwconv(hidden), self.act, self.fc2)


class ConvMlp(PlainConvMlp):
    """CloFormer's MLP; without gradients its first convolution and the GELU are one product."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not is_plain(self.fc1, Conv2d):
            return super().forward(x)
        hidden = linear_gelu(x.permute(0, 2, 3, 1), self.fc1, self.act).permute(0, 3, 1, 2)
        return self.fc2(self.dwconv(hidden))


class Conv2d(nn.Conv2d):
    """A convolution: 1x1 as a matrix product, depthwise with a backward pass that CPUs compute fast."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1 and _is_product(x):
            # Seen in the order of its strides, so that its gradient has the same strides, as DDP's buckets require.
            weight = self.weight if self.weight.stride(3) == 1 else self.weight.permute(0, 2, 3, 1)
            return linear(x.permute(0, 2, 3, 1), weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if not torch.is_grad_enabled():  # all below is about the backward pass
            return super().forward(x)
        if _is_slow(x, self):
            return _depthwise_grid(x.permute(0, 2, 3, 1), self, _with_plain_gradient(self.weight)).permute(0, 3, 1, 2)
        weight = _with_plain_gradient(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _is_product(x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return x.numel() // x.shape[1] >= MANY_ROWS and is_faster(POINTWISE, precision(x))


class GridConv(PlainGridConv):
    """A `GridConv` without a copy; depthwise like `Conv2d`."""

    def forward(self, grid: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled()
        if recorded and _is_slow(grid, self):
            return _depthwise_grid(grid, self, _with_plain_gradient(self.weight))
        weight = _with_plain_gradient(self.weight) if recorded else self.weight
        x = F.conv2d(grid.permute(0, 3, 1, 2), weight, self.bias, self.stride, self.padding, groups=self.groups)
        return x.permute(0, 2, 3, 1)


class DetailConv(PlainDetailConv):
    """Each cell plus its neighbourhood as one convolution, whose kernel has 1 more in its centre."""

    def forward(self, grid: Tensor) -> Tensor:
        if not _joins_shortcut(grid, self):
            return super().forward(grid)
        return _depthwise_grid(grid, self.dwconv, _with_shortcut(self.dwconv))


def _joins_shortcut(grid: Tensor, detail: PlainDetailConv) -> bool:
    # Half precision would round the small weight next to the 1.
    return product_dtype(grid).itemsize >= 4 and is_plain(detail.dwconv, GridConv)


def _with_shortcut(conv: nn.Conv2d) -> Tensor:
    """Return the kernel `(C, 1, kh, kw)` of a depthwise convolution plus its input."""
    height, width = cast("tuple[int, int]", conv.padding)
    return _with_plain_gradient(conv.weight) + F.pad(conv.weight.new_ones(1, 1), (width, width, height, height))


def _is_slow(x: Tensor, conv: nn.Conv2d) -> bool:
    """Return whether a depthwise convolution's own backward pass is slow."""
    if not conv.groups == conv.in_channels == conv.out_channels > 1 or torch.compiler.is_compiling():
        return False
    padding = cast("tuple[int, int]", conv.padding)
    return has_slow_backward(x, (conv.in_channels, 1, *conv.kernel_size), conv.stride[0], (0, *padding))


def _depthwise_grid(grid: Tensor, conv: nn.Conv2d, weight: Tensor) -> Tensor:
    """`(B, h, w, C)` to `(B, h', w', C)`, by a kernel in place of the convolution's own."""
    padding = (0, *cast("tuple[int, int]", conv.padding))
    out = depthwise_conv(grid.unsqueeze(1), weight[:, :, None], conv.bias, stride=conv.stride[0], padding=padding)
    return out.squeeze(1)


def _with_plain_gradient(weight: Tensor) -> Tensor:
    """Return a kernel `(O, I, kh, kw)` whose gradient has the kernel's own strides, as DDP's buckets require.

    For inputs with channels last, it would have their layout. Seen as a matrix, it gets the parameter's layout, unless
    that is channels last itself.
    """
    if weight.shape[2:].numel() == 1 and weight.stride(3) > 1:
        last = weight.permute(0, 2, 3, 1)
        return last.flatten(1).unflatten(1, last.shape[1:]).permute(0, 3, 1, 2)
    if weight.stride(1) > 1 or weight.shape[2:].numel() == 1:
        return weight.flatten(1).unflatten(1, weight.shape[1:])
    return weight


# -- stems: from here on channels are last in memory ------------------------------------------------------------------


class ShuntedStem(PlainShuntedStem):
    """The stem of Shunted Transformer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(memory_format=torch.channels_last))


class SGFormerStem(PlainSGFormerStem):
    """The stem of SG-Former."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class SGFormerConvNorm(ConvNorm):
    """SG-Former's convolution and norm, for devices on which the norm changes the layout."""

    def forward(self, grid: Tensor) -> Tensor:
        return super().forward(grid).contiguous()


class CloFormerPatchEmbed(PatchEmbed):
    """The stem of CloFormer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x.to(memory_format=torch.channels_last))
        x = self.conv4(self.conv3(self.conv2(x)))
        return self.layernorm(self.conv5(x))
