"""Other libraries' networks behind the contract: the same numbers as theirs, and one line where they cannot."""

import copy
import socket
import sys
import warnings
from typing import Any

import pytest
import timm
import torch
import torchvision.models as torchvision_models
from torch import nn
from torchvision.ops import StochasticDepth
from zoo_builds import inputs, lively

from mvrec.errors import UserError, install_hint
from mvrec.models import create_model
from mvrec.models.baselines.names import create_baseline, list_baselines
from mvrec.models.baselines.wrapper import Baseline, Origin, TwoPathways, groups_by_block


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a download: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def library(name: str, **knobs: object) -> nn.Module:
    """The library's own network, without a softmax at its end."""
    source, _, model = name.partition("/")
    if source == "timm":
        return timm.create_model(model, pretrained=False, **knobs)
    if source == "torchvision":
        return torchvision_models.get_model(model, weights=None, **knobs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorchvideo.models.hub as hub
    net = getattr(hub, model)(pretrained=False, **knobs)
    for module in net.modules():
        if isinstance(getattr(module, "activation", None), nn.Softmax):
            module.activation = None
    return net


SMALL = {"image_size": 64}
RESNET = [(64, 4), (128, 8), (256, 16), (512, 32)]
# Our knobs; the library's for the same network; channels and strides of maps, and the number of groups of layers.
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[list[tuple[int, int]], int] | None]] = {
    "timm/resnet10t": (SMALL, {}, (RESNET, 6)),
    "timm/vit_tiny_patch16_224": (SMALL, {"img_size": 64}, ([(192, 16)], 14)),
    "torchvision/resnet18": (SMALL, {}, (RESNET, 10)),
    "torchvision/swin_t": (SMALL, {}, ([(96, 4), (192, 8), (384, 16), (768, 32)], 17)),
    "torchvision/mobilenet_v3_small": (SMALL, {}, None),
    "torchvision/mnasnet0_5": (SMALL, {}, None),  # asks for the modules' versions
    "torchvision/mc3_18": (SMALL | {"num_frames": 4}, {}, ([(128, 4), (256, 8), (512, 16)], 10)),
    "torchvision/s3d": ({"image_size": 224, "num_frames": 14}, {}, None),  # a 1x1 convolution
    "pytorchvideo/x3d_xs": ({}, {}, ([(24, 4), (48, 8), (96, 16), (192, 32)], 29)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith("s3d") else ()) for name in NETWORKS]
)
@torch.no_grad()
def test_baseline_gives_the_logits_of_its_library_and_keeps_the_contract(name: str) -> None:
    knobs, their_knobs, structure = NETWORKS[name]
    reference = lively(library(name, **their_knobs), spread=0.02).eval()
    model = create_baseline(name, **knobs).eval()
    model.load_state_dict(reference.state_dict())
    x = inputs(model, 1)
    expected, logits, features = reference(x), model(x), model.forward_features(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert expected.shape == (1, model.num_classes)
    assert features.shape == (1, model.num_features)
    torch.testing.assert_close(model.head(features), logits)

    groups = model.layer_groups()
    names = [parameter for parameter, _ in model.named_parameters()]
    assert sorted(parameter for group in groups for parameter in group) == sorted(names)
    assert next(iter(model.net.parameters())) is model.get_parameter(groups[0][0])
    assert "head.weight" in groups[-1]
    vectors = {parameter for parameter, value in model.named_parameters() if value.ndim <= 1}
    assert vectors <= model.no_weight_decay() <= set(names)
    if structure is not None:
        levels, num_groups = structure
        assert len(groups) == num_groups
        assert [(info.channels, info.stride) for info in model.feature_info] == levels
        maps = model.feature_maps(x)
        assert [(level.shape[1], x.shape[-1] // level.shape[-1]) for level in maps] == levels
        assert all(level.ndim == x.ndim and level.isfinite().all() for level in maps)
        if "resnet" in name:  # whose features are the mean of its last map
            torch.testing.assert_close(maps[-1].mean((2, 3)), features)
    model.reset_head(7)
    assert (model.head(features).shape, model.num_classes) == ((1, 7), 7)
    model.reset_head(0)
    assert model.head(features) is features


def test_building_leaves_no_trace_on_a_network() -> None:
    model = create_baseline("torchvision/resnet18")
    assert all(module.training for module in model.modules())
    assert not model.net.bn1.running_mean.any()
    assert not any(module._forward_hooks for module in model.modules())
    # CoaT uses some of its modules in several places.
    coat = create_baseline("timm/coat_lite_tiny")
    assert {tensor.device.type for tensor in (*coat.parameters(), *coat.buffers())} == {"cpu"}
    copy.deepcopy(coat)


class Stubborn(nn.Sequential):
    """A network that cannot run on shapes alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert float(x.abs().max()) >= 0
        return super().forward(x).flatten(2).mean(2)


def test_building_a_network_that_must_really_run_changes_nothing_in_it() -> None:
    net = Stubborn(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6))
    model = Baseline(net, origin=Origin("some/network", input_shape=(3, 64, 64), num_classes=2, classifier="head"))
    assert model.num_features == 6
    assert net[1].num_batches_tracked == 0
    assert net[1].training
    assert model.feature_info == ()  # patches alone are no pyramid


def test_slowfast_gets_every_fourth_frame_beside_all() -> None:
    pathways = TwoPathways(lambda clips: [clip.flatten().tolist() for clip in clips], alpha=4)
    slow, fast = pathways(torch.arange(32.0).reshape(1, 1, 32, 1, 1))
    assert slow == [0, 4, 8, 13, 17, 22, 26, 31]  # as SlowFast's PackPathway
    assert fast == list(range(32))
    assert pathways(torch.arange(3.0).reshape(1, 1, 3, 1, 1)) == [[0], [0, 1, 2]]


def test_slowfast_takes_a_clip_of_odd_length_and_groups_its_pathways_by_depth() -> None:
    model = create_baseline("pytorchvideo/slowfast_r50", num_classes=3, num_frames=9, image_size=32).eval()
    with torch.no_grad():
        assert model(inputs(model, 1)).shape == (1, 3)
    for block, group in enumerate(model.layer_groups()[:-1]):
        assert {name.split(".")[3] for name in group} == {str(block)}


def test_layer_groups_of_a_resnet_go_from_block_to_block() -> None:
    with torch.device("meta"):
        groups = groups_by_block(library("torchvision/resnet18"))
    assert groups[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert {".".join(name.split(".")[:2]) for name in groups[3]} == {"layer2.0"}
    assert groups[-1] == ["fc.weight", "fc.bias"]


def test_timm_network_recomputes_activations_and_keeps_its_exemptions_from_weight_decay() -> None:
    model = create_baseline("timm/vit_tiny_patch16_224", num_classes=3, image_size=32)
    assert {"net.pos_embed", "net.cls_token", "net.blocks.0.norm1.weight"} <= model.no_weight_decay()
    assert "net.blocks.0.mlp.fc1.weight" not in model.no_weight_decay()
    x, runs, results = inputs(model, 2), [], []
    model.net.blocks[3].register_forward_pre_hook(lambda *arguments: runs.append(1))
    for on in (False, True):
        model.set_activation_checkpointing(on)
        model.zero_grad()
        model(x).sum().backward()
        results.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(runs) == 1 + 2
    torch.testing.assert_close(results[1], results[0])


def test_network_of_torchvision_without_maps_or_checkpointing_refuses_them() -> None:
    with torch.device("meta"):
        model = create_baseline("torchvision/alexnet")
    assert model.feature_info == ()
    with pytest.raises(NotImplementedError, match="torchvision/alexnet has no feature maps"):
        model.feature_maps(inputs(model, 1))
    with pytest.raises(NotImplementedError, match="torchvision/alexnet does not support"):
        model.set_activation_checkpointing(True)


def test_channels_and_sizes_arrive() -> None:
    cases: dict[str, dict[str, Any]] = {
        "timm/resnet10t": {"image_size": 64},
        "torchvision/resnet18": {"image_size": (64, 96)},
        "pytorchvideo/x3d_xs": {"image_size": 64, "num_frames": 6},
    }
    for name, knobs in cases.items():
        model = create_baseline(name, num_classes=3, in_channels=5, **knobs).requires_grad_(False).eval()
        size = knobs["image_size"]
        frames = [knobs["num_frames"]] if "num_frames" in knobs else []
        assert model.input_shape == (5, *frames, *(size if isinstance(size, tuple) else (size, size)))
        x = inputs(model, 1).requires_grad_()
        model(x).sum().backward()
        assert (x.grad.flatten(2).abs().sum((0, 2)) > 0).all(), name  # every channel counts


def test_mvit_of_pytorchvideo_gets_its_size_and_the_classes_of_images() -> None:
    model = create_baseline("pytorchvideo/mvit_base_16", image_size=64, drop_path_rate=0.5)
    assert model(inputs(model, 1)).shape == (1, 1000)
    assert [m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")][-1] == pytest.approx(0.5)


def test_drop_path_rate_and_head_dropout_reach_their_layers() -> None:
    efficient = create_baseline("torchvision/efficientnet_b0", drop_path_rate=0.5, image_size=64)
    mobile = create_baseline("torchvision/mobilenet_v3_small", head_dropout=0.7, image_size=64)
    resnet = create_baseline("torchvision/resnet18", head_dropout=0.7, image_size=64)
    rates = [module.p for module in efficient.modules() if isinstance(module, StochasticDepth)]
    assert (rates[0], rates[-1]) == (0, pytest.approx(0.5))
    assert rates == sorted(rates)
    assert [m.p for m in mobile.net.classifier if isinstance(m, nn.Dropout)] == [0.7]
    assert mobile.head.dropout == 0  # the library has one
    resnet.reset_head(3)
    assert resnet.head.dropout == 0.7
    vit = create_baseline("timm/vit_tiny_patch16_224", drop_path_rate=0.5, head_dropout=0.7, image_size=32)
    assert vit.net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.5)
    assert vit.net.head_drop.p == 0.7


@pytest.mark.parametrize(
    ("name", "knobs", "expected"),
    [
        ("timm/resnet_10t", {}, "timm has no network 'timm/resnet_10t'; did you mean 'timm/resnet10t'?"),
        ("tim/resnet18", {}, "'tim/resnet18' is not a network: the part before the slash must be one of timm/..., t"),
        ("timm/hf-hub:some/thing", {}, "timm has no network 'timm/hf-hub:some/thing'"),
        ("pytorchvideo/slow_r50_detection", {}, "pytorchvideo has no network 'pytorchvideo/slow_r50_detection'"),
        ("timm/resnet10t", {"num_frames": 8}, "timm/resnet10t: an image network has no num_frames (got 8); "),
        ("torchvision/resnet18", {"drop_path_rate": 0.1}, "torchvision/resnet18: it does not support drop_"),
        ("pytorchvideo/x3d_xs", {"drop_path_rate": 0.1}, "pytorchvideo/x3d_xs: it does not support drop_"),
        ("timm/vgg11", {"drop_path_rate": 0.1}, "timm/vgg11 cannot be built like that: "),
        ("torchvision/mvit_v1_b", {"num_frames": 8}, "torchvision/mvit_v1_b cannot take inputs of shape (3, 8, 224, "),
    ],
)
def test_unsupported_name_or_knob_is_one_line(name: str, knobs: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError) as error, torch.device("meta"):
        create_baseline(name, **knobs)  # type: ignore[arg-type]
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_input_that_the_library_refuses_is_one_line() -> None:
    model = create_baseline("timm/vit_tiny_patch16_224", image_size=32)
    with pytest.raises(ValueError, match=r"^timm/vit_\w+ is built for \(3, 32, 32\) and cannot take \(3, 48, 48\): "):
        model(torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) with C=3, got shape \('B', 3, 4, 32, 32\)"):
        model(torch.zeros(1, 3, 4, 32, 32))


def test_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError) as error:
        create_baseline("timm/resnet18")
    assert str(error.value) == f"timm/resnet18: needs timm: {install_hint('timm')}"


def test_listed_names_exist_and_create_model_takes_them() -> None:
    assert {"torchvision/resnet50", "torchvision/mvit_v2_s"} <= set(list_baselines("torchvision"))
    assert "timm/swin_tiny_patch4_window7_224" in list_baselines("timm")
    names = list_baselines("pytorchvideo")
    hub = sys.modules["pytorchvideo.models.hub"]
    assert all(callable(getattr(hub, name.removeprefix("pytorchvideo/"))) for name in names)
    with pytest.raises(UserError, match=r"no library 'torchvison'.*did you mean 'torchvision'"):
        list_baselines("torchvison")
    model = create_model("torchvision/resnet18", num_classes=4, image_size=64).eval()
    assert (model.num_classes, model.input_shape) == (4, (3, 64, 64))
    assert model(torch.zeros(1, 3, 50, 70)).shape == (1, 4)
