"""Whose names are whose; parity of outputs through each is in test_golden.py and test_live_parity.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import V1, images, lively, mvit_repository, separate_qkv, small
from torch import Tensor

from mvrec.errors import UserError
from mvrec.models import Framewise, MViT, create_model, load_weights
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


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "torchvision/swin_t"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.net._orig_mod."])
def test_a_baseline_loads_its_own_librarys_files(name: str, prefix: str) -> None:
    peer = library_network(name)
    state = {"state_dict": {f"{prefix}{key}": tensor for key, tensor in peer.state_dict().items()}, "epoch": 1}
    model = create_model(name, num_classes=5, image_size=64, weights=state).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), peer(x))


def library_network(name: str) -> Any:
    import timm
    import torchvision

    torch.manual_seed(0)
    library, model = name.split("/")
    if library == "timm":
        return lively(timm.create_model(model, num_classes=5))
    return lively(torchvision.models.get_model(model, num_classes=5))


def test_a_baselines_own_state_dict_loads() -> None:
    model, other = (lively(create_model("timm/resnet18", num_classes=5), seed=seed) for seed in (1, 2))
    lightning = {"state_dict": {f"backbone.{key}": tensor for key, tensor in model.state_dict().items()}}
    assert load_weights(other, lightning).complete
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        ("torchvision/resnet50", r"does not fit this Baseline \(torchvision layout\)"),
        ("torchvision/swin_t", r"does not fit this Baseline \(torchvision layout\): \d+ tensors are missing"),
    ],
)
def test_a_baseline_refuses_another_networks_files(holds: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("torchvision/resnet18", num_classes=5, weights=library_network(holds).state_dict())


def test_a_baselines_head_of_another_class_count_is_one_line() -> None:
    state = library_network("torchvision/resnet18").state_dict()
    with pytest.raises(UserError, match="its head knows 5 classes, the network 7"):
        create_model("torchvision/resnet18", num_classes=7, weights=state)
    report = load_weights(create_model("torchvision/resnet18", num_classes=7), state, allow_partial=True)
    assert [change.name for change in report.mismatched] == ["head.weight", "head.bias"]


def test_an_image_network_on_clips_loads_the_images_file() -> None:
    image, build = LAYOUTS["CloFormer"][0](), LAYOUTS["CloFormer"][0]
    clips = Framewise(lively(build(), seed=7), num_frames=2)
    assert load_weights(clips, image.state_dict()).complete
    own = {f"backbone.{key}": tensor for key, tensor in image.state_dict().items()}
    assert load_weights(clips, own).complete
    x = images(image)
    torch.testing.assert_close(clips.eval()(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x))


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
