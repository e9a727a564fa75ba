"""A network of another library behind mvrec's contract; `names.py` builds them by name."""

import contextlib
import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone, FeatureInfo, MapsHead

Network = TypeVar("Network", bound=nn.Module)
PYRAMID_STRIDES = (4, 8, 16, 32)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Origin:
    """The facts of a network before its classifier was removed.

    Attributes:
        name: Its name for `create_baseline`.
        input_shape: `(C, H, W)` or `(C, T, H, W)` for which it is built.
        num_classes: Classes of the classifier.
        classifier: Its name in the library's checkpoints.
        has_bias: Whether the classifier had a bias.
        head_dropout: Dropout before our classifier, if the network has none of its own there.
        channels_last: Whether the maps inside are `(B, [T,] H, W, C)`.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    classifier: str
    has_bias: bool = True
    head_dropout: float = 0.0
    channels_last: bool = False


class Classifier(nn.Linear):
    """Dropout and a linear layer, `(B, D)` to `(B, K)`."""

    def __init__(self, dim: int, num_classes: int, *, bias: bool, dropout: float) -> None:
        super().__init__(dim, num_classes, bias=bias)
        self.dropout = dropout
        nn.init.trunc_normal_(self.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, D)` to raw logits `(B, K)`."""
        return super().forward(F.dropout(x, self.dropout, self.training))


