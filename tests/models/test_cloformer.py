from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_support import run_with_features
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from zoo_builds import BUILDS, channels_last, inputs, lively, quick_form
from zoo_builds import CLOFORMER_STAGES as STAGES

from mvrec.models.cloformer import Attention, CloFormer, Stage, cloformer_s, cloformer_xs, cloformer_xxs
from mvrec.models.layers import StochasticDepth

branches = pytest.mark.parametrize("branches", ["both", "global", "local"])


def tiny(**changes: Any) -> CloFormer:
    model = lively(BUILDS["cloformer"](**changes))
    assert isinstance(model, CloFormer)
    return model


def images(height: int = 64, width: int = 64, *, size: int = 2) -> Tensor:
    return inputs(tiny(), size, H=height, W=width)


@pytest.mark.parametrize(
    ("variant", "num_parameters", "drop_path_rate", "width"),
    [
        (cloformer_xxs, 4_166_728, 0.0, 256),
        (cloformer_xs, 7_172_216, 0.06, 352),
        (cloformer_s, 12_345_576, 0.06, 448),
    ],
)
def test_variants_are_the_published_networks(
    variant: Callable[..., CloFormer], num_parameters: int, drop_path_rate: float, width: int
) -> None:
    with torch.device("meta"):
        model = variant()
        other = variant(7, image_size=(64, 96), drop_path_rate=0.5, branches="local")
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert (model.num_classes, model.num_features, model.input_shape) == (1000, width, (3, 224, 224))
    drops = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert len(drops) == 12
    assert (drops[0], drops[-1]) == (0.0, pytest.approx(drop_path_rate))
    assert (other.num_classes, other.num_features, other.input_shape) == (7, width, (3, 64, 96))
    assert max(m.p for m in other.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.5)
    assert not any(".global_" in name for name, _ in other.named_parameters())


# The attention against its definition


@pytest.mark.parametrize("local_heads", [0, 1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 15)])
def test_attention_is_its_definition(local_heads: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    attention = Attention(Stage(dim=12, depth=1, heads=4, local_heads=local_heads, kernel=5, kv_pool=4)).double()
    x = torch.randn(2, 12, height, width, dtype=torch.float64)
    parts = []
    if local_heads:
        qkv = attention.convs[0](attention.qkvs[0](x))
        n = 3 * local_heads
        q, k, v = qkv[:, :n], qkv[:, n : 2 * n], qkv[:, 2 * n :]
        parts.append(torch.tanh(attention.act_blocks[0](q * k) / 3**0.5) * v)
    h, w = height // 4, width // 4
    cells = x[:, :, : 4 * h, : 4 * w].unflatten(3, (w, 4)).unflatten(2, (h, 4)).mean((3, 5))
    for head in range(4 - local_heads):
        n = 3 * (4 - local_heads)
        q = attention.global_q(x)[:, 3 * head : 3 * head + 3].flatten(2)
        k, v = (attention.global_kv(cells)[:, i : i + 3].flatten(2) for i in (3 * head, n + 3 * head))
        weights = torch.einsum("bcq,bck->bqk", q, k).div(3**0.5).softmax(-1)
        parts.append(torch.einsum("bqk,bck->bcq", weights, v).unflatten(2, (height, width)))
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(parts, 1)))


@branches
def test_branches_are_there_only_when_wanted(branches: str) -> None:
    keys = set(tiny(branches=branches).state_dict())
    attn = "layers.0.blocks.1.attn."
    assert (attn + "global_q.weight" in keys) == (attn + "global_kv.bias" in keys) == (branches != "local")
    local = ("convs.0.weight", "qkvs.0.bias", "act_blocks.0.act_block.0.weight", "act_blocks.0.act_block.2.bias")
    assert [attn + key in keys for key in local] == [branches != "global"] * 4
    assert attn + "proj.weight" in keys


@pytest.mark.parametrize(("branches", "heads"), [("global", 0), ("local", None)])
def test_an_ablation_gives_all_heads_to_one_branch(branches: str, heads: int | None) -> None:
    rows = [replace(s, local_heads=s.heads if heads is None else heads) for s in STAGES]
    ablated, spelled_out = tiny(branches=branches).eval(), tiny(stages=rows).eval()
    torch.testing.assert_close(ablated(images()), spelled_out(images()), rtol=0, atol=0)


# The network


def test_released_rows_take_odd_sizes() -> None:
    model = cloformer_xxs(3).eval()
    with torch.no_grad():
        for size in (225, 250):
            assert model(images(size, size, size=1)).isfinite().all()


