"""Layouts of checkpoints; parity of outputs through each is in test_golden.py and test_live_parity.py."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor
from zoo_builds import inputs, lively, small

from mvrec.errors import UserError
from mvrec.models import Framewise, create_model, load_weights

State = dict[str, Tensor]


def separate_qkv(state: State) -> State:
    """A checkpoint as SlowFast saved it between June 2021 and June 2022."""
    split: State = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            split |= {name.replace(".qkv.", f".{n}."): part for n, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split


def mvit_repository(state: State) -> State:
    """Images are pooled by 2-D kernels there."""
    return {n: t.squeeze(2) if re.search(r"pool_[qkv]\.weight", n) else t for n, t in state.items()}


LAYOUTS: dict[str, tuple[str, Callable[[State], State]]] = {
    "SlowFast": ("mvit_v1_video", dict),
    "SlowFast (separate q, k, v)": ("mvit_v1_video", separate_qkv),
    "mvit repository": ("mvit_v2_image", mvit_repository),
    "Shunted Transformer": ("shunted", dict),
    "SG-Former": ("sgformer", dict),
    "CloFormer": ("cloformer", dict),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_recognised_under_any_prefix_and_refused_by_other_families(layout: str) -> None:
    name, convert = LAYOUTS[layout]
    model = small(name)
    state = convert(model.state_dict())
    for prefix in ("", "module.backbone."):
        other = small(name, seed=7)
        report = load_weights(other, {f"{prefix}{key}": tensor for key, tensor in state.items()})
        assert report.layout == layout
        assert report.complete
        assert set(report.loaded) == set(model.state_dict())
        torch.testing.assert_close(other(inputs(model)), model(inputs(model)), rtol=0, atol=0)
    for other in map(small, {other_name for other_name, _ in LAYOUTS.values()}):
        if type(other) is not type(model):
            message = rf"state dict: holds a {type(model).__name__} .*a {type(other).__name__}"
            with pytest.raises(UserError, match=message):
                load_weights(other, state)


def test_counters_that_an_old_file_lacks_are_no_loss() -> None:
    model, other = small("cloformer"), small("cloformer", seed=7)
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert len(state) < len(model.state_dict())
    assert load_weights(other, state).complete


def library_network(name: str) -> Any:
    library, model = name.split("/")
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    return lively(create(model, num_classes=5)).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet10t"])
def test_files_of_a_library_load_into_its_baseline_under_any_prefix(name: str) -> None:
    peer, x = library_network(name), torch.randn(2, 3, 64, 64)
    model = create_model(name, num_classes=5, image_size=64).eval()
    expected = peer(x)
    for prefix in ("", "backbone.net._orig_mod."):
        lively(model, seed=7)
        state = {f"{prefix}{key}": tensor for key, tensor in peer.state_dict().items()}
        load_weights(model, {"state_dict": state, "epoch": 1})
        torch.testing.assert_close(model(x), expected)
    prefixed = {"state_dict": {f"backbone.{key}": tensor.clone() for key, tensor in model.state_dict().items()}}
    assert load_weights(lively(model, seed=7), prefixed).complete
    torch.testing.assert_close(model(x), expected)
    headless = create_model(name, num_classes=0, image_size=64).eval()
    load_weights(headless, peer.state_dict())
    torch.testing.assert_close(headless(x), model.forward_features(x))


def test_weights_of_another_network_or_class_count_are_refused_by_a_baseline() -> None:
    model = create_model("torchvision/resnet18", num_classes=7)
    with torch.device("meta"):
        swin = torchvision.models.swin_t(num_classes=7).state_dict()
    with pytest.raises(UserError, match=r"not fit this Baseline \(torchvision layout\): \d+ tensors are missing"):
        load_weights(model, zeros(swin))
    state = library_network("torchvision/resnet18").state_dict()
    with pytest.raises(UserError, match="its head knows 5 classes, the network 7"):
        load_weights(model, state)
    report = load_weights(model, state, allow_partial=True)
    assert [change.name for change in report.mismatched] == ["head.weight", "head.bias"]


def zeros(state: State) -> State:
    return {key: torch.zeros(tensor.shape) for key, tensor in state.items()}


def test_file_of_an_image_network_loads_into_it_on_clips() -> None:
    image, clips = small("cloformer"), Framewise(small("cloformer", seed=7), num_frames=2)
    assert load_weights(clips, image.state_dict()).complete
    prefixed = {f"backbone.{key}": tensor for key, tensor in image.state_dict().items()}
    assert load_weights(clips, prefixed).complete
    x = inputs(image)
    torch.testing.assert_close(clips.eval()(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x))


def test_network_of_no_known_family_is_one_line_and_changes_nothing() -> None:
    with torch.device("meta"):
        others = [torchvision.models.resnet18(), torchvision.models.vit_b_16()]
        others.append(timm.create_model("vit_tiny_patch16_224"))  # whose names are much like MViT's
    for other in others:
        model = small("mvit_v1_video")
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(UserError, match=r"no known network|does not fit this MViT") as error:
            load_weights(model, zeros(other.state_dict()))
        assert "\n" not in str(error.value)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
