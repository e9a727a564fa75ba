"""Arguments and inputs that networks refuse, in one line."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from zoo_builds import BUILDS, CLOFORMER_STAGES, VIDEOS

from mvrec.models import sgformer, shunted

FIRST, SECOND = CLOFORMER_STAGES[:2]
RATE = r"drop_path_rate must lie in \[0, 1\), got"
ALL: list[tuple[dict[str, Any], str]] = [
    ({"image_size": 0}, "got .*0, 0"),
    ({"image_size": (64, 14)}, "got .*64, 14"),
    ({"in_channels": 0}, "in_channels must be 1 or more, got 0"),
    ({"num_classes": -1}, "num_classes must be 0 or more, got -1"),
    ({"drop_path_rate": 1.0}, f"{RATE} 1.0"),
    ({"drop_path_rate": -0.1}, f"{RATE} -0.1"),
]
OWN: dict[str, list[tuple[dict[str, Any], str]]] = {
    "shunted": [
        ({"num_stem_convs": -1}, "num_stem_convs must be 0 or more, got -1"),
        ({"stages": ()}, r"stages must hold one row or more, got \(\)"),
    ],
    "sgformer": [
        ({"image_size": 16}, r"H, W of 17 or more, got shape \('B', 3, 16, 16\)"),
        ({"stages": (sgformer.Stage(6, 1, 2, 1, 1),)}, "the first width must be a multiple of 4, .* got 6"),
    ],
    "cloformer": [
        ({"branches": "no_global"}, "branches must be one of .*'local'.* got 'no_global'"),
        ({"mlp_kernel": 4}, "mlp_kernel must be odd and positive, got 4"),
        ({"mlp_ratio": 0.1}, "stage 0: mlp_ratio 0.1 leaves no hidden channel of dim 8"),
        ({"stages": ()}, "stages must name one stage or more"),
        ({"stages": [replace(FIRST, dim=9, heads=3)]}, "must be even, got 9"),
        ({"stages": [FIRST, replace(SECOND, heads=5)]}, "stage 1: dim 12 does not split over 5 heads"),
        ({"stages": [replace(FIRST, local_heads=3)]}, r"stage 0: local_heads must lie in 0\.\.2, got 3"),
        ({"stages": [replace(FIRST, kernel=4)]}, "stage 0: kernel must be odd and positive, got 4"),
        ({"stages": [replace(FIRST, depth=0)]}, r"stage 0: .* 1 or more, got Stage\(.*depth=0"),
    ],
    "mvit_v1_video": [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"head_dropout": -0.1}, r"head_dropout must lie in \[0, 1\), got -0.1"),
        ({"pooling": "mean"}, "pooling must be one of .*'avg'.* got 'mean'"),
        ({"pos_embed": "sincos"}, "pos_embed must be one of .* got 'sincos'"),
        ({"dim_change": "both"}, "dim_change must be one of .* got 'both'"),
        ({"depth": 0}, "depth must be 1 or more, got 0"),
        ({"kv_stride": 0}, "kv_stride must be 1 or more, got 0"),
        ({"depth": 3}, r"dim_mults names \[3\]; with depth=3 its blocks are 1\.\.2"),
        ({"head_mults": {16: 2}}, r"head_mults names \[16\]"),
        ({"q_strides": {-1: 2}}, r"q_strides names \[-1\]"),
        ({"unpooled_kv_blocks": (16,)}, r"unpooled_kv_blocks names \[16\]"),
        ({"q_strides": {1: 3}}, r"q_strides must be 1 or even, got \{1: 3\}"),
        ({"pool_kernel": (3, 2, 3)}, r"pool_kernel must be three odd sizes .* got \(3, 2, 3\)"),
        ({"dim_mults": {1: 1.01}}, r"width after block 0 would be 16 \* 1.01"),
        ({"num_heads": 5}, "width 16 does not split over 5 heads"),
    ],
    "mvit_v1_image": [
        ({"pool_kernel": (3, 3, 3)}, r"pool_kernel must start with 1, got \(3, 3, 3\)"),
        ({"window": -4}, "window must be 0 or more, got -4"),
        ({"window": 6}, "window=6: its 6 tokens in block 0 are not a multiple of the strides 1 and 4"),
        ({"window": 8}, "window needs cls_token=False"),
    ],
}


@pytest.mark.parametrize("name", BUILDS)
def test_wrong_argument_is_named(name: str) -> None:
    for changes, message in ALL + OWN.get(name, []):
        with pytest.raises(ValueError, match=message):
            BUILDS[name](**changes)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (shunted.Stage, {"depth": 0}, "must be positive, got .*depth=0"),
        (shunted.Stage, {"heads": 5}, "width 48 does not split over 5 heads"),
        (shunted.Stage, {"heads": 3}, "heads must be even, got .*heads=3"),
        (shunted.Stage, {"sr_ratio": 3}, "sr_ratio must be 1 or even, got .*sr_ratio=3"),
        (shunted.Stage, {"sr_ratio": 0}, "sr_ratio must be 1 or even, got .*sr_ratio=0"),
        (sgformer.Stage, {"sr_ratio": 0}, "sr_ratio must be 1 or more, got .*sr_ratio=0"),
        (sgformer.Stage, {"chunks": (4,)}, r"chunks must be two or three positive sizes, got .*chunks=\(4,\)"),
        (sgformer.Stage, {"chunks": (4, 0)}, r"chunks must be two or three positive sizes, got .*chunks=\(4, 0\)"),
        (sgformer.Stage, {"sr_ratio": 1, "chunks": (2, 1)}, r"plain attention \(sr_ratio 1\) merges no chunks"),
    ],
)
def test_wrong_number_of_a_stage_is_named(stage: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**({"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2} | changes))


@pytest.mark.parametrize("name", BUILDS)
def test_input_of_a_wrong_size_or_kind_is_one_line(name: str) -> None:
    build, least = BUILDS[name], BUILDS[name].min_size
    model = build().eval()
    smallest = {"C": 3} | ({"T": 1} if name in VIDEOS else {}) | {"H": least, "W": least}
    assert model(torch.zeros(2, *smallest.values())).isfinite().all()
    frames = ", T of 1 or more" if name in VIDEOS else ""
    expected = f"expected (B, {', '.join(smallest)}) with C=3{frames} and H, W of {least} or more, got shape"
    other_kind = (3, 64, 64) if build.is_video else (3, 4, 64, 64)
    for shape in (other_kind, *(tuple((smallest | {axis: smallest[axis] - 1}).values()) for axis in smallest)):
        with pytest.raises(ValueError, match="expected") as error:
            model(torch.zeros(2, *shape))
        assert str(error.value) == f"{expected} {('B', *shape)}"
