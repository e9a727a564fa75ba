import inspect

import pytest
import torch

import mvrec.models as zoo
from mvrec.models import MViT

# Parameters of the released networks.
PARAMETERS = {
    "mvit_b_16x4": 36_610_672,
    "mvit_b_32x3": 36_611_440,
    "mvit_b24_32x3": 53_115_280,
    "mvit_b_image": 36_982_600,
    "mvit_v2_t": 24_173_320,
    "mvit_v2_s": 34_870_216,
    "mvit_v2_b": 51_472_744,
    "mvit_v2_l": 217_992_952,
    "mvit_v2_s_16x4": 34_537_744,
    "mvit_v2_b_32x3": 51_230_128,
    "mvit_v2_l_40x3": 213_390_112,
}
DROP_PATH = {
    "mvit_b_16x4": 0.2,
    "mvit_b_32x3": 0.3,
    "mvit_b24_32x3": 0.3,
    "mvit_b_image": 0.1,
    "mvit_v2_t": 0.1,
    "mvit_v2_s": 0.1,
    "mvit_v2_b": 0.3,
    "mvit_v2_l": 0.5,
    "mvit_v2_s_16x4": 0.2,
    "mvit_v2_b_32x3": 0.3,
    "mvit_v2_l_40x3": 0.75,
}
INPUTS = {
    "mvit_b_16x4": (3, 16, 224, 224),
    "mvit_b_32x3": (3, 32, 224, 224),
    "mvit_b24_32x3": (3, 32, 224, 224),
    "mvit_b_image": (3, 224, 224),
    "mvit_v2_t": (3, 224, 224),
    "mvit_v2_s": (3, 224, 224),
    "mvit_v2_b": (3, 224, 224),
    "mvit_v2_l": (3, 224, 224),
    "mvit_v2_s_16x4": (3, 16, 224, 224),
    "mvit_v2_b_32x3": (3, 32, 224, 224),
    "mvit_v2_l_40x3": (3, 40, 312, 312),
}


def on_meta(name: str, **knobs: object) -> MViT:
    with torch.device("meta"):
        return getattr(zoo, name)(**knobs)


def count(model: MViT) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_variant_is_in_the_zoo() -> None:
    assert set(PARAMETERS) == {name for name in zoo.__all__ if name.startswith("mvit_")}


@pytest.mark.parametrize("name", PARAMETERS)
def test_variant_is_the_released_network(name: str) -> None:
    model = on_meta(name)
    assert count(model) == PARAMETERS[name]
    assert model.blocks[-1].drop_path.p == pytest.approx(DROP_PATH[name])
    assert model.input_shape == INPUTS[name]
    assert model.num_classes == (400 if len(INPUTS[name]) == 4 else 1000)
    assert model.head.dropout.p == (0.5 if len(INPUTS[name]) == 4 else 0.0)
    assert [info.stride for info in model.feature_info] == [4, 8, 16, 32]


@pytest.mark.parametrize("name", PARAMETERS)
def test_knobs_are_typed_keywords_that_arrive(name: str) -> None:
    signature = inspect.signature(getattr(zoo, name))
    assert signature.return_annotation is MViT
    for parameter in list(signature.parameters.values())[1:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty

    model = on_meta(name, num_classes=7, image_size=(64, 96), drop_path_rate=0.4, head_dropout=0.3, pooling="max")
    assert model.head.projection.out_features == 7
    assert model.input_shape[-2:] == (64, 96)
    assert model.blocks[-1].drop_path.p == pytest.approx(0.4)
    assert model.head.dropout.p == 0.3
    assert not any("pool_k" in key for key in model.state_dict())


def test_first_release_of_16x4_leaves_the_last_keys_unpooled() -> None:
    first, now = on_meta("mvit_b_16x4", unpooled_kv_blocks=(14, 15)), on_meta("mvit_b_16x4")
    assert count(first) == 36_599_536
    gone = {k.rsplit(".", 1)[0] for k in now.state_dict().keys() - first.state_dict().keys()}
    assert gone == {f"blocks.{i}.attn.{m}" for i in (14, 15) for m in ("pool_k", "pool_v", "norm_k", "norm_v")}


def test_initialisation_is_the_released_one() -> None:
    model = zoo.mvit_b_16x4()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