def test_feature_maps_are_what_their_stages_end_with() -> None:
    model = tiny().eval()
    x = images(64, 96)
    blocks = [f"layers.{i}.blocks.{s.depth - 1}" for i, s in enumerate(STAGES)]
    _, features = run_with_features(model, x, [*blocks, "norm"])
    maps = model.feature_maps(x)
    for i, block in enumerate(blocks[:-1]):
        torch.testing.assert_close(maps[i], features[block][0])
    torch.testing.assert_close(maps[-1], features["norm"])
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))


def test_layer_groups_walk_from_stem_to_head() -> None:
    groups = tiny().layer_groups()
    assert all(name.startswith("patch_embed.") for name in groups[0])
    assert all(name.startswith("layers.0.blocks.1.") for name in groups[2])
    assert "layers.0.blocks.1.downsample.0.weight" in groups[2]
    assert groups[-1] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


def test_one_stage_or_one_block_is_a_network() -> None:
    assert tiny(stages=STAGES[:1], drop_path_rate=0.6).layers[0]["blocks"][1].drop_path.p == 0.6
    assert tiny(stages=[replace(STAGES[0], depth=1)], drop_path_rate=0.6).num_features == 8


def test_drop_path_takes_attention_and_mlp_but_no_shortcut() -> None:
    block = tiny(drop_path_rate=0.1).layers[0]["blocks"][1]
    block.drop_path.p = 1.0
    x = torch.randn(3, 8, 16, 16)
    attended, residual = block(x)
    assert attended.equal(x)
    assert not residual.any()
    assert block.shortcut(attended).any(dim=1).all()


@pytest.mark.parametrize("network_last", [False, True])
@pytest.mark.parametrize("images_last", [False, True])
def test_gradients_keep_the_layout_of_their_weights(network_last: bool, images_last: bool) -> None:
    """Whichever of the two comes channels last, as is usual for convolutions, DDP finds nothing to warn of."""
    model, x = tiny(), images()
    if network_last:
        model.to(memory_format=torch.channels_last)
    model(channels_last(x) if images_last else x).sum().backward()
    assert all(p.grad.stride() == p.stride() for p in model.parameters())


def test_smallest_size_is_one_cell_of_every_grid() -> None:
    deeper = (*STAGES[:3], replace(STAGES[3], kv_pool=2))
    assert tiny(stages=deeper)(images()).isfinite().all()
    with pytest.raises(ValueError, match="H, W of 64 or more"):
        tiny(stages=deeper, image_size=63)
    assert tiny(stages=deeper, branches="local").eval()(images(32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "in_channels must be 1 or more, got 0"),
        ({"branches": "no_global"}, "branches must be one of .*'local'.* got 'no_global'"),
        ({"mlp_kernel": 4}, "mlp_kernel must be odd and positive, got 4"),
        ({"mlp_ratio": 0.1}, "stage 0: mlp_ratio 0.1 leaves no hidden channel of dim 8"),
        ({"stages": ()}, "stages must name one stage or more"),
        ({"stages": [replace(STAGES[0], dim=9, heads=3)]}, "must be even, got 9"),
        ({"stages": [STAGES[0], replace(STAGES[1], heads=5)]}, "stage 1: dim 12 does not split over 5 heads"),
        ({"stages": [replace(STAGES[0], local_heads=3)]}, r"stage 0: local_heads must lie in 0\.\.2, got 3"),
        ({"stages": [replace(STAGES[0], kernel=4)]}, "stage 0: kernel must be odd and positive, got 4"),
        ({"stages": [replace(STAGES[0], depth=0)]}, r"stage 0: .* 1 or more, got Stage\(.*depth=0"),
        ({"stages": [replace(STAGES[0], kv_pool=0)]}, r"stage 0: .* 1 or more, got Stage\(.*kv_pool=0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(CloFormer, "model")
    config = parser.parse_string(
        "model: {image_size: [32, 48], branches: global, mlp_ratio: 2, stages:"
        " [{dim: 8, depth: 1, heads: 2, local_heads: 1, kernel: 3, kv_pool: 8},"
        " {dim: 16, depth: 1, heads: 4, local_heads: 2, kernel: 5, kv_pool: 4}]}"
    )
    model = parser.instantiate(config).model
    assert model.input_shape == (3, 32, 48)
    assert model.num_features == 16
    assert model(images(32, 48)).shape == (2, 1000)


@quick_form
@pytest.mark.parametrize("bf16", [False, True])
def test_convolutions_read_channels_that_are_last(bf16: bool) -> None:
    """Attention by another kernel of the device must not turn the layout."""
    model = tiny()
    copied = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name != "patch_embed.conv1.conv.0":
            module.register_forward_pre_hook(
                lambda _, args, name=name: (
                    None if args[0].is_contiguous(memory_format=torch.channels_last) else copied.append(name)
                )
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(images())
    assert copied == []
