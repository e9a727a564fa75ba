"""Every shipped configuration, alone and under every overlay, parses and builds what it says.

Networks are built without memory (on torch's "meta" device), so that the largest costs no more than the smallest.
"""

import contextlib
import functools
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging

from mvrec import data as data_room
from mvrec import models
from mvrec.cli import main
from mvrec.lightning_cli import MvrecCLI
from mvrec.models import Backbone

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RECIPES = [path for path in CONFIGS if path.stem != "demo"]
OVERLAYS = sorted((ROOT / "configs/overlays").glob("*.yaml"))


class Built(Exception):  # noqa: N818 - not an error
    """Raised in place of going on."""


@pytest.fixture(scope="module")
def parser_once():
    """Set up the command line's parser once: it is the same for every configuration."""
    setup_parser, ready = MvrecCLI.setup_parser, {}

    def setup_once(self, *args, **kwargs):
        if not ready:
            before = set(vars(self))
            setup_parser(self, *args, **kwargs)
            ready.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(ready)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MvrecCLI, "setup_parser", setup_once)
        yield


def stopped_at(method: str, *arguments: object) -> MvrecCLI:
    """Go through `mvrec fit` up to a method of the command line object, and return that object."""
    found: list[MvrecCLI] = []

    def stop(self: MvrecCLI, *args: object) -> None:
        found.append(self)
        raise Built

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), contextlib.suppress(Built):
        patch.setattr(MvrecCLI, method, stop)
        main(["fit", *map(str, arguments)])
    return found.pop()


@pytest.fixture(scope="module")
def build(parser_once, tmp_path_factory):
    """Data, model and trainer of a config, as `mvrec fit` makes them; of each config once."""
    run_dir = tmp_path_factory.mktemp("run")
    return functools.cache(lambda config: stopped_at("_run_subcommand", f"--config={config}", f"--run_dir={run_dir}"))


def data_class(config: Path) -> type:
    return getattr(data_room, yaml.safe_load(config.read_text())["data"]["class_path"].rpartition(".")[2])


def foreign_keys(config: Path, overlay: Path) -> list[str]:
    """Data keys of an overlay that the config's kind of data does not have: clips and crops for images, say."""
    keys = yaml.safe_load(overlay.read_text()).get("data", {}).get("init_args", {})
    # What a data module does not declare itself it takes for its parents.
    known = {name for kind in data_class(config).__mro__[:-1] for name in inspect.signature(kind).parameters}
    return [key for key in keys if key not in known]


PAIRS = [(config, overlay) for config in CONFIGS for overlay in OVERLAYS]
FITTING = [(config, overlay) for config, overlay in PAIRS if not foreign_keys(config, overlay)]
OTHERS = [(config, overlay) for config, overlay in PAIRS if foreign_keys(config, overlay)]


def pair_name(value):
    return value.stem if isinstance(value, Path) else None


@pytest.mark.parametrize("config", CONFIGS, ids=pair_name)
def test_a_config_builds(build, config):
    cli = build(config)
    # The network is built for what the data give.
    assert cli.model.backbone.input_shape == cli.datamodule.clip_shape
    assert cli.trainer.loggers[0].save_dir == cli.config.fit.run_dir


@pytest.mark.parametrize("name", ["demo", "cloformer_xxs"])
def test_the_network_of_a_config_takes_what_the_data_give(build, name):
    cli = build(ROOT / f"configs/{name}.yaml")
    logits = cli.model.backbone.eval()(torch.empty(2, *cli.datamodule.clip_shape, device="meta"))
    assert logits.shape == (2, cli.model.backbone.num_classes)


@pytest.mark.parametrize(("config", "overlay"), FITTING, ids=pair_name)
def test_an_overlay_changes_what_it_names_and_nothing_else(build, config, overlay):
    alone = build(config).config.fit
    files = [f"--config={config}", f"--config={overlay}"]
    together = stopped_at("instantiate_classes", *files, f"--run_dir={alone.run_dir}").config.fit
    before, after = (vars(settings.clone().as_flat()) for settings in (alone, together))
    named = flatten(yaml.safe_load(overlay.read_text()))
    assert {key: after[key] for key in named} == named
    changed = {key for key in after if after[key] != before[key]} - {"config"}
    assert changed <= named.keys()


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


