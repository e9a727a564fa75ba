"""Every key of recipes is given values that are wrong: whatever is refused is refused in one line that helps."""

import contextlib
import re

import pytest
import torch
from config_builds import ROOT, Built, one_parser

from mvrec.cli.config_check import entries
from mvrec.cli.lightning import MvrecCLI
from mvrec.cli.main import main

OWN = ("--data=VideoFolder", "--data.root=x", "--model.backbone=mvit_b_16x4")
RECIPES = {"mvit_b_16x4": (), "cloformer_s": (), "finetune": OWN, "mvit_v2_s_16x4_ssv2": (), "demo": ()}
WRONG = {"type": "abc", "negative": "-1", "zero": "0", "huge": "1000000000000", "null": "null", "path": "/etc/hosts"}
# Of what jsonargparse and Python say where they are at a loss.
WALLS = re.compile(r"Union|Namespace\(|Subtypes|Traceback|functools|Parser key|<class|Unable to load")
# Text, which may be any, or null where that is a value.
ANY_TEXT = {"data.root", "model.weights"}


def keys_of(recipe: str) -> list[str]:
    """The dotted keys of a recipe, without those of tables of blocks."""
    named = [entry.key for entry in entries([f"--config={ROOT / f'configs/{recipe}.yaml'}"])]
    return [key for key in dict.fromkeys(named) if not re.search(r"(mults|strides)\.|\[", key)]


def cases(recipes):
    return [(recipe, key) for recipe in recipes for key in keys_of(recipe)]


@pytest.fixture(scope="module")
def parser_once():
    with one_parser():
        yield


@pytest.fixture
def answer(parser_once, monkeypatch, capfd):
    """What `mvrec fit` answers to flags before anything runs: the error line, "" where it would run."""

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
            return lines[0].removeprefix("mvrec: error: ")
        return ""

    return call


def check_key(answer, tmp_path, recipe: str, key: str) -> None:
    config = (f"--config={ROOT / f'configs/{recipe}.yaml'}", *RECIPES[recipe], f"--run_dir={tmp_path}")
    misspelt = answer(*config, f"--{key[:-2]}{key[-1]}=1")
    assert "unknown key" in misspelt
    assert "did you mean" in misspelt
    for kind, value in WRONG.items():
        line = answer(*config, f"--{key}={value}")
        assert not WALLS.search(line), line
        assert len(line) < 400, line
        if line:
            assert line.startswith(f"--{key}") or "which data?" in line, (kind, line)
        elif kind in ("type", "path"):
            assert key in ANY_TEXT, f"{key}={value} is accepted"
        elif kind == "negative":
            assert key in {*ANY_TEXT, "trainer.max_epochs", "trainer.devices"}, f"{key}={value} is accepted"


QUICK = {
    "model.schedule": "abc",
    "model.mixing.mixup_alpha": "null",
    "model.optimizer": "/etc/hosts",
    "model.optimizer.lr": "abc",
    "model.backbone.image_size": "31",
    "data.num_workers": "-1",
    "trainer.max_epochs": "0",
    "trainer.limit_train_batches": "0",
    "trainer.devices": "abc",
}


@pytest.mark.parametrize("key", QUICK)
def test_a_wrong_value_is_one_line_with_its_flag_or_line(answer, tmp_path, key):
    config = (f"--config={ROOT / 'configs/mvit_b_16x4.yaml'}", f"--run_dir={tmp_path / 'run'}")
    line = answer(*config, f"--{key}={QUICK[key]}")
    assert line.startswith(f"--{key}")
    assert not WALLS.search(line), line
    wrong = tmp_path / "wrong.yaml"
    *parents, name = key.split(".")
    wrong.write_text("".join(f"{'  ' * depth}{parent}:\n" for depth, parent in enumerate(parents)))
    with wrong.open("a") as file:
        file.write(f"{'  ' * len(parents)}{name}: {QUICK[key]}\n")
    line = answer(*config, f"--config={wrong}")
    assert line.startswith(f"{wrong}:{len(parents) + 1}: {key}"), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--model={optimiser: 1}", "--model: unknown key 'model.optimiser'; did you mean 'optimizer'?"),
        ("--model.optimizer.lr={a: 1}", "--model.optimizer.lr must lie in 0..1000000 and not be 0, got {a: 1}"),
        ("--data={class_path: ImageNet, init_args: {sizes: 3}}", "--data: unknown key 'data.sizes'"),
        ("--checkpoint.save_top_k=abc", "--checkpoint.save_top_k: 'abc' is not a whole number"),
        ("--checkpoint.save_last=abc", "--checkpoint.save_last: 'abc' is not true or false"),
        ("--data=os.system", "--data: os.system is not a LightningDataModule"),
        ("--data=mvrec.models", "--data: mvrec.models is not a LightningDataModule"),
    ],
)
def test_a_mapping_or_class_in_a_flag_is_checked_as_one_in_a_file_is(answer, flag, expected):
    assert answer(f"--config={ROOT / 'configs/mvit_b_16x4.yaml'}", flag).startswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "key"), cases(RECIPES))
def test_a_wrong_value_of_a_recipe_is_one_line(answer, tmp_path, recipe, key):
    check_key(answer, tmp_path, recipe, key)
