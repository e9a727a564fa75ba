"""Every recipe against what was published, at the batch it was published for.

The numbers in the table are written down from the papers and the released code, not taken from a configuration. What
they are compared with is what training would use: the optimiser's groups, the scheduler's rate, each block's layer.
"""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import yaml
from config_builds import RECIPES, ROOT, stopped_at
from lightning.pytorch.callbacks import EMAWeightAveraging

from mvrec.data.loading.loader import TrainBatches
from mvrec.models import list_models

IMAGENET_IMAGES = 1_281_167
SGD, ADAMW = {"momentum": 0.9, "nesterov": True, "dampening": 0}, {"betas": (0.9, 0.999), "eps": 1e-8}


FINE_TUNED = {"epochs": 30, "warmup": 0, "decay": 1e-8, "start": True}
VIDEO = {"rand": (4, 7), "interpolation": "bilinear"}
EVERY_PIXEL = "bilinear without antialias, mean of softmax"


def images(side, crop):
    return f"val images, short side {side}, crop {crop}, bicubic"


class Recipe(NamedTuple):
    """A published run. Rates are those of the published batch."""

    gpus: int
    batch: int  # views per step on all of them
    epochs: int
    steps: int  # per epoch
    # Of the first step, the first one after the warm-up, the first one of the second half, and the last one.
    rates: tuple[float, float, float, float]
    warmup: int  # epochs
    blocks: int
    drop_path: float  # of the last block; 0 of the first one and in even steps between
    decay: float = 0.05
    sgd: bool = False
    clip: float | None = None
    mixing: bool = True
    ema: float | None = None
    repeats: int = 1
    rand: tuple[int, float] = (2, 9)  # operations, magnitude
    interpolation: str = "bicubic"
    crop: tuple[float, float] | None = None  # of a square crop; else 8 to 100 % of the area
    flip: float = 0.5
    protocol: str = images(256, 224)
    mean: float = 0.485  # of red
    sync: bool = False
    start: bool = False  # from weights


def shunted(blocks, drop_path, clip=None):
    """5e-4 per 512; the first two epochs share a rate; DeiT's cosine runs below the warm-up."""
    rates = (1e-6, 9.99321620e-4, 5.10183534e-4, 1.01085617e-5)
    return Recipe(8, 1024, 300, 1251, rates, 6, blocks, drop_path, clip=clip, repeats=3)


def sgformer(blocks, drop_path):
    """1e-3 at 1024; 10 epochs at the end rate come on top of 300."""
    rates = (1e-6, 9.89183062e-4, 4.79093702e-4, 1e-5)
    views = {"interpolation": "random", "protocol": images(248, 224)}
    return Recipe(8, 1024, 310, 1251, rates, 20, blocks, drop_path, ema=0.99992, **views)


def cloformer(drop_path):
    """5e-4 per 512; the authors do not say on how many GPUs."""
    rates = (5e-7, 4.94591531e-4, 2.525e-4, 5e-6)
    return Recipe(2, 512, 300, 2502, rates, 20, 12, drop_path, clip=5.0, sync=True)


def mvit_image(blocks, drop_path, decay=0.05):
    """2e-3 at 2048, which is 2.5e-4, 1e-8 and 1e-6 on each of 8 nodes."""
    rates = (8e-8, 2e-3, 1.46222478e-3, 8e-6)
    return Recipe(64, 2048, 300, 625, rates, 70, blocks, drop_path, decay, clip=1.0, rand=(6, 9))


def kinetics(blocks, drop_path, clip, gpus=128, views="5 clips x 1 crops, short side 256, crop 224"):
    """1.6e-3 at 512 clips, two of each of 256 videos; 937 steps are 240,000 videos."""
    rates = (1.6e-5, 1.6e-3, 1.02474109e-3, 1.6e-5)
    views = {"protocol": f"{clip} at 30 fps, {views}, {EVERY_PIXEL}", "mean": 0.45, **VIDEO}
    return Recipe(gpus, 512, 200, 937, rates, 30, blocks, drop_path, clip=1.0, repeats=2, **views)


def ssv2(blocks, frames, rates, crops="short side 224, crop 224", **rest):
    """Per node of 8 GPUs 16 clips (L: 8) at 2.5e-3 (S), 1.5e-3 (B), 1.25e-3 (L); here on 8 nodes."""
    views = {"protocol": f"{frames} segments, 1 clips x 3 crops, {crops}, {EVERY_PIXEL}", "flip": 0.0, "mean": 0.45}
    run = {"batch": 128, "epochs": 100, "steps": 1319, "drop_path": 0.4, "crop": (0.7, 0.875), **VIDEO, **views, **rest}
    return Recipe(gpus=64, rates=rates, warmup=3, blocks=blocks, decay=1e-4, sgd=True, start=True, **run)