@pytest.mark.parametrize(("config", "overlay"), OTHERS, ids=pair_name)
def test_an_overlay_for_another_kind_of_data_is_refused_in_one_line(command, parser_once, config, overlay, tmp_path):
    code, _, err = command("fit", f"--config={config}", f"--config={overlay}", f"--run_dir={tmp_path}")
    assert code == 2
    (key,) = foreign_keys(config, overlay)
    assert re.fullmatch(rf"mvrec: error: {re.escape(str(overlay))}:\d+: unknown key 'data.{key}'.*\n", err)


def test_only_views_of_clips_are_for_one_kind_of_data_only():
    assert {overlay.stem for _, overlay in OTHERS} == {"views_10x3"}
    assert {data_class(config).__name__ for config, _ in OTHERS} == {"ImageNet"}
    assert len(FITTING) + len(OTHERS) == len(CONFIGS) * len(OVERLAYS)


@pytest.mark.parametrize("config", CONFIGS, ids=pair_name)
def test_a_config_is_short_and_says_where_its_numbers_come_from(config):
    lines = config.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("#")
    assert config.stem == "demo" or re.search(r"et al\. \d{4}, arXiv \d{4}\.\d{5}", lines[0])
    assert set(yaml.safe_load(config.read_text())) >= {"model", "data", "trainer"}


def test_every_released_variant_has_its_recipe():
    variants = {
        name
        for name in models.__all__
        if inspect.isfunction(variant := getattr(models, name))
        and isinstance(returned := inspect.get_annotations(variant, eval_str=True).get("return"), type)
        and issubclass(returned, Backbone)
        and next(iter(inspect.signature(variant).parameters)) == "num_classes"
    }
    without = variants - {path.stem for path in RECIPES}
    # The 24-block network that one released file describes under the name of the 16-block one.
    assert without <= {"mvit_b24_32x3"}


class Recipe(NamedTuple):
    """What a published run is known by; see the first lines of each config for its source."""

    epochs: int
    lr: float
    batch: int  # views per step that the rate is meant for
    drop_path: float
    warmup: tuple[float, float, float]  # epochs, first and last rate
    cooldown: int = 0
    cosine_from: str = "warmup"
    clip: float | None = None
    ema: float | None = None
    repeats: int = 1
    rand: tuple[int, float] = (2, 9)  # operations, magnitude
    interpolation: str = "bicubic"
    protocol: str = "test images, short side 256, crop 224, bicubic"
    mean: float = 0.485  # of red
    sync: bool = False


def shunted(drop_path, clip=None):
    return Recipe(300, 1e-3, 1024, drop_path, (5, 1e-6, 1e-5), cosine_from="start", clip=clip, repeats=3)


def sgformer(drop_path):
    return Recipe(
        *(310, 1e-3, 1024, drop_path, (20, 1e-6, 1e-5), 10, "start"),
        ema=0.99992,
        interpolation="random",
        protocol="test images, short side 248, crop 224, bicubic",
    )


def cloformer(drop_path):
    return Recipe(300, 5e-4, 512, drop_path, (20, 5e-7, 5e-6), cosine_from="start", clip=5.0, sync=True)


def mvit_image(drop_path):
    return Recipe(300, 2.5e-4, 256, drop_path, (70, 1e-8, 1e-6), clip=1.0, rand=(6, 9))


def mvit_video(drop_path, clip, views="5 clips x 1 crops, short side 256, crop 224", mean=0.45):
    protocol = f"{clip} at 30 fps, {views}, bilinear, mean of softmax"
    return Recipe(
        *(200, 1.6e-3, 512, drop_path, (30, 1.6e-5, 1.6e-5)),
        clip=1.0,
        repeats=2,
        rand=(4, 7),
        interpolation="bilinear",
        protocol=protocol,
        mean=mean,
    )


TABLE = {
    "shunted_t": shunted(0.1),
    "shunted_s": shunted(0.2),
    "shunted_b": shunted(0.3, clip=1.0),
    "sgformer_s": sgformer(0.1),
    "sgformer_m": sgformer(0.2),
    "sgformer_b": sgformer(0.4),
    "cloformer_xxs": cloformer(0.0),
    "cloformer_xs": cloformer(0.06),
    "cloformer_s": cloformer(0.06),
    "mvit_b_image": mvit_image(0.1),
    "mvit_v2_t": mvit_image(0.1),
    "mvit_v2_s": mvit_image(0.1),
    "mvit_v2_b": mvit_image(0.3),
    "mvit_v2_l": mvit_image(0.5),
    "mvit_b_16x4": mvit_video(0.2, "16x4"),
    "mvit_b_32x3": mvit_video(0.3, "32x3"),
    "mvit_v2_s_16x4": mvit_video(0.2, "16x4"),
    "mvit_v2_b_32x3": mvit_video(0.3, "32x3"),
    "mvit_v2_l_40x3": mvit_video(0.75, "40x3", "5 clips x 3 crops, short side 312, crop 312", mean=0.485),
}


