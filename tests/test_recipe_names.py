"""Recipes by name: `--config mvit_b_16x4` and `mvrec recipes`."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from mvrec.cli.config_check import entries, expand_configs
from mvrec.cli.request import default_run_dir
from mvrec.errors import UserError
from mvrec.recipes import find_config, recipes, summary

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_name_gives_the_recipe_of_that_name_and_a_file_wins():
    for name in ("mvit_b_16x4", "mvit_b_16x4.yaml", "overlays/debug"):
        assert find_config(name) == str(CONFIGS / f"{name.removesuffix('.yaml')}.yaml")
    Path("demo").mkdir()
    assert find_config("demo") == str(CONFIGS / "demo.yaml")  # no file, but a folder
    Path("demo.yaml").touch()
    assert find_config("demo") == find_config("demo.yaml") == "demo.yaml"


def test_a_wrong_name_gives_the_nearest_recipe_or_file():
    Path("mine.yaml").touch()
    for name, nearest in (
        ("mvit_b_16x3", "mvit_b_16x4"),
        ("configs/mvit_b_16x3.yaml", "mvit_b_16x4"),
        ("mime.yaml", "mine.yaml"),
    ):
        with pytest.raises(UserError) as raised:
            find_config(name)
        message = f"config file '{name}' does not exist; did you mean '{nearest}'? (`mvrec recipes` lists the recipes)"
        assert str(raised.value) == message


def test_flags_and_messages_name_recipes_and_their_place():
    arguments = ["--config", "demo", "--data.batch_size=2", "--config=overlays/cpu", "-c", "demo", "--print_config"]
    demo, cpu = str(CONFIGS / "demo.yaml"), str(CONFIGS / "overlays/cpu.yaml")
    assert list(expand_configs(arguments)) == [
        *("--config", demo, "--data.batch_size=2", f"--config={cpu}", "-c", demo, "--print_config")
    ]
    assert str(default_run_dir(Namespace(config=[demo]))) == "runs/demo"
    assert entries(["--config", "overlays/cpu"])[0].where == f"{cpu}:3"


def test_the_list_has_one_line_for_every_recipe(command):
    code, out, _ = command("recipes")
    assert code == 0
    rows = dict(line.split(None, 1) for line in out.splitlines() if line.startswith("  "))
    assert rows.keys() == {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert rows["mvit_b_16x4"] == "MViT-B 16x4 from scratch on Kinetics-400"
    for path in recipes().values():
        assert path.read_text().startswith("# ")
        assert 20 < len(summary(path)) < 120, path


def test_a_recipe_is_printed_as_it_is(command):
    code, out, _ = command("recipes", "show", "overlays/cpu")
    assert (code, out) == (0, (CONFIGS / "overlays/cpu.yaml").read_text())
    assert yaml.safe_load(out)["trainer"]["accelerator"] == "cpu"


def test_wrong_arguments_are_one_line(command):
    for arguments, error in (
        ("show mvit_b_16x3", "unknown recipe 'mvit_b_16x3'; did you mean 'mvit_b_16x4'? (mvrec recipes lists them)"),
        ("show", "mvrec recipes show takes one name (mvrec recipes lists them)"),
        ("shw", "unknown argument 'shw'; did you mean 'show'? (mvrec recipes --help tells more)"),
        ("demo", "unknown argument 'demo'; did you mean 'show demo'? (mvrec recipes --help tells more)"),
    ):
        assert command("recipes", *arguments.split()) == (2, "", f"mvrec: error: {error}\n")


def test_a_reader_that_leaves_ends_a_command_without_a_traceback():
    command = [sys.executable, "-m", "mvrec", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)
