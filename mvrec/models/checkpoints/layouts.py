"""Layouts: the naming schemes of files of weights, and the conversion to our names.

Our names are the authors': those of the three image repositories, and of SlowFast with one `qkv` layer for MViT.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mvrec.errors import UserError
from mvrec.models.checkpoints.detectors import head_of_detector, library_of, with_our_rows
from mvrec.models.checkpoints.segmenters import head_of_mmseg

Tensors = dict[str, Tensor]
Family = Literal["shunted", "sgformer", "cloformer", "mvit"]
WRAPPER = r"(?:[A-Za-z_]\w*\.)*"  # module., model., backbone. and any other attribute that held a network


@dataclass(frozen=True)
class Layout:
    """A naming scheme for a family's tensors.

    Attributes:
        name: Its name in messages.
        family: The family of networks.
        signature: A pattern for one name that every such file has and no other.
        convert: Converts the file's tensors to ours.
    """

    name: str
    family: Family
    signature: str
    convert: Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Recognised:
    """A file's tensors under our names.

    Attributes:
        layout: The layout's name, for messages.
        family: Their family of networks; None if the network is given.
        tensors: Tensors by our names.
        renamed: The number of tensors with other names in the file.
        ignored: The file's names outside the network.
    """

    layout: str
    family: Family | None
    tensors: Tensors
    renamed: int
    ignored: tuple[str, ...]


def recognise(tensors: Tensors, *, source: str) -> Recognised:
    """Identify the layout, strip wrappers from the names, and convert the tensors to our names.

    Raises:
        UserError: The layout is unknown, or the file holds several networks.
    """
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    for layout in LAYOUTS:
        matches = [match for name in plain if (match := re.fullmatch(f"({WRAPPER}){layout.signature}", name))]
        prefixes = {match.group(1) for match in matches}
        if prefixes:
            break
    else:
        examples = ", ".join(list(plain)[:3])
        names = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
        raise UserError(f"{source}: no known network: its names begin with {examples}; known layouts: {names}")
    prefix = _only_prefix(prefixes, source)
    inside = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    head, parts = foreign_head(plain, prefix)
    converted = layout.convert(inside) | parts
    return Recognised(
        layout=_described(layout, inside),
        family=layout.family,
        tensors=converted,
        renamed=len(converted.keys() - inside.keys()),
        ignored=ignored_names(plain, prefix, head),
    )


def foreign_head(tensors: Tensors, prefix: str) -> tuple[dict[str, str], Tensors]:
    """Return our names of the tensors of another library's head, by the names of the file, and these tensors by ours.

    Args:
        tensors: All tensors of the file.
        prefix: That of the backbone's names in it.
    """
    names = head_of_mmseg(tensors, prefix)
    if names or (origin := library_of(tensors)) is None:
        return names, {own_name: tensors[name] for name, own_name in names.items()}
    names, library = head_of_detector(tensors), origin[0]
    return names, {own_name: with_our_rows(own_name, tensors[name], library) for name, own_name in names.items()}


def ignored_names(names: Iterable[str], prefix: str, head: Container[str]) -> tuple[str, ...]:
    """Return the names outside a network and its head, but for those of averaging."""
    return tuple(
        name for name in names if not name.startswith(prefix) and name not in head and not name.endswith("n_averaged")
    )


def _only_prefix(prefixes: set[str], source: str) -> str:
    """Return the prefix of the network; with an average next to the raw weights, that of the average."""
    if len(prefixes) == 1:
        return prefixes.pop()
    averaged = [prefix for prefix in prefixes if re.search(r"(^|[._])(ema|average)", prefix)]
    if len(averaged) == 1:
        return averaged[0]
    names = ", ".join(repr(prefix) for prefix in sorted(prefixes))
    raise UserError(f"{source}: several networks in one file, under {names}: pass the state dict of one of them")


def _described(layout: Layout, tensors: Tensors) -> str:
    if layout is not SLOWFAST:
        return layout.name
    if "blocks.0.attn.q.weight" in tensors:
        return "SlowFast (separate q, k, v)"
    if any(name.endswith("attn.pool_k.weight") and tensor.ndim == 4 for name, tensor in tensors.items()):
        return "mvit repository"
    return layout.name


# -- MViT ---------------------------------------------------------------------------------------------------------

FIRST_SCALE = 2  # detectron2's number of the map of stride 4
RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "pytorchvideo": (
        (r"^patch_embed\.patch_model\.", "patch_embed.proj."),
        (r"^cls_positional_encoding\.", ""),
        (r"^norm_embed\.", "norm."),
        (r"^head\.proj\.", "head.projection."),
    ),
    "torchvision": (
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^pos_encoding\.class_token$", "cls_token"),
        (r"^pos_encoding\.spatial_pos$", "pos_embed_spatial"),
        (r"^pos_encoding\.temporal_pos$", "pos_embed_temporal"),
        (r"^pos_encoding\.class_pos$", "pos_embed_class"),
        (r"\.attn\.project\.0\.", ".attn.proj."),
        (r"\.attn\.pool_([qkv])\.pool\.", r".attn.pool_\1."),
        (r"\.attn\.pool_([qkv])\.norm_act\.0\.", r".attn.norm_\1."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
        (r"\.project\.(weight|bias)$", r".proj.\1"),
        (r"^head\.1\.", "head.projection."),
    ),
    "timm": (
        (r"\.shortcut_proj_(?:attn|mlp)\.", ".proj."),
        (r"^head\.fc\.", "head.projection."),
    ),
}


def _renamed(tensors: Tensors, rules: tuple[tuple[str, str], ...]) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _mvit(tensors: Tensors) -> Tensors:
    """Convert to SlowFast's names in any shape: one `qkv`, kernels over (T, H, W), tables `(1, N, C)`."""
    tensors = _fused(tensors)
    for name, tensor in tensors.items():
        if re.search(r"\.pool_[qkv]\.weight$", name) and tensor.ndim == 4:
            tensors[name] = tensor.unsqueeze(2)  # (d, 1, kh, kw) to (d, 1, 1, kh, kw)
        elif name.startswith(("cls_token", "pos_embed")):
            tensors[name] = tensor.reshape(1, -1, tensor.shape[-1])
    return tensors


