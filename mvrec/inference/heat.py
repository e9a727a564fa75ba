"""Heat maps over the pixels and frames of a network's input: on which of them a class score depends.

Class activation: Selvaraju et al. 2017, "Grad-CAM", arXiv 1610.02391; Jiang et al. 2021, "LayerCAM: Exploring
Hierarchical Class Activation Maps for Localization", IEEE TIP 30.
Rollout: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.
Relevance: Chefer et al. 2021, "Generic Attention-model Explainability", arXiv 2103.15679.

The networks' own code has no part in this: hooks take maps and attention from an ordinary forward pass.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.errors import UserError
from mvrec.models import MViT
from mvrec.models.backbone import Backbone, Level, MapsHead
from mvrec.models.layers import Grid
from mvrec.models.mvit.mvit import PATCH_STRIDE
from mvrec.models.mvit.pooling_attention import Block

Method = Literal["cam", "layercam", "rollout", "relevance"]
METHODS = get_args(Method)
_QUERIES_AT_ONCE = 4096  # queries whose attention is in memory at once: a large clip has 100,000


def heat_map(
    backbone: Backbone,
    x: Tensor,
    classes: Tensor,
    *,
    method: Method,
    stage: int | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compute how much each pixel of each frame contributes to the score of a class.

    "cam" is Grad-CAM on one of the network's `feature_maps`, which weighs every channel by its mean gradient.
    "layercam" weighs every cell of every channel by its own positive gradient, which suits fine maps too, and networks
    with a class token, whose channels do not mean the same everywhere. "rollout" follows the attention of all blocks
    back to the patches, whatever the class; "relevance" does so with the attention that raises the score of the class.
    Both are for MViT.

    Args:
        backbone: The network, in evaluation mode.
        x: The input, normalised (B, C, [T,] H, W).
        classes: int64 (B,), the class to explain for each sample.
        method: See above.
        stage: Number of the feature map for "cam" and "layercam", 0 for the finest; the coarsest by default.
        score: From such an input to the number that is explained, in place of the score of `classes`.

    Returns:
        float32 (B, [T,] H, W), 0 or more, of no particular scale.

    Raises:
        UserError: The network lacks the method or the stage.
    """
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in ("cam", "layercam"):
        score = score or (lambda pixels: _score(backbone, pixels, classes))
        return _class_activation(backbone, x, score, stage=-1 if stage is None else stage, by_cell=method != "cam")
    if isinstance(backbone.head, MapsHead):
        raise UserError(
            f"{method} follows attention to one score, and this network has one per place: use cam or layercam"
        )
    if stage is not None:
        raise UserError(f"a stage is for cam and layercam; {method} follows all blocks")
    return _attention_flow(backbone, x, classes, of_class=method == "relevance")


def default_method(backbone: Backbone, *, stage: int | None = None) -> Method:
    """Return the most informative method: "relevance" for MViT unless a stage is set, else "cam"."""
    if isinstance(backbone, MViT) and not isinstance(backbone.head, MapsHead):
        return "relevance" if stage is None else "layercam"
    return "cam"


# -- class activation ------------------------------------------------------------------------------------------------


def _class_activation(
    backbone: Backbone, x: Tensor, score_of: Callable[[Tensor], Tensor], *, stage: int, by_cell: bool
) -> Tensor:
    all_levels = backbone.levels(tuple(x.shape))
    if not all_levels:
        raise UserError(f"class activation needs `levels`, which {type(backbone).__name__} does not define")
    if not -len(all_levels) <= stage < len(all_levels):
        raise UserError(f"there is no stage {stage}: this network has the stages 0..{len(all_levels) - 1}")
    level = all_levels[stage]
    with _recorded(level) as tensors:
        score = score_of(x)
    gradients = torch.autograd.grad(score, tensors)
    activation, gradient = (level.to_map(torch.cat(list(parts)).detach()).float() for parts in (tensors, gradients))
    weight = gradient.relu() if by_cell else gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
    heat = (weight * activation).sum(1).relu()  # (B, [t,] h, w)
    return on_pixels(heat, size=tuple(x.shape[2:]), stride=level.stride)


@contextmanager
def _recorded(level: Level) -> Iterator[list[Tensor]]:
    """Return the tensors that a level's module takes or gives while the block runs; several if it is called often."""
    tensors: list[Tensor] = []
    thread = get_ident()  # another one may run the same network

    def record_input(module: nn.Module, arguments: Any) -> None:
        if get_ident() == thread:
            tensors.append(arguments[0])

    def record_output(module: nn.Module, arguments: Any, output: Any) -> None:
        if get_ident() == thread:
            tensors.append(output[0] if isinstance(output, tuple) else output)

    if level.is_input:
        hook = level.module.register_forward_pre_hook(record_input)
    else:
        hook = level.module.register_forward_hook(record_output)
    try:
        yield tensors
    finally:
        hook.remove()