def test_the_table_has_all_recipes():
    assert set(TABLE) == {path.stem for path in RECIPES}


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_the_published_one(build, name, tmp_path):
    recipe, root = TABLE[name], tmp_path / "data"
    (root / "test").mkdir(parents=True)  # so that the protocol of images speaks of test
    cli = build(ROOT / f"configs/{name}.yaml")
    data, model, trainer = cli.datamodule, cli.model, cli.trainer
    data.root = root
    assert_optimisation(model, trainer, recipe)
    assert_augmentation(data, recipe)
    assert (trainer.max_epochs, trainer.gradient_clip_val) == (recipe.epochs, recipe.clip)
    assert trainer.precision == "bf16-mixed"
    averages = [callback for callback in trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    kept = [float(average._kwargs["avg_fn"](one, zero, 1)) for average in averages]
    assert kept == ([] if recipe.ema is None else [pytest.approx(recipe.ema, abs=1e-9)])
    assert yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())["trainer"].get("sync_batchnorm", False) == (
        recipe.sync
    )
    drop_paths = [m.p for m in model.backbone.modules() if type(m).__name__ == "StochasticDepth"]
    assert max(drop_paths, default=0.0) == pytest.approx(recipe.drop_path)
    assert type(model.backbone).__name__.lower() == name.split("_")[0]


def assert_optimisation(model, trainer, recipe):
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["lr"], model.lr_reference_batch) == (recipe.lr, recipe.batch)
    assert (group["weight_decay"], tuple(group["betas"]), group["eps"]) == (0.05, (0.9, 0.999), 1e-8)
    schedule, (warmup, first, last) = model.schedule, recipe.warmup
    assert (schedule.warmup_epochs, schedule.cooldown_epochs) == (warmup, recipe.cooldown)
    assert schedule.cosine_from == recipe.cosine_from
    steps = {"total_steps": 10 * recipe.epochs, "steps_per_epoch": 10}
    rates = [recipe.lr * schedule.factor(step, **steps) for step in (0, 10 * (recipe.epochs - recipe.cooldown))]
    assert rates == pytest.approx([first, last])
    mixing = model.mixing
    assert (mixing.mixup_alpha, mixing.cutmix_alpha, model.label_smoothing) == (0.8, 1.0, 0.1)
    assert (mixing.probability, mixing.switch_probability) == (1.0, 0.5)


def assert_augmentation(data, recipe):
    augment, operations = data.augment, data.augment.rand_augment
    assert (augment.crop_area, augment.flip_probability) == ((0.08, 1.0), 0.5)
    assert augment.crop_aspect == pytest.approx((3 / 4, 4 / 3), abs=1e-4)
    assert (augment.interpolation, data.repeats) == (recipe.interpolation, recipe.repeats)
    assert (operations.num_ops, operations.magnitude, operations.magnitude_std) == (*recipe.rand, 0.5)
    assert augment.random_erasing.probability == 0.25
    assert str(data.test_protocol) == recipe.protocol
    assert data.val_protocol.num_views == 1
    assert data.normalisation == data.test_protocol.normalisation == data.val_protocol.normalisation
    means = {0.45: (0.45,) * 3, 0.485: (0.485, 0.456, 0.406)}[recipe.mean]
    assert (data.normalisation.mean, data.normalisation.std[0]) == (means, {0.45: 0.225, 0.485: 0.229}[recipe.mean])


@pytest.mark.parametrize("name", ["shunted_t", "sgformer_s", "mvit_v2_t"])
def test_an_image_recipe_takes_as_many_steps_as_the_published_run(build, name):
    """Steps per epoch on ImageNet's 1,281,167 images at the published batch; DeiT's sampler (Shunted) counts so too."""
    from mvrec.data.loader import TrainBatches

    data = build(ROOT / f"configs/{name}.yaml").datamodule
    processes = {"shunted_t": 8, "sgformer_s": 8, "mvit_v2_t": 64}[name]
    batches = TrainBatches(
        *(1_281_167,),
        batch_size=data.batch_size,
        seed=0,
        rank=0,
        world_size=processes,
        repeats=data.draws_per_sample,
    )
    assert data.clips_per_step * processes == batches.global_batch_size
    assert len(batches) == {1024: 1251, 2048: 625}[batches.global_batch_size]