class Baseline(Backbone):
    """Another library's network: `net` up to the features, and our linear head.

    Layers after the library's classifier, such as a softmax, are removed: logits are raw. `load_state_dict` accepts
    the library's own checkpoints too.

    Args:
        net: `(B, C, [T,] H, W)` to `(B, D)`.
        origin: The original network.
        num_classes: Classes of the head; 0 for none, None for the library's number.

    Raises:
        UserError: The network cannot take its input shape.
    """

    def __init__(self, net: nn.Module, *, origin: Origin, num_classes: int | None = None) -> None:
        super().__init__()
        self.origin = origin
        self._frozen: list[nn.Parameter] = []  # by `place_head`
        self.net = net
        self.num_features, self._levels = _probe(net, origin)
        self.feature_info = tuple(self._levels.values())
        self.num_classes = origin.num_classes if num_classes is None else num_classes
        self.head = self.new_head(self.num_classes)

    @property
    def name(self) -> str:
        """Its name for `create_baseline`."""
        return self.origin.name

    def make_head(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised linear layer."""
        origin = self.origin
        return Classifier(self.num_features, num_classes, bias=origin.has_bias, dropout=origin.head_dropout)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` for images or `(C, T, H, W)` for clips: the size this network was constructed for."""
        return self.origin.input_shape

    def forward_features(self, x: Tensor) -> Tensor:
        """Map image `(B, C, H, W)` or clip `(B, C, T, H, W)` to the input of the classifier, `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        return cast("Tensor", self._run(self.net, x))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the last map `(B, C_i, [T_i,] H_i, W_i)` on each available grid of strides 4, 8, 16 and 32.

        Raises:
            NotImplementedError: The network has no maps, or its library does not open them.
        """
        if not self._levels:
            raise NotImplementedError(f"{self.name} has no feature maps: its library does not give access to them")
        outputs: dict[str, Tensor] = {}
        hooks = [
            self.net.get_submodule(path).register_forward_hook(partial(keep_output, outputs, path))
            for path in self._levels
        ]
        try:
            self._run(self.net, x)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [outputs[path] for path in self._levels]
        return [level.movedim(-1, 1) for level in maps] if self.origin.channels_last else maps

    def place_head(self, head: nn.Module, num_classes: int) -> None:
        """Replace the head by any module; under a head on the maps, freeze what only a classifier uses.

        Such layers get no gradient, and distributed training refuses trainable parameters without one.
        """
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = _unused_by_maps(self) if isinstance(head, MapsHead) else []
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        super().place_head(head, num_classes)

    def _run(self, call: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Call the library, and turn its error about a shape into one line."""
        shape, built = tuple(x.shape[1:]), self.input_shape
        if len(shape) != len(built) or shape[0] != built[0]:
            axes = "(B, C, T, H, W)" if len(built) == 4 else "(B, C, H, W)"
            raise ValueError(f"{self.name}: expected {axes} with C={built[0]}, got shape {('B', *shape)}")
        if shape == built:
            return call(x)
        try:
            return call(x)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise ValueError(f"{self.name} is built for {built} and cannot take {shape}: {one_line(error)}") from error

    def layer_groups(self) -> list[list[str]]:
        """Return all parameter names in groups from the stem to the head: the library's own, or else block by block."""
        groups = [[f"net.{name}" for name in group] for group in self._net_groups()]
        groups[-1] += [f"head.{name}" for name, _ in self.head.named_parameters()]
        return [group for group in groups if group]

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return `layer_groups` in whole names: no prefix tells the depth in a foreign network."""
        return [tuple(group) for group in self.layer_groups()]

    def _net_groups(self) -> list[list[str]]:
        """Return parameter names of `net` by depth; the last group is the head's and may be empty."""
        return groups_by_block(self.net)

    def set_activation_checkpointing(self, on: bool) -> None:
        """Refuse activation checkpointing; only timm's networks support it.

        Raises:
            NotImplementedError: The library does not support it.
        """
        if on:
            raise NotImplementedError(f"{self.name} does not support activation checkpointing")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict as torch does, also under the library's own names, without `net.`."""
        if not any(name.startswith("net.") for name in state_dict):
            state_dict = self.renamed(state_dict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict from the library's own names to ours."""
        renamed: OrderedDict[str, Tensor] = OrderedDict()
        inner = "net.net." if isinstance(self.net, TwoPathways) else "net."
        before = f"{self.origin.classifier}."
        for name, tensor in state.items():
            if not name.startswith(before):
                renamed[f"{inner}{name}"] = tensor
            elif self.num_classes:
                # Two of torchvision's networks classify by a 1x1 convolution.
                renamed[f"head.{name.removeprefix(before)}"] = tensor.flatten(1) if tensor.ndim > 2 else tensor
        # The versions of the modules, which a few networks read, are attributes of the dictionary.
        metadata = getattr(state, "_metadata", {})
        renamed._metadata = {f"{inner}{path}".rstrip("."): version for path, version in metadata.items()}  # type: ignore[attr-defined]
        return renamed


class TimmBaseline(Baseline):
    """A network of timm, with access to feature maps and checkpointing."""

    def __init__(self, net: nn.Module, *, origin: Origin, num_classes: int | None = None) -> None:
        super().__init__(net, origin=origin, num_classes=num_classes)
        self._indices = _timm_levels(net) if hasattr(net, "forward_intermediates") else {}
        self.feature_info = tuple(self._indices.values())

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the last map `(B, C_i, H_i, W_i)` of each stride from 4 on, by timm's `forward_intermediates`.

        Raises:
            NotImplementedError: The network has no maps, or timm does not open them.
        """
        if not self._indices:
            raise NotImplementedError(f"{self.name} has no feature maps: timm does not give access to them")
        intermediates = partial(
            cast("Callable[..., list[Tensor]]", self.net.forward_intermediates),
            indices=list(self._indices),
            intermediates_only=True,
        )
        return list(self._run(intermediates, x))

    def no_weight_decay(self) -> set[str]:
        """Return timm's exemptions, biases and everything 1-D."""
        exempt = cast("Callable[[], set[str]]", getattr(self.net, "no_weight_decay", set))()
        exempt_names = {f"net.{name}" for name, _ in self.net.named_parameters() if name in exempt}
        return exempt_names | super().no_weight_decay()

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute timm's blocks in the backward pass instead of keeping their activations.

        Raises:
            NotImplementedError: timm does not support it for this network.
        """
        try:
            cast("Callable[[bool], None]", self.net.set_grad_checkpointing)(on)
        except (AttributeError, AssertionError) as error:
            raise NotImplementedError(
                f"{self.name} does not support activation checkpointing: {one_line(error)}"
            ) from None
        self.activation_checkpointing = on

    def _net_groups(self) -> list[list[str]]:
        if not hasattr(self.net, "group_matcher"):
            return super()._net_groups()
        from timm.models import group_parameters

        # The classifier, under timm's name, shows which level is the head's.
        head = f"{self.origin.classifier}.weight"
        names = [*(name for name, _ in self.net.named_parameters()), head]
        matcher = cast("Callable[..., Any]", self.net.group_matcher)(coarse=False)
        named: Any = SimpleNamespace(named_parameters=lambda: [(name, name) for name in names])
        levels = group_parameters(named, matcher)
        return [[name for name in levels[level] if name != head] for level in sorted(levels)]


class TwoPathways(nn.Module):
    """SlowFast's input: two clips of one video, all frames and every alpha-th."""

    def __init__(self, net: nn.Module, *, alpha: int) -> None:
        super().__init__()
        self.net = net
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Map clips `(B, C, T, H, W)` to the network's outputs."""
        frames = x.shape[2]
        num_slow = math.ceil(frames / self.alpha)
        # First and last frame and even steps between, as SlowFast's authors choose them.
        slow = [i * (frames - 1) // max(num_slow - 1, 1) for i in range(num_slow)]
        return cast("Tensor", self.net([x[:, :, slow], x]))


def one_line(error: BaseException) -> str:
    """Return the message of an error, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def keep_output(outputs: dict[str, Tensor], path: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Keep a module's output by its path; as a forward hook."""
    outputs[path] = output


# -- outputs of a network's modules ---------------------------------------------------------------------------------


def _probe(net: nn.Module, origin: Origin) -> tuple[int, dict[str, FeatureInfo]]:
    """Return the width of the features, and the module path of the last map of each stride.

    Raises:
        UserError: The network does not accept its own input shape, or does not return a vector.
    """
    features, outputs = _try_forward(net, origin)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(f"{origin.name} does not return one vector per input: it is not a classifier")
    by_stride = {}
    for path, output in outputs.items():  # in the order of the calls
        info = _feature_info(output, origin)
        if info is not None:
            by_stride[info.stride] = path, info
    if len(by_stride) < 2:  # only the patches of a network of tokens
        by_stride = {}
    return features.shape[1], dict(by_stride[stride] for stride in sorted(by_stride))


def _try_forward(net: nn.Module, origin: Origin) -> tuple[Any, dict[str, Tensor]]:
    x = torch.zeros(1, *origin.input_shape)
    # On shapes alone, which costs nothing. Some networks cannot run so; a wrong shape fails again below.
    with contextlib.suppress(Exception):
        return _watched_forward(_without_data(net), x.to("meta"))
    try:
        return _watched_forward(net, x)
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{origin.name} cannot take inputs of shape {origin.input_shape}: {one_line(error)}") from None


def _without_data(net: Network) -> Network:
    """Copy a network to tensors that have only shapes."""
    shapes: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    shapes |= {id(buffer): buffer.to("meta") for buffer in net.buffers()}
    return copy.deepcopy(net, shapes)


def _unused_by_maps(model: Baseline) -> list[nn.Parameter]:
    """Return the trainable parameters of the library's network that do not reach its maps; none if unknown."""
    if not model.feature_info:
        return []
    shadow = _without_data(model).eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            maps = shadow.feature_maps(torch.zeros(1, *model.input_shape, device="meta"))
    except Exception:  # it cannot run on shapes alone
        return []
    reached = _leaves(maps)
    parameters = zip(model.net.parameters(), shadow.net.parameters(), strict=True)
    return [parameter for parameter, copied in parameters if parameter.requires_grad and id(copied) not in reached]


def _leaves(outputs: Iterable[Tensor]) -> set[int]:
    """Return the ids of the parameters in the graph of some tensors."""
    nodes: list[Any] = [output.grad_fn for output in outputs]
    visited, leaves = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        following = {target for target, _ in getattr(node, "next_functions", ()) if target is not None} - visited
        visited |= following
        nodes += following
    return leaves


def _watched_forward(net: nn.Module, x: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return a network's output, and the outputs of its modules that may be maps, by path."""
    outputs: dict[str, Tensor] = {}
    hooks = [module.register_forward_hook(partial(keep_output, outputs, path)) for path, module in _map_makers(net)]
    training = net.training
    net.eval()  # batch norm must neither learn from this nor refuse a batch of one
    try:
        with torch.no_grad():
            return net(x), outputs
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()


def _map_makers(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules whose outputs may be maps: the top level, and the elements of containers there."""
    for name, module in net.named_children():
        below = module.named_children() if isinstance(module, CONTAINERS) else ()
        for path, maker in ((name, module), *((f"{name}.{inner}", child) for inner, child in below)):
            if any(True for _ in maker.parameters()):  # without parameters it may be the pooling after the last map
                yield path, maker


def _feature_info(output: Any, origin: Origin) -> FeatureInfo | None:
    """Return channels and stride of a module's output, or None if it is not a map of the pyramid."""
    if not isinstance(output, Tensor) or output.ndim != len(origin.input_shape) + 1:
        return None
    last = origin.channels_last
    channels, width = (output.shape[-1], output.shape[-2]) if last else (output.shape[1], output.shape[-1])
    pixels = origin.input_shape[-1]
    stride = next((stride for stride in PYRAMID_STRIDES if math.ceil(pixels / stride) == width), None)
    return None if stride is None else FeatureInfo(channels, stride)


def _timm_levels(net: nn.Module) -> dict[int, FeatureInfo]:
    """Return the last of timm's intermediates for each stride from 4 on, by index."""
    infos: Any = getattr(net, "feature_info", [])
    by_stride: dict[int, tuple[int, FeatureInfo]] = {}
    for index, info in enumerate(getattr(infos, "info", infos)):
        if info["reduction"] >= PYRAMID_STRIDES[0]:
            by_stride[info["reduction"]] = index, FeatureInfo(info["num_chs"], info["reduction"])
    return dict(by_stride.values())


# -- its parameters by depth ----------------------------------------------------------------------------------------


def groups_by_block(net: nn.Module) -> list[list[str]]:
    """Return parameter names by depth: the stem, each block with the layers before it, and the rest.

    A network without blocks has a level for each part.
    """
    blocks = list(_blocks(net)) or list(_parts(net))
    groups: list[list[str]] = [[] for _ in range(len(blocks) + 2)]
    started = 0
    for name, _ in net.named_parameters():
        owner = next((i for i, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        if owner is not None:
            started = owner + 1
            groups[started].append(name)
        else:
            groups[started + 1 if started else 0].append(name)
    return [*(group for group in groups[:-1] if group), groups[-1]]


def _blocks(module: nn.Module, path: str = "") -> Iterator[str]:
    """Yield elements of containers that have parts of their own; of nested containers the inner elements if several."""
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        inner = [] if hasattr(child, "multipathway_blocks") else list(_blocks(child, below))  # SlowFast: side by side
        is_element = isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS)
        if is_element and any(True for _ in child.children()) and len(inner) < 2:
            yield below
        else:
            yield from inner


def _parts(module: nn.Module, path: str = "") -> Iterator[str]:
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if isinstance(child, CONTAINERS):
            yield from _parts(child, below)
        else:
            yield below
