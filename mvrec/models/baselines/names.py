"""Networks of timm, torchvision and pytorchvideo's hub by name, for comparison.

A library is imported when one of its networks is created. Weights are random: nothing is downloaded.
"""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from mvrec.errors import UserError, install_hint, nearest
from mvrec.models.backbone import Backbone
from mvrec.models.baselines.wrapper import Baseline, Origin, TimmBaseline, TwoPathways, one_line

# Modules that list the networks.
MODULES = {"timm": "timm", "torchvision": "torchvision.models", "pytorchvideo": "pytorchvideo.models.hub"}
VIDEO_FRAMES = 16  # of torchvision's video networks
SLOWFAST_ALPHA = 4  # frames of the fast pathway per frame of the slow one
# Frames and pixels of pytorchvideo's networks: the sizes that the pooling windows of their heads cover.
HUB_INPUTS = {
    "c2d_r50": (8, 224),
    "csn_r101": (32, 224),
    "efficient_x3d_s": (13, 160),
    "efficient_x3d_xs": (4, 160),
    "i3d_r50": (8, 224),
    "mvit_base_16": (None, 224),
    "mvit_base_16x4": (16, 224),
    "mvit_base_32x3": (32, 224),
    "r2plus1d_r50": (16, 224),
    "slow_r50": (8, 224),
    "slowfast_16x8_r101_50_50": (64, 224),
    "slowfast_r101": (32, 224),
    "slowfast_r50": (32, 224),
    "x3d_l": (16, 312),
    "x3d_m": (16, 224),
    "x3d_s": (13, 160),
    "x3d_xs": (4, 160),
}


@dataclass(frozen=True)
class Request:
    """The arguments of `create_baseline`; None leaves a knob to the library."""

    num_frames: int | None
    image_size: tuple[int, int] | None
    in_channels: int | None
    drop_path_rate: float | None
    head_dropout: float | None


def create_baseline(
    name: str,
    *,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    drop_path_rate: float | None = None,
    head_dropout: float | None = None,
    norm_eps: float | None = None,
) -> Backbone:
    """Return another library's network with random weights; None leaves a knob to the library.

    Args:
        name: `timm/...`, `torchvision/...` or `pytorchvideo/...` and the name there.
        num_classes: Classes of the head; 0 for none.
        num_frames: Frames of a clip.
        image_size: Pixels, square or (H, W).
        in_channels: Channels of the input.
        drop_path_rate: Stochastic depth of the last block.
        head_dropout: Dropout before the classifier.
        norm_eps: Number that batch normalisation adds to variances. torchvision's first weights for COCO (COCO_V1 of
            its detectors) need 0, with which they were trained.

    Raises:
        UserError: The network does not exist or does not support a knob, or its library is not installed.
    """
    library, model = check_baseline(name)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    request = Request(num_frames, size, in_channels, drop_path_rate, head_dropout)
    try:
        net, origin = BUILDERS[library](model, request)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{name} cannot be built like that: {one_line(error)}") from error
    if norm_eps is not None:
        _set_norm_eps(net, norm_eps, name)
    kind = TimmBaseline if library == "timm" else Baseline
    return kind(net, origin=origin, num_classes=num_classes)


def _set_norm_eps(net: nn.Module, eps: float, name: str) -> None:
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    if not norms:
        raise UserError(f"{name} has no batch normalisation: leave norm_eps unset")
    if eps < 0:
        raise UserError(f"{name}: norm_eps must be 0 or more, got {eps}")
    for norm in norms:
        norm.eps = eps


def list_baselines(library: str) -> list[str]:
    """Return names of one library's networks for `create_baseline`.

    Raises:
        UserError: The library is unknown or not installed.
    """
    if library not in MODULES:
        raise UserError(f"no library {library!r} of baselines{nearest(library, MODULES)}")
    module = _import(library, f"{library}/...")
    if library == "pytorchvideo":
        names = list(HUB_INPUTS)
    elif library == "torchvision":
        names = [name for part in (module, module.video) for name in module.list_models(module=part)]
    else:
        names = module.list_models()
    return [f"{library}/{name}" for name in names]


