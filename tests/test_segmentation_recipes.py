"""Every recipe of segmentation against what was published.

The numbers are written down from the configurations of PVT, mmsegmentation and RMT, not taken from ours.
"""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import yaml
from config_builds import ROOT, SEGMENTERS, stopped_at

from mvrec.data.views.protocol import NAMED_MASK_PROTOCOLS

pytestmark = pytest.mark.usefixtures("lean_parser")


class Recipe(NamedTuple):
    """A published run of batches of 16 on 8 GPUs. Rates are those of the backbone."""

    decoder: str
    channels: int
    steps: int
    # Of the first step, step 1,500, half-way, and the last one.
    rates: tuple[float, float, float, float]
    decay: float
    auxiliary: float
    head: float  # its rate over the backbone's
    protocol: str


UPER = (6e-11, 6e-5, 6e-5 * 80_000 / 158_500, 6e-5 / 158_500)
FPN = (1e-4, 1e-4 * (1 - 1500 / 80_000) ** 0.9, 1e-4 * 0.5**0.9, 1e-4 * (1 / 80_000) ** 0.9)
TABLE = {
    "ade20k_semantic_fpn": Recipe("semantic_fpn", 128, 80_000, FPN, 1e-4, 0, 1, "pvt-align32"),
    "ade20k_upernet": Recipe("upernet", 512, 160_000, UPER, 0.01, 0.4, 1, "mmseg-2048x512"),
    "ade20k_segformer": Recipe("segformer", 768, 160_000, UPER, 0.01, 0, 10, "mmseg-2048x512"),
}


def test_every_recipe_has_a_row():
    assert set(TABLE) == {path.stem for path in SEGMENTERS}


@pytest.mark.parametrize("name", TABLE)
def test_recipe_trains_as_published(name, tmp_path, monkeypatch):
    recipe = TABLE[name]
    cli = stopped_at("after_instantiate_classes", f"--config={ROOT / f'configs/{name}.yaml'}", f"--run_dir={tmp_path}")
    model, data = cli.model, cli.datamodule
    assert (cli.trainer.max_steps, data.batch_size, data.size) == (recipe.steps, 2, 512)
    assert (model.head_arguments["decoder"], model.head_arguments["channels"]) == (recipe.decoder, recipe.channels)
    assert model.auxiliary_weight == recipe.auxiliary
    augment = data.mask_augment
    assert (augment.scale, augment.ratio, augment.largest_share) == ((2048, 512), (0.5, 2.0), 0.75)
    assert augment.flip_probability == 0.5
    assert augment.photometric is not None
    assert data.protocol_name == recipe.protocol
    assert NAMED_MASK_PROTOCOLS[recipe.protocol]["scale"] == (2048, 512)
    keys = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    assert keys["trainer"]["sync_batchnorm"] is True
    with torch.device("meta"):
        model.backbone.place_head(torch.nn.Linear(2, 2), 2)
    trainer = SimpleNamespace(
        datamodule=data,
        world_size=8,
        accumulate_grad_batches=1,
        num_training_batches=1263,
        estimated_stepping_batches=recipe.steps,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    monkeypatch.setattr(model, "_trainer", trainer)
    training = model.configure_optimizers()
    assert type(training["optimizer"]) is torch.optim.AdamW
    assert training["lr_scheduler"]["interval"] == "step"
    scheduler = training["lr_scheduler"]["scheduler"]
    factor = scheduler.lr_lambdas[0]
    rates = {group["name"]: group["initial_lr"] for group in training["optimizer"].param_groups}
    assert {group.get("weight_decay") for group in training["optimizer"].param_groups} == {recipe.decay, 0.0}
    head, backbone = max(rates.values()), min(rates.values())
    assert head / backbone == pytest.approx(recipe.head)
    at = [0, 1500, recipe.steps // 2, recipe.steps - 1]
    assert [backbone * factor(step) for step in at] == pytest.approx(recipe.rates, rel=1e-5)
