from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_support import run_with_features
from torch import Tensor
from zoo_builds import BUILDS, inputs, lively
from zoo_builds import CLOFORMER_STAGES as STAGES

from mvrec.models.cloformer import Attention, CloFormer, Stage


def tiny(**changes: Any) -> CloFormer:
    model = lively(BUILDS["cloformer"](**changes))
    assert isinstance(model, CloFormer)
    return model


def images(height: int = 64, width: int = 64, *, size: int = 2) -> Tensor:
    return inputs(tiny(), size, H=height, W=width)


@pytest.mark.parametrize("local_heads", [0, 1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 15)])
def test_attention_equals_its_definition_written_out(local_heads: int, height: int, width: int) -> None:
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


@pytest.mark.parametrize("branches", ["both", "global", "local"])
def test_ablation_has_the_weights_of_its_branch_and_gives_it_all_heads(branches: str) -> None:
    model = tiny(branches=branches).eval()
    keys, attn = set(model.state_dict()), "layers.0.blocks.1.attn."
    assert (attn + "global_q.weight" in keys) == (attn + "global_kv.bias" in keys) == (branches != "local")
    local = ("convs.0.weight", "qkvs.0.bias", "act_blocks.0.act_block.0.weight", "act_blocks.0.act_block.2.bias")
    assert [attn + key in keys for key in local] == [branches != "global"] * 4
    assert attn + "proj.weight" in keys
    if branches != "both":
        rows = [replace(s, local_heads=0 if branches == "global" else s.heads) for s in STAGES]
        torch.testing.assert_close(model(images()), tiny(stages=rows).eval()(images()), rtol=0, atol=0)


def test_feature_maps_are_the_outputs_of_the_last_blocks() -> None:
    model = tiny().eval()
    x = images(64, 96)
    blocks = [f"layers.{i}.blocks.{s.depth - 1}" for i, s in enumerate(STAGES)]
    _, features = run_with_features(model, x, [*blocks, "norm"])
    maps = model.feature_maps(x)
    for i, block in enumerate(blocks[:-1]):
        torch.testing.assert_close(maps[i], features[block][0])
    torch.testing.assert_close(maps[-1], features["norm"])
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))


def test_layer_groups_go_from_the_stem_to_the_head() -> None:
    groups = tiny().layer_groups()
    assert all(name.startswith("patch_embed.") for name in groups[0])
    assert all(name.startswith("layers.0.blocks.1.") for name in groups[2])
    assert "layers.0.blocks.1.downsample.0.weight" in groups[2]
    assert groups[-1] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


def test_one_stage_or_one_block_is_a_network() -> None:
    assert tiny(stages=STAGES[:1], drop_path_rate=0.6).layers[0]["blocks"][1].drop_path.p == 0.6
    assert tiny(stages=[replace(STAGES[0], depth=1)], drop_path_rate=0.6).num_features == 8


def test_dropped_path_leaves_the_shortcut_alone() -> None:
    block = tiny(drop_path_rate=0.1).layers[0]["blocks"][1]
    block.drop_path.p = 1.0
    x = torch.randn(3, 8, 16, 16)
    attended, residual = block(x)
    assert attended.equal(x)
    assert not residual.any()
    assert block.shortcut(attended).any(dim=1).all()


def test_least_image_has_one_cell_of_every_grid() -> None:
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
def test_wrong_argument_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
