"""Whose names are whose; parity of outputs through each is in test_golden.py and test_live_parity.py."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from small_networks import mvit_repository, separate_qkv, small
from torch import Tensor
from zoo_builds import BUILDS, inputs, lively

from mvrec.errors import UserError
from mvrec.models import Framewise, create_model, load_weights
from mvrec.models.backbone import Backbone

State = dict[str, Tensor]
LAYOUTS: dict[str, tuple[Callable[[], Backbone], Callable[[State], State]]] = {
    "SlowFast": (lambda: small("v1"), dict),
    "SlowFast (separate q, k, v)": (lambda: small("v1"), separate_qkv),
    "mvit repository": (lambda: small("v2_image"), mvit_repository),
    "Shunted Transformer": (lambda: lively(BUILDS["shunted"]()).eval(), dict),
    "SG-Former": (lambda: lively(BUILDS["sgformer"]()).eval(), dict),
    "CloFormer": (lambda: lively(BUILDS["cloformer"]()).eval(), dict),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_recognised_under_any_prefix_and_refused_by_other_families(name: str) -> None:
    build, convert = LAYOUTS[name]
    model, state = build(), convert(build().state_dict())
    for prefix in ("", "module.backbone."):
        other = lively(build(), seed=7)
        report = load_weights(other, {f"{prefix}{key}": tensor for key, tensor in state.items()})
        assert report.layout == name
        assert report.complete
        assert set(report.loaded) == set(model.state_dict())
        torch.testing.assert_close(other(inputs(model)), model(inputs(model)), rtol=0, atol=0)
    for build_other, _ in LAYOUTS.values():
        other = build_other()
        if type(other) is not type(model):
            message = rf"state dict: holds a {type(model).__name__} .*a {type(other).__name__}"
            with pytest.raises(UserError, match=message):
                load_weights(other, state)


def test_counters_that_an_old_file_lacks_are_no_loss() -> None:
    build, _ = LAYOUTS["CloFormer"]
    model, other = build(), lively(build(), seed=7)
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
    own = {"state_dict": {f"backbone.{key}": tensor.clone() for key, tensor in model.state_dict().items()}}
    assert load_weights(lively(model, seed=7), own).complete
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
    build, _ = LAYOUTS["CloFormer"]
    image, clips = build(), Framewise(lively(build(), seed=7), num_frames=2)
    assert load_weights(clips, image.state_dict()).complete
    own = {f"backbone.{key}": tensor for key, tensor in image.state_dict().items()}
    assert load_weights(clips, own).complete
    x = inputs(image)
    torch.testing.assert_close(clips.eval()(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x))


def test_network_of_no_known_family_is_one_line_and_changes_nothing() -> None:
    with torch.device("meta"):
        others = [torchvision.models.resnet18(), torchvision.models.vit_b_16()]
        others.append(timm.create_model("vit_tiny_patch16_224"))  # whose names are much like MViT's
    for other in others:
        model = small("v1")
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(UserError, match=r"no known network|does not fit this MViT") as error:
            load_weights(model, zeros(other.state_dict()))
        assert "\n" not in str(error.value)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
