"""Arguments that only the whole parser refuses, each in one line that helps; see also `test_check_early.py`."""

import contextlib
import re

import pytest
import torch
from config_builds import ROOT, Built, one_parser

from mvrec.cli.config_check import entries
from mvrec.cli.lightning import MvrecCLI
from mvrec.cli.main import main

OWN = ("--data=VideoFolder", "--data.root=.", "--model.backbone=mvit_b_16x4")
RECIPES = {"mvit_b_16x4": (), "cloformer_s": (), "finetune": OWN, "mvit_v2_s_16x4_ssv2": (), "demo": ()}
WRONG = {"type": "abc", "negative": "-1", "zero": "0", "huge": "1000000000000", "null": "null", "path": "/etc/hosts"}
# Of what jsonargparse and Python say where they are at a loss.
WALLS = re.compile(r"Union|Namespace\(|Subtypes|Traceback|functools|Parser key|<class|Unable to load")
# Text, which may be any, or null where that is a value.
ANY_TEXT = {"data.root", "model.weights"}
DEMO = f"--config={ROOT / 'configs/demo.yaml'}"
# Text of a config file, and what the answer to it has.
WRONG_FILES = [
    (
        "model:\n  backbone: torchvision/resnet51",
        "bad.yaml:2: torchvision has no network 'torchvision/resnet51'; did you",
    ),
    ("model:\n  backbone: tim/resnet50", "bad.yaml:2: 'tim/resnet50' is not a network: the part before the slash"),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.create_model\n"
        "    init_args: {name: torchvision/r3d_18, drop_path_rate: 0.2}",
        "torchvision/r3d_18: it does not support drop_path_rate",
    ),
    ("run_dir: [1, 2]", "bad.yaml:1: run_dir: '[1, 2]' is not str or null"),
    ("trainer:\n  callbacks:\n    - EarlyStopping", "bad.yaml:3: trainer.callbacks[0]: EarlyStopping needs init_args"),
    (
        "trainer:\n  callbacks:\n    - class_path: EarlyStoping",
        "bad.yaml:3: trainer.callbacks[0]: 'EarlyStoping' is not",
    ),
    (
        "trainer:\n  callbacks:\n    - class_path: EarlyStopping\n      init_args: {monitr: val/loss}",
        "bad.yaml:4: unknown key 'trainer.callbacks[0].monitr'; did you mean 'monitor'?",
    ),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.mvit_b_16x4\n    init_args: {image_size: 31}",
        "bad.yaml:4: model.backbone.image_size: image_size",
    ),
]
# A flag and its value, and how the answer to it begins.
WRONG_FLAGS = [
    ("--model.backbone=torchvision/r3d_17", "--model.backbone: torchvision has no network 'torchvision/r3d_17'; did"),
    ("--model.optimizer=/etc/hosts", "--model.optimizer"),
    ("--model.optimizer.lr=abc", "--model.optimizer.lr"),
    ("--trainer.strategy=foo", "--trainer.strategy: 'foo' is not one of auto, ddp,"),
    ("--trainer.logger=CometLogger", "lightning.pytorch.loggers.CometLogger: "),
    ("--trainer.max_epochs=0", "--trainer.max_epochs=0: nothing would be trained"),
    ("--trainer.devices=abc", "--trainer.devices"),
    ("--model=-1", "--model: a task such as Classification or package.module.Class is expected, got '-1'"),
    ("--data=os.system", "--data: os.system is not a LightningDataModule"),
]


@pytest.fixture(scope="module")
def parser_once():
    with one_parser():
        yield


@pytest.fixture
def answer(parser_once, monkeypatch, capfd):
    """Return the error line with which `mvrec fit` answers flags, "" where it would run."""

    def stop(*args: object) -> None:
        raise Built

    def call(*arguments: str) -> str:
        capfd.readouterr()
        monkeypatch.setattr(MvrecCLI, "run_command", stop)
        with torch.device("meta"), contextlib.suppress(Built):
            with pytest.raises(SystemExit) as left:
                main(["fit", *arguments])
            assert left.value.code == 2
            lines = capfd.readouterr().err.splitlines()
            assert len(lines) == 1, lines
            assert not WALLS.search(lines[0]), lines
            return lines[0].removeprefix("mvrec: error: ")
        return ""

    return call


def test_a_wrong_file_is_one_line_with_file_and_line(answer, tmp_path):
    path = tmp_path / "bad.yaml"
    for text, expected in WRONG_FILES:
        path.write_text(text)
        assert expected in answer(DEMO, f"--config={path}"), text


def test_a_wrong_flag_is_one_line_and_nothing_is_written(answer, tmp_path):
    for flag, expected in WRONG_FLAGS:
        line = answer(DEMO, flag, f"--run_dir={tmp_path / 'run'}")
        assert line.startswith(expected), flag
    assert not (tmp_path / "run").exists()


def keys_of(recipe: str) -> list[str]:
    """The dotted keys of a recipe, without those of tables of blocks."""
    keys = [entry.key for entry in entries([f"--config={ROOT / f'configs/{recipe}.yaml'}"])]
    return [key for key in dict.fromkeys(keys) if not re.search(r"(mults|strides)\.|\[", key)]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "key"), [(recipe, key) for recipe in RECIPES for key in keys_of(recipe)])
def test_a_wrong_value_of_a_recipe_is_one_line(answer, tmp_path, recipe, key):
    config = (f"--config={ROOT / f'configs/{recipe}.yaml'}", *RECIPES[recipe], f"--run_dir={tmp_path}")
    misspelt = answer(*config, f"--{key[:-2]}{key[-1]}=1")
    assert "unknown key" in misspelt
    assert "did you mean" in misspelt
    for kind, value in WRONG.items():
        if (key, kind) == ("data", "null"):  # is as if unset
            continue
        line = answer(*config, f"--{key}={value}")
        assert len(line) < 400, line
        if line:
            assert line.startswith(f"--{key}") or "which data?" in line, (kind, line)
        elif kind in ("type", "path"):
            assert key in ANY_TEXT, f"{key}={value} is accepted"
        elif kind == "negative":
            assert key in {*ANY_TEXT, "trainer.max_epochs", "trainer.devices"}, f"{key}={value} is accepted"