def check_baseline(name: str) -> tuple[str, str]:
    """Return the library and the name within it.

    Raises:
        UserError: The network does not exist, with the nearest name, or its library is not installed.
    """
    library, _, model = name.partition("/")
    if library not in MODULES:
        libraries = ", ".join(f"{name}/..." for name in MODULES)
        raise UserError(f"{name!r} is not a network: the part before the slash must be one of {libraries}")
    module = _import(library, name)
    names = list_baselines(library)
    # timm's names may end in the tag of some weights.
    if name not in names and not (library == "timm" and module.is_model(model)):
        raise UserError(f"{library} has no network {name!r}{nearest(name, names)}")
    return library, model


def _import(library: str, name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pytorchvideo's import uses deprecated parts of torch
            return importlib.import_module(MODULES[library])
    except ImportError as error:
        fault = f"needs {library}" if library in str(error) else f"cannot import {library} ({one_line(error)})"
        install = install_hint("timm") if library == "timm" else f"pip install {library}"
        raise UserError(f"{name}: {fault}: {install}") from None


def _timm(model: str, request: Request) -> tuple[nn.Module, Origin]:
    timm = importlib.import_module("timm")
    _refuse_frames(request)
    config = timm.get_pretrained_cfg(model)
    if config is None:
        raise UserError("timm has renamed this network")
    channels, *size = config.input_size
    knobs: dict[str, Any] = {
        "in_chans": request.in_channels,
        "drop_path_rate": request.drop_path_rate,
        "drop_rate": request.head_dropout,
        # Only networks with positions take a size; the others accept any input.
        "img_size": request.image_size if config.fixed_input_size else None,
    }
    net = timm.create_model(model, pretrained=False, num_classes=0, **{k: v for k, v in knobs.items() if v is not None})
    classifier = config.classifier
    return net, Origin(
        name=f"timm/{model}",
        input_shape=(request.in_channels or channels, *(request.image_size or size)),
        num_classes=max(config.num_classes, 0),
        classifier=classifier if isinstance(classifier, str) else (classifier or ["head"])[0],
    )


def _torchvision(model: str, request: Request) -> tuple[nn.Module, Origin]:
    models = importlib.import_module("torchvision.models")
    is_video = model in models.list_models(module=models.video)
    if not is_video:
        _refuse_frames(request)
    default = list(models.get_model_weights(model))[-1].transforms().crop_size
    size = request.image_size or (default[0], default[-1])
    knobs: dict[str, Any] = {}
    if model in ("googlenet", "inception_v3"):  # their auxiliary heads would add outputs in training
        knobs = {"aux_logits": False, "init_weights": True}
    elif model.startswith("vit_"):
        knobs = {"image_size": _square(size)}
    elif model.startswith("maxvit_"):
        knobs = {"input_size": size}
    net = models.get_model(model, weights=None, **knobs)
    if request.drop_path_rate is not None:
        _set_drop_path(net, request.drop_path_rate)
    frames = [request.num_frames or VIDEO_FRAMES] if is_video else []
    removed = _without_classifier(net, request)
    return net, Origin(
        name=f"torchvision/{model}",
        input_shape=(_with_channels(net, request.in_channels), *frames, *size),
        channels_last=model.startswith("swin"),
        **removed._asdict(),
    )


def _pytorchvideo(model: str, request: Request) -> tuple[nn.Module, Origin]:
    hub = importlib.import_module("pytorchvideo.models.hub")
    frames, side = HUB_INPUTS[model]
    if frames is None:
        _refuse_frames(request)
    frames = frames if request.num_frames is None else request.num_frames
    size = request.image_size or (side, side)
    is_mvit = model.startswith("mvit_")
    knobs: dict[str, Any] = {}
    if is_mvit:
        knobs = {"spatial_size": size, "temporal_size": frames or 1}
        if request.drop_path_rate is not None:
            knobs["droppath_rate_block"] = request.drop_path_rate
        if frames is None:
            knobs["head_num_classes"] = 1000  # it is for ImageNet, but the hub's default is Kinetics' 400
    elif request.drop_path_rate is not None:
        raise UserError("it does not support drop_path_rate: leave drop_path_rate unset")
    net = getattr(hub, model)(pretrained=False, **knobs)
    removed = _without_classifier(net, request)
    _replace_outdated(net)
    channels = _with_channels(net, request.in_channels)
    return TwoPathways(net, alpha=SLOWFAST_ALPHA) if model.startswith("slowfast") else net, Origin(
        name=f"pytorchvideo/{model}",
        input_shape=(channels, *([] if frames is None else [frames]), *size),
        **removed._asdict(),
    )


BUILDERS: dict[str, Callable[[str, Request], tuple[nn.Module, Origin]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "pytorchvideo": _pytorchvideo,
}


def _refuse_frames(request: Request) -> None:
    if request.num_frames is not None:
        raise UserError(
            f"an image network has no num_frames (got {request.num_frames}); mvrec.models.Framewise runs it on clips"
        )


def _square(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise UserError(f"it takes only square images, got image_size={size}")
    return size[0]


class Removed(NamedTuple):
    """The removed classifier, as recorded in `Origin`."""

    num_classes: int
    classifier: str
    has_bias: bool
    head_dropout: float


def _without_classifier(net: nn.Module, request: Request) -> Removed:
    """Remove the classifier: the last linear layer, or without one the last convolution.

    Our linear head acts on pooled features. A network that pools after its classifier gives the same, because means
    and linear maps commute; only SqueezeNet has a ReLU between them, which is removed with the classifier.
    """
    layers = dict(net.named_modules())
    linear = [path for path, layer in layers.items() if isinstance(layer, nn.Linear)]
    path = (linear or [path for path, layer in layers.items() if isinstance(layer, (nn.Conv2d, nn.Conv3d))])[-1]
    layer = layers[path]
    parent, _, name = path.rpartition(".")
    owner = net.get_submodule(parent)
    setattr(owner, name, nn.Identity())
    if isinstance(getattr(owner, "activation", None), nn.Softmax):
        owner.activation = nn.Identity()
    before = [child for child in owner.children() if isinstance(child, nn.Dropout)]
    if before and request.head_dropout is not None:
        before[-1].p = request.head_dropout
    num_classes = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    dropout = 0.0 if before or request.head_dropout is None else request.head_dropout
    return Removed(int(num_classes), path, layer.bias is not None, dropout)


def _with_channels(net: nn.Module, channels: int | None) -> int:
    """Give the layers that read pixels another number of channels; return their number of channels."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.in_channels == 3 and channels is not None:
            # Random like the library's initial values of three channels, taken in turn.
            layer.weight = nn.Parameter(layer.weight.detach()[:, [i % 3 for i in range(channels)]].clone())
            layer.in_channels = channels
    return channels or 3


def _set_drop_path(net: nn.Module, rate: float) -> None:
    """Scale the rates of all blocks so that the last one's is `rate`."""
    from torchvision.ops import StochasticDepth  # slow to import

    layers = [layer for layer in net.modules() if isinstance(layer, StochasticDepth)]
    highest = max((layer.p for layer in layers), default=0.0)
    if not highest:
        raise UserError("it does not support drop_path_rate: leave drop_path_rate unset")
    for layer in layers:
        layer.p *= rate / highest


def _replace_outdated(net: nn.Module) -> None:
    """Replace two kinds of layers of pytorchvideo, which have no parameters.

    The pooling windows of the heads cover whole maps at the released size; averages over whole maps accept any size.
    Its Swish is torch's SiLU, written with a deprecated part of torch.
    """
    for path, layer in list(net.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(layer, nn.AvgPool3d):
            setattr(net.get_submodule(parent), name, nn.AdaptiveAvgPool3d(1))
        elif type(layer).__name__ == "Swish":
            setattr(net.get_submodule(parent), name, nn.SiLU())
