"""Every recipe of detection against what was published.

The numbers are written down from the configurations of PVT, Swin, RMT and detectron2, not taken from ours.
"""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from config_builds import DETECTORS, ROOT, stopped_at

from mvrec.tasks.detection.head import make_head

pytestmark = pytest.mark.usefixtures("lean_parser")
ONE, THREE = ((800,), None), (tuple(range(480, 801, 32)), (0.5, (400, 500, 600), 1333, (384, 600)))


class Recipe(NamedTuple):
    """A published run. Rates are those of the first step, the end of the warm-up, and after each milestone."""

    detector: str
    style: str
    batch: int
    gpus: int
    steps: int
    warmup: int
    milestones: tuple[int, int]
    rate: float
    decay: float
    sizes: tuple[tuple[int, ...], tuple | None]
    windows: int  # of the first blocks


MMDETECTION = {"style": "mmdetection", "batch": 16, "gpus": 8, "warmup": 500, "rate": 1e-4, "windows": 0}
TWELVE = MMDETECTION | {"steps": 87_960, "milestones": (58_640, 80_630), "decay": 1e-4, "sizes": ONE}
THIRTY_SIX = MMDETECTION | {"steps": 263_880, "milestones": (197_910, 241_890), "decay": 0.05, "sizes": THREE}
MVIT = {
    **{"style": "detectron2", "batch": 64, "gpus": 64, "steps": 67_500, "warmup": 250, "milestones": (52_500, 62_500)},
    **{"rate": 1.6e-4, "decay": 0.1, "sizes": THREE, "windows": 56},
}
TABLE = {
    "coco_mask_rcnn_1x": Recipe("mask_rcnn", **TWELVE),
    "coco_mask_rcnn_3x": Recipe("mask_rcnn", **THIRTY_SIX),
    "coco_retinanet_1x": Recipe("retinanet", **TWELVE),
    "coco_cascade_mask_rcnn_3x": Recipe("cascade_mask_rcnn", **THIRTY_SIX),
    "coco_mvit_mask_rcnn_3x": Recipe("mask_rcnn", **MVIT),
    "coco_mvit_cascade_3x": Recipe("cascade_mask_rcnn", **MVIT),
}
# detectron2's cascade_mask_rcnn_mvitv2_t_3x.py
CASCADE = {"rpn_convs": 2, "box_convs": 4, "head_norm": True}


def test_every_recipe_has_a_row():
    assert set(TABLE) == {path.stem for path in DETECTORS}


def test_one_flag_names_another_size_which_keeps_its_windows(tmp_path):
    config = ROOT / "configs/coco_mvit_cascade_3x.yaml"
    flags = (f"--config={config}", f"--run_dir={tmp_path}", "--model.backbone=mvit_v2_s")
    network = stopped_at("after_instantiate_classes", *flags).model.backbone
    assert (len(network.blocks), network.blocks[0].attn.q_window, network.map_norm) == (16, 56, "none")
    assert network.blocks[-1].drop_path.p == pytest.approx(0.2)


@pytest.mark.parametrize("name", TABLE)
def test_recipe_trains_as_published(name, tmp_path, monkeypatch):
    recipe = TABLE[name]
    cli = stopped_at("after_instantiate_classes", f"--config={ROOT / f'configs/{name}.yaml'}", f"--run_dir={tmp_path}")
    model, data = cli.model, cli.datamodule
    assert (cli.trainer.max_steps, data.batch_size * recipe.gpus) == (recipe.steps, recipe.batch)
    arguments = model.head_arguments
    assert (arguments["detector"], arguments["style"]) == (recipe.detector, recipe.style)
    assert not recipe.windows or model.backbone.blocks[0].attn.q_window == recipe.windows
    assert name != "coco_mvit_cascade_3x" or arguments.items() >= CASCADE.items()
    augment = data.object_augment
    crop = augment.crop and tuple(vars(augment.crop).values())
    assert (augment.short_sides, crop) == recipe.sizes
    assert (augment.longest, augment.flip_probability, augment.jitter, augment.photometric) == (1333, 0.5, None, None)
    assert data.protocol_name == f"{recipe.style}-1333x800"
    assert not data.keeps_empty
    with torch.device("meta"):
        model.backbone.place_head(make_head(model.backbone, 80, arguments), 80)
    trainer = SimpleNamespace(
        datamodule=data,
        world_size=recipe.gpus,
        accumulate_grad_batches=1,
        num_training_batches=recipe.steps,
        estimated_stepping_batches=recipe.steps,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    monkeypatch.setattr(model, "_trainer", trainer)
    training = model.configure_optimizers()
    assert type(training["optimizer"]) is torch.optim.AdamW
    assert training["lr_scheduler"]["interval"] == "step"
    assert {group.get("weight_decay") for group in training["optimizer"].param_groups} == {recipe.decay, 0.0}
    scheduler = training["lr_scheduler"]["scheduler"]
    assert scheduler.base_lrs == pytest.approx([recipe.rate] * len(scheduler.base_lrs))
    factors = [1e-3, 1, 1, 0.1, 0.1, 0.01]
    first, second = recipe.milestones
    at = [0, recipe.warmup, first - 1, first, second - 1, second]
    assert [scheduler.lr_lambdas[0](step) for step in at] == pytest.approx(factors)