TABLE = {
    "shunted_t": shunted(8, 0.1),
    "shunted_s": shunted(19, 0.2),
    "shunted_b": shunted(33, 0.3, clip=1.0),
    "sgformer_s": sgformer(23, 0.1),
    "sgformer_m": sgformer(38, 0.2),
    "sgformer_b": sgformer(36, 0.4),
    # The paper gives the rate without a batch.
    "sgformer_b_384": sgformer(36, 0.4)._replace(
        **FINE_TUNED, gpus=32, rates=(5e-6, 5e-6, 2.525e-6, 6.35583090e-8), protocol=images(426, 384)
    ),
    "cloformer_xxs": cloformer(0.0),
    "cloformer_xs": cloformer(0.06),
    "cloformer_s": cloformer(0.06),
    "mvit_b_image": mvit_image(16, 0.1),
    "mvit_v2_t": mvit_image(10, 0.1),
    "mvit_v2_s": mvit_image(16, 0.1),
    "mvit_v2_b": mvit_image(24, 0.3),
    "mvit_v2_l": mvit_image(48, 0.5, decay=0.1),
    "mvit_b_16x4": kinetics(16, 0.2, "16x4", gpus=32),
    "mvit_b_32x3": kinetics(16, 0.3, "32x3"),
    "mvit_b24_32x3": kinetics(24, 0.3, "32x3"),
    "mvit_v2_s_16x4": kinetics(16, 0.2, "16x4"),
    "mvit_v2_b_32x3": kinetics(24, 0.3, "32x3"),
    # 1.6e-5 at 128 clips, once each; 1875 steps are 240,000 videos.
    "mvit_v2_l_40x3": kinetics(48, 0.75, "40x3", views="5 clips x 3 crops, short side 312, crop 312")._replace(
        **FINE_TUNED,
        batch=128,
        steps=1875,
        rates=(1.6e-5, 1.6e-5, 8.08e-6, 1.6e-7),
        mixing=False,
        repeats=1,
        mean=0.485,
    ),
    "mvit_v2_s_16x4_ssv2": ssv2(16, 16, (8e-4, 0.02, 0.0104894280, 8e-6)),
    "mvit_v2_b_32x3_ssv2": ssv2(24, 32, (8e-4, 0.012, 0.00629517908, 8e-6)),
    "mvit_v2_l_40x3_ssv2": ssv2(
        *(48, 40, (8e-6, 0.01, 0.00563858103, 8e-6), "short side 312, crop 312"),
        **{"batch": 64, "epochs": 40, "steps": 2639, "drop_path": 0.75, "clip": 2.0, "mixing": False},
        **{"crop": (0.699552, 0.876404), "mean": 0.485},
    ),
}


@pytest.fixture(scope="module")
def build(lean_parser, tmp_path_factory):
    """Data, model and trainer of a recipe, as `mvrec fit` makes them."""
    run_dir = tmp_path_factory.mktemp("run")
    (run_dir / "data/val").mkdir(parents=True)  # so that the protocol of images knows its split
    flags = f"--run_dir={run_dir}", f"--data.root={run_dir / 'data'}"
    return lambda name: stopped_at("after_instantiate_classes", f"--config={ROOT / f'configs/{name}.yaml'}", *flags)


