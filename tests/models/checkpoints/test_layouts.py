"""Whose names are whose; parity of outputs through each is in test_golden.py and test_live_parity.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import V1, images, lively, mvit_repository, separate_qkv, small
from torch import Tensor

from mvrec.errors import UserError
from mvrec.models import MViT, create_model, load_weights
from mvrec.models.backbone import Backbone

State = dict[str, Tensor]
LAYOUTS: dict[str, tuple[Callable[[], Backbone], Callable[[State], State]]] = {
    "SlowFast": (lambda: small("v1"), dict),
    "SlowFast (separate q, k, v)": (lambda: small("v1"), separate_qkv),
    "mvit repository": (lambda: small("v2_image"), mvit_repository),
    "Shunted Transformer": (lambda: lively(create_model("shunted_t", num_classes=5, image_size=64)), dict),
    "SG-Former": (lambda: lively(create_model("sgformer_s", num_classes=5, image_size=64)), dict),
    "CloFormer": (lambda: lively(create_model("cloformer_xxs", num_classes=5, image_size=64)), dict),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_a_layout_is_recognised_and_loads(name: str, prefix: str) -> None:
    build, convert = LAYOUTS[name]
    model, other = build(), lively(build(), seed=7)
    state = {f"{prefix}{key}": tensor for key, tensor in convert(model.state_dict()).items()}
    report = load_weights(other, state)
    assert report.layout == name
    assert report.complete
    assert set(report.loaded) == set(model.state_dict())
    torch.testing.assert_close(other(images(model)), model(images(model)), rtol=0, atol=0)


def test_the_first_release_of_mvit_leaves_its_last_keys_unpooled() -> None:
    first = lively(MViT(**V1, unpooled_kv_blocks=(2, 3)))
    assert load_weights(lively(MViT(**V1, unpooled_kv_blocks=(2, 3)), seed=3), first.state_dict()).complete
    with pytest.raises(UserError, match=r"12 tensors are missing \(blocks\.2\.attn\.pool_k\.weight"):
        load_weights(small("v1"), first.state_dict())


def test_counters_that_old_files_lack_are_no_loss() -> None:
    build, _ = LAYOUTS["CloFormer"]
    model, other = build(), lively(build(), seed=7)
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert len(state) < len(model.state_dict())
    assert load_weights(other, state).complete


@pytest.mark.parametrize("holds", LAYOUTS)
def test_another_architecture_is_one_line(holds: str) -> None:
    build, convert = LAYOUTS[holds]
    state = convert(build().state_dict())
    for name, (other, _) in LAYOUTS.items():
        model = other()
        if type(model) is type(build()):
            continue
        with pytest.raises(
            UserError, match=rf"state dict: holds a {type(build()).__name__} .*a {type(model).__name__}"
        ):
            load_weights(model, state)
        assert name != holds


def other_networks() -> dict[str, Any]:
    import timm
    import torchvision

    with torch.device("meta"):
        return {
            "a ResNet": torchvision.models.resnet18().state_dict(),
            "a Swin": timm.create_model("swin_tiny_patch4_window7_224").state_dict(),
            "a ViT": timm.create_model("vit_tiny_patch16_224").state_dict(),
            "torchvision's ViT": torchvision.models.vit_b_16().state_dict(),
        }


@pytest.mark.parametrize("name", other_networks())
def test_a_strangers_network_is_one_line(name: str) -> None:
    """A ViT's names are much like MViT's."""
    state = {key: torch.zeros(tensor.shape) for key, tensor in other_networks()[name].items()}
    model = small("v1")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"no known network|does not fit this MViT") as error:
        load_weights(model, state)
    assert "\n" not in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
