"""Every shipped configuration, alone and under every overlay, parses and builds what it says.

Networks are built without memory (on torch's "meta" device), so that the largest costs no more than the smallest.
"""

import functools
import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml
from config_builds import CONFIGS, RECIPES, ROOT, one_parser, stopped_at

from mvrec import models
from mvrec.models import Backbone

OVERLAYS = sorted((ROOT / "configs/overlays").glob("*.yaml"))


@pytest.fixture(scope="module")
def parser_once():
    """One parser for all tests of this file."""
    with one_parser():
        yield


@pytest.fixture(scope="module")
def build(parser_once, tmp_path_factory):
    """Data, model and trainer of a config, as `mvrec fit` makes them; of each config once."""
    run_dir = tmp_path_factory.mktemp("run")
    return functools.cache(lambda config: stopped_at("run_command", f"--config={config}", f"--run_dir={run_dir}"))


PAIRS = [(config, overlay) for config in CONFIGS for overlay in OVERLAYS]


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


@pytest.mark.parametrize(("config", "overlay"), PAIRS, ids=pair_name)
def test_an_overlay_changes_what_it_names_and_nothing_else(build, config, overlay):
    alone = build(config).config.fit
    files = [f"--config={config}", f"--config={overlay}"]
    together = stopped_at("instantiate_classes", *files, f"--run_dir={alone.run_dir}").config.fit
    before, after = (vars(settings.clone().as_flat()) for settings in (alone, together))
    named = flatten(yaml.safe_load(overlay.read_text()))
    assert {key: after[key] for key in named} == named
    changed = {key for key in after if key not in before or after[key] != before[key]} - {"config"}
    # A class that an overlay names comes with its defaults.
    own = tuple(key.replace(".class_path", ".init_args.") for key in named if key.endswith(".class_path"))
    assert {key for key in changed if not key.startswith(own)} <= named.keys()


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=pair_name)
def test_a_config_is_short_and_says_where_its_numbers_come_from(config):
    lines = config.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("#")
    assert config not in RECIPES or re.search(r"et al\. \d{4}, arXiv \d{4}\.\d{5}", lines[0])
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
    assert variants <= {path.stem for path in RECIPES}
