from dataclasses import replace

import pytest
import torch
from zoo_builds import CLOFORMER_STAGES as STAGES
from zoo_builds import inputs, small

from mvrec.models.cloformer import Attention, Stage


@pytest.mark.parametrize("local_heads", [0, 1, 4])
def test_attention_equals_its_definition_written_out(local_heads: int) -> None:
    height, width = 9, 15
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


def test_ablation_gives_all_heads_to_its_branch() -> None:
    for branches in ("global", "local"):
        model = small("cloformer", branches=branches)
        rows = [replace(s, local_heads=0 if branches == "global" else s.heads) for s in STAGES]
        x = inputs(model)
        torch.testing.assert_close(model(x), small("cloformer", stages=rows)(x), rtol=0, atol=0)


def test_one_stage_or_one_block_is_a_network() -> None:
    assert small("cloformer", stages=STAGES[:1], drop_path_rate=0.6).layers[0]["blocks"][1].drop_path.p == 0.6
    assert small("cloformer", stages=[replace(STAGES[0], depth=1)], drop_path_rate=0.6).num_features == 8


def test_least_image_has_one_cell_of_every_grid() -> None:
    deeper = (*STAGES[:3], replace(STAGES[3], kv_pool=2))
    model = small("cloformer", stages=deeper)
    assert model(inputs(model)).isfinite().all()
    with pytest.raises(ValueError, match="H, W of 64 or more"):
        small("cloformer", stages=deeper, image_size=63)
    model = small("cloformer", stages=deeper, branches="local")
    assert model(inputs(model, H=32, W=32)).isfinite().all()
