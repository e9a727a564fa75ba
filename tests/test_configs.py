"""Every shipped configuration is short, and builds what it says, alone and under every overlay.

Networks are built without memory (on torch's "meta" device); tests/test_recipes.py builds those of published trainings.
"""

import re

import pytest
import torch
import yaml
from config_builds import CONFIGS, PUBLISHED, ROOT, stopped_at

OVERLAYS = sorted((ROOT / "configs/overlays").glob("*.yaml"))
DEMOS = [config.stem for config in CONFIGS if config not in PUBLISHED]
OVERLAID = ("demo", "cloformer_xxs")  # of clips and of images; the others are slow
pytestmark = pytest.mark.usefixtures("lean_parser")


@pytest.mark.parametrize("name", DEMOS)
def test_network_of_a_demo_takes_what_the_data_give(name, tmp_path):
    cli = stopped_at("after_instantiate_classes", f"--config={ROOT / f'configs/{name}.yaml'}", f"--run_dir={tmp_path}")
    assert cli.model.backbone.input_shape == cli.datamodule.clip_shape
    assert cli.trainer.loggers[0].save_dir == cli.config.fit.run_dir
    logits = cli.model.backbone.eval()(torch.empty(2, *cli.datamodule.clip_shape, device="meta"))
    assert logits.shape == (2, cli.model.backbone.num_classes)


@pytest.mark.parametrize(
    "name", [pytest.param(c.stem, marks=() if c.stem in OVERLAID else pytest.mark.slow) for c in CONFIGS]
)
def test_overlay_changes_what_it_names_and_nothing_else(name, tmp_path):
    def parsed(*files):
        flags = [*(f"--config={file}" for file in files), f"--run_dir={tmp_path}"]
        return vars(stopped_at("instantiate_classes", *flags).config.fit.clone().as_flat())

    config = ROOT / f"configs/{name}.yaml"
    before = parsed(config)
    for overlay in OVERLAYS:
        after = parsed(config, overlay)
        settings = flatten(yaml.safe_load(overlay.read_text()))
        assert {key: after[key] for key in settings} == settings, overlay.stem
        changed = {key for key in after if key not in before or after[key] != before[key]} - {"config"}
        # A class that an overlay names comes with its defaults.
        prefixes = tuple(key.replace(".class_path", ".init_args.") for key in settings if key.endswith(".class_path"))
        assert {key for key in changed if not key.startswith(prefixes)} <= settings.keys(), overlay.stem


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def test_config_is_short_and_cites_where_its_numbers_come_from():
    for config in CONFIGS:
        lines = config.read_text().splitlines()
        assert len(lines) <= 60, config
        assert lines[0].startswith("#"), config
        assert config not in PUBLISHED or re.search(r"et al\. \d{4}, arXiv \d{4}\.\d{5}", lines[0]), config
        assert set(yaml.safe_load(config.read_text())) >= {"model", "data", "trainer"}, config