def test_every_recipe_and_every_variant_has_a_row():
    assert set(TABLE) == {path.stem for path in RECIPES}
    assert set(list_models()) <= set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_recipe_trains_as_published(name, build, monkeypatch):
    recipe, cli = TABLE[name], build(name)
    check_settings(name, recipe, cli)
    check_views(recipe, cli.datamodule)
    assert cli.trainer.max_epochs == recipe.epochs
    assert cli.datamodule.clips_per_step * recipe.gpus == recipe.batch
    trainer = SimpleNamespace(  # on as many GPUs as the recipe was published for
        datamodule=cli.datamodule,
        world_size=recipe.gpus,
        accumulate_grad_batches=cli.trainer.accumulate_grad_batches,
        num_training_batches=recipe.steps,
        estimated_stepping_batches=recipe.steps * cli.trainer.max_epochs,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    monkeypatch.setattr(cli.model, "_trainer", trainer)
    training = cli.model.configure_optimizers()
    check_optimizer(recipe, cli.model, training["optimizer"])
    assert training["lr_scheduler"]["interval"] == "step"
    scheduler = training["lr_scheduler"]["scheduler"]
    steps = [0, recipe.warmup * recipe.steps, recipe.epochs // 2 * recipe.steps, recipe.epochs * recipe.steps - 1]
    for peak, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        assert [peak * factor(step) for step in steps] == pytest.approx(recipe.rates, rel=1e-5)
    if "images" in recipe.protocol:  # DeiT's sampler (Shunted) counts so too
        size, repeats = cli.datamodule.batch_size, cli.datamodule.draws_per_sample
        ranks = {"rank": 0, "world_size": recipe.gpus}
        batches = TrainBatches(IMAGENET_IMAGES, batch_size=size, seed=0, repeats=repeats, **ranks)
        assert (batches.draws_per_step, len(batches)) == (recipe.batch, recipe.steps)


def check_optimizer(recipe, model, optimizer):
    """Matrices, kernels and position tables decay in all of these trainings; biases, norms and other vectors do not."""
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(decays) == len(named)
    expected = {key: recipe.decay if p.ndim > 1 else 0.0 for key, p in named.items()}
    assert {key: decays[id(p)] for key, p in named.items()} == expected
    assert type(optimizer) is (torch.optim.SGD if recipe.sgd else torch.optim.AdamW)
    for key, value in (SGD if recipe.sgd else ADAMW).items():
        assert type(value)(optimizer.param_groups[0][key]) == value, key
    # In mixed precision, bf16 too, Lightning refuses to clip for a fused optimiser, at the first step.
    assert recipe.clip is None or not optimizer.defaults.get("fused")


def check_settings(name, recipe, cli):
    model, trainer, backbone = cli.model, cli.trainer, cli.model.backbone
    assert type(backbone).__name__.lower() == name.split("_")[0]
    assert backbone.input_shape == cli.datamodule.clip_shape  # the network is built for what the data give
    assert trainer.loggers[0].save_dir == cli.config.fit.run_dir
    rates = [layer.p for layer in backbone.modules() if type(layer).__name__ == "StochasticDepth"]
    assert rates == pytest.approx([recipe.drop_path * block / (recipe.blocks - 1) for block in range(recipe.blocks)])
    assert trainer.gradient_clip_val == recipe.clip
    keys = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    assert keys["trainer"]["precision"] is None
    assert keys["trainer"].get("sync_batchnorm", False) == recipe.sync
    assert ("weights" in keys["model"]) == recipe.start
    averages = [callback for callback in trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
    average, weight = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    averages_of_one = [float(callback._kwargs["avg_fn"](average, weight, 1)) for callback in averages]
    assert averages_of_one == ([] if recipe.ema is None else [pytest.approx(recipe.ema, abs=1e-9)])
    assert model.label_smoothing == 0.1
    assert (model.mixing is not None) is recipe.mixing
    if recipe.mixing:
        assert (model.mixing.mixup_alpha, model.mixing.cutmix_alpha) == (0.8, 1.0)
        assert (model.mixing.probability, model.mixing.switch_probability) == (1.0, 0.5)


def check_views(recipe, data):
    augment, operations = data.augment, data.augment.rand_augment
    if recipe.crop is None:
        assert (augment.crop_area, augment.crop_side) == ((0.08, 1.0), None)
        assert augment.crop_aspect == pytest.approx((3 / 4, 4 / 3), abs=1e-4)
    else:
        assert augment.crop_side == pytest.approx(recipe.crop, abs=1e-5)
    assert augment.flip_probability == recipe.flip
    assert (augment.interpolation, data.repeats) == (recipe.interpolation, recipe.repeats)
    assert (operations.num_ops, operations.magnitude, operations.magnitude_std) == (*recipe.rand, 0.5)
    assert augment.random_erasing.probability == 0.25
    assert str(data.test_protocol) == recipe.protocol
    assert data.val_protocol.num_views == 1
    assert data.normalisation == data.test_protocol.normalisation == data.val_protocol.normalisation
    means = {0.45: (0.45,) * 3, 0.485: (0.485, 0.456, 0.406)}[recipe.mean]
    assert (data.normalisation.mean, data.normalisation.std[0]) == (means, {0.45: 0.225, 0.485: 0.229}[recipe.mean])