def _score(backbone: Backbone, x: Tensor, classes: Tensor) -> Tensor:
    """Return the sum of the logits to explain; gradients of one sample do not mix with another's.

    Of a segmenter these are the logits of the class at the pixels that have it (Seg-Grad-CAM: Vinogradova et al. 2020,
    "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping", arXiv 2002.11434).
    """
    with torch.enable_grad():
        # Keeps a graph even if every weight is frozen.
        logits = backbone(x.detach().clone().requires_grad_())
        classes = classes.to(x.device)
        if logits.ndim == 2:
            return logits.gather(1, classes[:, None]).sum()
        places = logits.argmax(1) == classes[:, None, None]  # (B, H, W)
        return (logits[torch.arange(len(classes)), classes] * places).sum()


# -- attention -------------------------------------------------------------------------------------------------------


def _attention_flow(backbone: Backbone, x: Tensor, classes: Tensor, *, of_class: bool) -> Tensor:
    """Follow the head's input back to the patches, block by block; see the note.

    Note [rollout across pooled grids]

    Without pooling a block of N tokens is a matrix (N, N): rollout takes (A + I) / 2, with A the heads' mean attention,
    and relevance I + mean((grad A * A)+). What the head reads is a row r of the matrices' product: that of the class
    token, or the mean of all rows where the head takes the mean of all tokens. So r is all that has to be followed, by
    r <- r M from the last block to the first, and no product of matrices is ever formed.

    In a pooling block queries, keys and shortcut stand on grids of their own. A key's value is drawn from the window of
    tokens that its pooling kernel covers, and a shortcut or pooled query from that of its own kernel. With P the matrix
    that hands what a pooled cell gets to the cells of its window in equal shares, the attention A (Nq, Nk) becomes
    A P_kv (Nq, N), and the identity becomes P_shortcut (Nq, N). Rows still sum to 1, and where nothing is pooled P is
    the identity. The class token is never pooled: it is a cell of its own in all of these.

    Residual pooling (MViTv2) adds the pooled queries to the attention's output, before the shortcut is added to both:
    its attention counts as the mean of A P_kv and P_q, except for the class token, to which nothing is added.

    Windows of 3 tokens at steps of 8, as in MViT-B, leave tokens that no key reads. The row shows this as a lattice
    over everything else, which says nothing about the input. It is averaged away.
    """
    if not isinstance(backbone, MViT):
        name = type(backbone).__name__
        raise UserError(f"rollout and relevance follow the attention of MViT; for {name} use cam or layercam")
    with _attended(backbone) as calls, torch.set_grad_enabled(of_class):
        score = _score(backbone, x, classes) if of_class else backbone(x)
    blocks = cast("list[Block]", backbone.blocks)
    assert len(calls) == len(blocks)
    gradients: list[Tensor | None] = [None] * len(calls)
    if of_class:
        gradients = list(torch.autograd.grad(score, [call.out for call in calls]))
    has_cls = backbone.cls_token is not None
    grids = backbone.token_grids(tuple(x.shape))
    row = _row_of_head(len(x), grids[-1], has_cls=has_cls, device=x.device)
    unattended = row  # the part that reaches the patches by shortcuts alone
    for block, call, gradient, thw in zip(blocks[::-1], calls[::-1], gradients[::-1], grids[-2::-1], strict=True):
        row = _through_block(row, block, call, gradient, thw)
        unattended = _shortcut(unattended, block, thw)
    if of_class:  # the identity says nothing about the class
        row = row - unattended
    heat = row[:, int(has_cls) :].unflatten(1, grids[0]).clamp_min(0)  # (B, t, h, w)
    heat = _without_lattice(heat, period=blocks[0].attn.kv_stride)
    return on_pixels(heat if x.ndim == 5 else heat.squeeze(1), size=tuple(x.shape[2:]), stride=PATCH_STRIDE)


class Attended(NamedTuple):
    """Inputs and output of an attention: `(B, heads, N, d)` each, the bias `(B, heads, N, M)`.

    There is one query if the last block computes the class token alone, the only token that is read.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    scale: float
    out: Tensor


@contextmanager
def _attended(backbone: MViT) -> Iterator[list[Attended]]:
    """Return every attention of a forward pass, block by block.

    Probabilities are not kept: queries and keys suffice to compute them later, as exactly as in the network.
    """
    calls: list[Attended] = []
    thread = get_ident()  # another one may run the same network

    def note(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], out: Tensor) -> None:
        if get_ident() != thread:
            return
        q, k, v, *bias = inputs
        scale = options.get("scale") or q.shape[-1] ** -0.5
        calls.append(Attended(q, k, v, bias[0] if bias else None, scale, out))

    attentions = [block.attn.softmax for block in cast("list[Block]", backbone.blocks)]
    hooks = [attention.register_forward_hook(note, with_kwargs=True) for attention in attentions]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _row_of_head(batch: int, thw: Grid, *, has_cls: bool, device: torch.device) -> Tensor:
    """Return the weights with which the head reads the last tokens: (B, [1 +] t*h*w), summing to 1."""
    num_tokens = math.prod(thw)
    if not has_cls:
        return torch.full((batch, num_tokens), 1 / num_tokens, device=device)
    row = torch.zeros(batch, 1 + num_tokens, device=device)
    row[:, 0] = 1
    return row


def _through_block(row: Tensor, block: Block, call: Attended, gradient: Tensor | None, thw: Grid) -> Tensor:
    """Map a row over a block's output tokens to one over its input tokens, on the grid `thw`."""
    attention = block.attn
    spread = partial(_spread, thw=thw, num_cls=attention.num_cls)
    to_values = partial(spread, kernel=attention.kv_kernel, stride=attention.kv_stride)
    shortcut = _shortcut(row, block, thw)
    if gradient is not None:
        return shortcut + to_values(_to_keys(row, call, gradient))
    to_queries = row / 2 if attention.residual_pooling else torch.zeros_like(row)
    to_queries[:, : attention.num_cls] = 0
    attended = to_values(_to_keys(row - to_queries, call, None))
    queries = spread(to_queries, kernel=attention.q_kernel, stride=attention.q_stride)
    return (shortcut + attended + queries) / 2