def _from_detectron2(tensors: Tensors) -> Tensors:
    """Convert names of the norms per level, of which the coarsest is our last norm; the others are SlowFast's."""
    scale = re.compile(r"^scale(\d+)_norm\.")
    coarsest = max(int(match.group(1)) for name in tensors if (match := scale.search(name)))

    def ours(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return "norm." if number == coarsest else f"level_norms.{number - FIRST_SCALE}."

    return _mvit({scale.sub(ours, name): tensor for name, tensor in tensors.items()})


def as_in_detectron2(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return an MViT's tensors, next to others, with detectron2's names and shapes, if it has norms per level."""
    finer = {name.split(".")[1] for name in tensors if name.startswith("level_norms.")}
    if not finer:
        return dict(tensors)
    places = {f"level_norms.{number}.": f"scale{FIRST_SCALE + int(number)}_norm." for number in finer}
    places["norm."] = f"scale{FIRST_SCALE + len(finer)}_norm."
    renamed = {}
    for name, tensor in tensors.items():
        place = next((place for place in places if name.startswith(place)), None)
        is_kernel = re.search(r"\.pool_[qkv]\.weight$", name) is not None and tensor.ndim == 5
        renamed[name if place is None else places[place] + name.removeprefix(place)] = (
            tensor.squeeze(2) if is_kernel else tensor
        )
    return renamed


def _fused(tensors: Tensors) -> Tensors:
    """Merge queries, keys and values into one layer, row blocks in this order."""
    fused: Tensors = {}
    for name, tensor in tensors.items():
        parts = re.fullmatch(r"(.*\.attn\.)[qkv](\.weight|\.bias)", name)
        if parts is None:
            fused[name] = tensor
            continue
        before, after = parts.groups()
        rows = [tensors.get(f"{before}{part}{after}") for part in "qkv"]
        if any(row is None for row in rows):
            fused[name] = tensor  # left unchanged, and so reported as unexpected
            continue
        fused[f"{before}qkv{after}"] = torch.cat([row for row in rows if row is not None])
    return fused


def _from_pytorchvideo(tensors: Tensors) -> Tensors:
    return _mvit(_renamed(tensors, RENAMES["pytorchvideo"]))


def _from_torchvision(tensors: Tensors) -> Tensors:
    return _mvit(_renamed(tensors, RENAMES["torchvision"]))


def _from_timm(tensors: Tensors) -> Tensors:
    """Convert timm's names, which count blocks per stage, to ours, which count them through the network."""
    places = {(int(s), int(b)) for name in tensors for s, b in re.findall(r"^stages\.(\d+)\.blocks\.(\d+)\.", name)}
    number = {place: i for i, place in enumerate(sorted(places))}

    def through(match: re.Match[str]) -> str:
        return f"blocks.{number[int(match.group(1)), int(match.group(2))]}."

    flat = {re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", through, name): tensor for name, tensor in tensors.items()}
    return _mvit(_renamed(flat, RENAMES["timm"]))


def _as_it_is(tensors: Tensors) -> Tensors:
    return dict(tensors)


SLOWFAST = Layout("SlowFast", "mvit", r"blocks\.0\.attn\.(?:qkv|q)\.weight", _mvit)
# Tried in this order: later signatures are less specific.
LAYOUTS = (
    Layout("SG-Former", "sgformer", r"patch_embed1\.conv\.0\.c\.weight", _as_it_is),
    Layout("Shunted Transformer", "shunted", r"patch_embed1\.conv\.0\.weight", _as_it_is),
    Layout("CloFormer", "cloformer", r"patch_embed\.conv1\.conv\.0\.weight", _as_it_is),
    Layout("pytorchvideo", "mvit", r"patch_embed\.patch_model\.weight", _from_pytorchvideo),
    Layout("torchvision", "mvit", r"pos_encoding\.class_token", _from_torchvision),
    Layout("detectron2", "mvit", r"scale\d+_norm\.weight", _from_detectron2),
    Layout("timm", "mvit", r"stages\.0\.blocks\.0\.attn\.norm_k\.weight", _from_timm),
    SLOWFAST,
)
