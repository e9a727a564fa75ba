"""Every shipped configuration, alone and under every overlay, parses and builds what it says."""

from pathlib import Path

import pytest
import torch
import yaml

from mvrec.lightning_cli import MvrecCLI

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs/overlays").glob("*.yaml"))


class Built(Exception):  # noqa: N818 - not an error
    """Raised in place of running."""


@pytest.fixture
def build(command, monkeypatch):
    """Parse and instantiate as `mvrec fit` does, on one CPU process, and return the command line object."""
    found: list[MvrecCLI] = []

    def stop(self: MvrecCLI, subcommand: str) -> None:
        found.append(self)
        raise Built

    monkeypatch.setattr(MvrecCLI, "_run_subcommand", stop)

    def call(*arguments: object) -> MvrecCLI:
        with pytest.raises(Built):
            command("fit", *arguments)
        return found.pop()

    return call


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "alone")
def test_a_config_builds(build, config, overlay, tmp_path):
    files = [config] if overlay is None else [config, overlay]
    cli = build(*(f"--config={path}" for path in files), f"--run_dir={tmp_path}")
    # The network is built for the clips that the data give.
    assert cli.model.backbone.input_shape == cli.datamodule.clip_shape
    logits = cli.model.backbone.eval()(torch.zeros(1, *cli.datamodule.clip_shape)[..., :64, :64])
    assert logits.shape == (1, cli.model.backbone.num_classes)
    assert Path(cli.trainer.loggers[0].save_dir) == tmp_path


def test_an_overlay_wins_over_the_config(build, tmp_path):
    overlay = ROOT / "configs/overlays/views_10x3.yaml"
    cli = build(f"--config={ROOT / 'configs/mvit_b_16x4.yaml'}", f"--config={overlay}", f"--run_dir={tmp_path}")
    assert str(cli.datamodule.test_protocol).startswith("16x4 at 30 fps, 10 clips x 3 crops, short side 224, crop 224")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_says_where_its_numbers_come_from(config):
    lines = config.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("#")
    assert set(yaml.safe_load(config.read_text())) >= {"model", "data", "trainer"}


def test_the_kinetics_recipe_is_the_published_one(build, tmp_path):
    cli = build(f"--config={ROOT / 'configs/mvit_b_16x4.yaml'}", f"--run_dir={tmp_path}")
    data, model, trainer = cli.datamodule, cli.model, cli.trainer
    augment = data.augment
    assert (augment.crop_area, augment.flip_probability) == ((0.08, 1.0), 0.5)
    assert augment.crop_aspect == pytest.approx((3 / 4, 4 / 3), abs=1e-4)
    operations = augment.rand_augment
    assert (operations.num_ops, operations.magnitude, operations.magnitude_std) == (4, 7, 0.5)
    assert augment.random_erasing.probability == 0.25
    assert data.repeats == 2
    assert (model.mixing.mixup_alpha, model.mixing.cutmix_alpha, model.label_smoothing) == (0.8, 1.0, 0.1)
    assert (model.mixing.probability, model.mixing.switch_probability) == (1.0, 0.5)
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (1.6e-3, 0.05, (0.9, 0.999))
    assert model.lr_reference_batch == 512
    steps = {"total_steps": 2000, "steps_per_epoch": 10}
    # 200 epochs: from 1.6e-5 to the peak at epoch 30, half of it (and of the end's) midway, 1.6e-5 at the end.
    rates = [1.6e-3 * model.schedule.factor(step, **steps) for step in (0, 150, 300, 1150, 2000)]
    assert rates == pytest.approx([1.6e-5, 8.08e-4, 1.6e-3, 8.08e-4, 1.6e-5])
    assert (trainer.max_epochs, trainer.gradient_clip_val, trainer.precision) == (200, 1.0, "bf16-mixed")
    assert str(data.test_protocol).startswith("16x4 at 30 fps, 5 clips x 1 crops, short side 256, crop 224")
    drop_paths = [m.p for m in model.backbone.modules() if type(m).__name__ == "StochasticDepth"]
    assert max(drop_paths) == pytest.approx(0.2)