def _shortcut(row: Tensor, block: Block, thw: Grid) -> Tensor:
    stride = block.q_stride
    kernel = (1, stride + 1, stride + 1) if stride > 1 else None
    return _spread(row, thw=thw, kernel=kernel, stride=stride, num_cls=block.attn.num_cls)


def _to_keys(row: Tensor, call: Attended, gradient: Tensor | None) -> Tensor:
    """Multiply a row (B, Nq) by the heads' mean attention, or with a gradient their mean relevance: (B, Nk)."""
    q, k, v = (part.detach().float() for part in (call.q, call.k, call.v))  # (B, heads, N, d)
    total = torch.zeros(len(row), k.shape[2], device=row.device)
    for first in range(0, q.shape[2], _QUERIES_AT_ONCE):
        some = slice(first, first + _QUERIES_AT_ONCE)
        scores = q[:, :, some] @ k.mT * call.scale  # (B, heads, some, Nk)
        weight = (scores if call.bias is None else scores + call.bias[:, :, some].detach().float()).softmax(-1)
        if gradient is not None:  # out = weight @ v, so that the weight's gradient is that of out @ v.T
            weight = (weight * (gradient[:, :, some].float() @ v.mT)).relu()
        total += torch.einsum("bq,bhqk->bk", row[:, : q.shape[2]][:, some], weight) / q.shape[1]
    return total


def _spread(row: Tensor, *, thw: Grid, kernel: Grid | None, stride: int, num_cls: int) -> Tensor:
    """Spread the values of pooled cells, (B, [1 +] N'), equally over the cells of their windows, (B, [1 +] N)."""
    if kernel is None:
        return row
    steps = (1, stride, stride)
    padding = tuple(size // 2 for size in kernel)
    window = torch.ones(1, 1, *kernel, device=row.device)
    members = F.conv3d(torch.ones(1, 1, *thw, device=row.device), window, stride=steps, padding=padding)
    cells = row[:, num_cls:].unflatten(1, members.shape[2:])[:, None] / members
    left_over = [
        n + 2 * p - k - (m - 1) * s
        for n, p, k, m, s in zip(thw, padding, kernel, members.shape[2:], steps, strict=True)
    ]
    spread = F.conv_transpose3d(cells, window, stride=steps, padding=padding, output_padding=left_over)
    return torch.cat([row[:, :num_cls], spread.flatten(1)], 1)


def _without_lattice(heat: Tensor, *, period: int) -> Tensor:
    """Average (B, t, h, w) over a square as wide as the period, which removes every pattern of that period."""
    if period == 1:
        return heat
    window = torch.ones(period // 2 * 2 + 1, device=heat.device)
    if period % 2 == 0:  # an even width has no middle: the outermost cells count half
        window[0] = window[-1] = 0.5
    window = window / window.sum()
    for axis in (2, 3):
        lines = heat.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (len(window) // 2,) * 2, mode="replicate")
        heat = F.conv1d(padded, window[None, None]).view(lines.shape).movedim(-1, axis)
    return heat


# -- from cells to pixels --------------------------------------------------------------------------------------------


def on_pixels(heat: Tensor, *, size: tuple[int, ...], stride: int) -> Tensor:
    """Interpolate a map over its input, linearly from cell to cell.

    The grids come from convolutions with odd kernels and half of that as padding, so cell j looks at pixel
    `j * stride` and not at the middle of a tile: at a stride of 32 that is half a cell. (The stem of Shunted
    Transformer ends in tiles of 2x2, which is one pixel more.)

    Args:
        heat: (B, [t,] h, w).
        size: Size of the input, ([T,] H, W).
        stride: Pixels from cell to cell.

    Returns:
        (B, [T,] H, W).
    """
    steps = [stride, stride] if len(size) == 2 else [math.ceil(size[0] / heat.shape[1]), stride, stride]
    for axis, (cells, pixels, step) in enumerate(zip(heat.shape[1:], size, steps, strict=True), start=1):
        place = (torch.arange(pixels, device=heat.device) / step).clamp_max(cells - 1)
        weight = (1 - (place[:, None] - torch.arange(cells, device=heat.device)).abs()).clamp_min(0)  # (pixels, cells)
        heat = torch.tensordot(heat, weight, dims=([axis], [1])).movedim(-1, axis)
    return heat
