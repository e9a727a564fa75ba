"""Every recipe of action detection against what was published.

The numbers are written down from appendix B.6 and table A.2 of arXiv 2112.01526 and SlowFast, not taken from ours.
"""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from config_builds import ACTIONS, ROOT, stopped_at

from mvrec.tasks.action_detection.head import make_head

pytestmark = pytest.mark.usefixtures("lean_parser")
STEPS = 412  # of 512 of 211,000 key frames
# 0.01 on each of 8 nodes; 0.6 after 5 of 30 epochs; half a cosine later; near 0.
RATES = {0: 0.08, 5 * STEPS: 0.6, 35 * STEPS // 2: 0.3, 30 * STEPS - 1: 0.0}


class Recipe(NamedTuple):
    """A published run on 64 GPUs of 8 clips."""

    frames: int
    stride: int
    size: int
    blocks: int
    mean: float  # of red


TABLE = {
    "ava_mvit_b_16x4": Recipe(16, 4, 224, 16, 0.45),
    "ava_mvit_b_32x3": Recipe(32, 3, 224, 16, 0.45),
    "ava_mvit_b_64x3": Recipe(64, 3, 224, 16, 0.45),
    "ava_mvit_v2_s_16x4": Recipe(16, 4, 224, 16, 0.45),
    "ava_mvit_v2_b_32x3": Recipe(32, 3, 224, 24, 0.45),
    "ava_mvit_v2_l_40x3": Recipe(40, 3, 312, 48, 0.485),
}


def test_every_recipe_has_a_row():
    assert set(TABLE) == {path.stem for path in ACTIONS}


@pytest.mark.parametrize("name", TABLE)
def test_recipe_trains_as_published(name, tmp_path, monkeypatch):
    recipe = TABLE[name]
    cli = stopped_at("after_instantiate_classes", f"--config={ROOT / f'configs/{name}.yaml'}", f"--run_dir={tmp_path}")
    model, data = cli.model, cli.datamodule
    check_clips(recipe, data)
    assert model.backbone.input_shape == data.clip_shape
    assert len(model.backbone.blocks) == recipe.blocks
    assert model.backbone.blocks[-1].drop_path.p == pytest.approx(0.4)
    assert model.backbone.feature_info[-1].stride == 32  # of which others took 16
    assert model.head_arguments == {"pooling": "mean", "context": False, "dropout": 0.5}
    assert model.loss_name == "cross_entropy"
    assert cli.trainer.max_epochs == 30
    with torch.device("meta"):
        model.backbone.place_head(make_head(model.backbone, 60, model.head_arguments), 60)
    trainer = SimpleNamespace(
        datamodule=data,
        world_size=64,
        accumulate_grad_batches=1,
        num_training_batches=STEPS,
        estimated_stepping_batches=30 * STEPS,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    monkeypatch.setattr(model, "_trainer", trainer)
    training = model.configure_optimizers()
    (scheduler, optimizer) = training["lr_scheduler"]["scheduler"], training["optimizer"]
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
        assert group["weight_decay"] in (0.0, 1e-8)
    for step, rate in RATES.items():
        factors = [peak * factor(step) for peak, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        assert factors == pytest.approx([rate] * len(factors), abs=1e-6), step


def check_clips(recipe, data):
    assert (data.clip.num_frames, data.clip.stride_frames, data.clip.target_fps) == (recipe.frames, recipe.stride, 30)
    assert (data.size, data.batch_size) == (recipe.size, 8)
    assert data.augment.crop_side == (224 / 320, 224 / 256)  # 256 to 320 pixels, of which 224 are cut out
    assert (data.augment.flip_probability, data.augment.rand_augment, data.augment.random_erasing) == (0.5, None, None)
    assert data.normalisation.mean[0] == recipe.mean
    protocol = data.test_protocol
    assert (protocol.name, protocol.pixels, protocol.size, protocol.antialias) == ("ava", "centre", recipe.size, False)
    assert data.min_score == 0.8
