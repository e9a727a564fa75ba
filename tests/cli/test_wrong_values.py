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


DEMO = f"--config={ROOT / 'configs/demo.yaml'}"
# Text of a config file, and what the answer to it holds.
WRONG_CONFIGS = [
    ("modle: 3", "bad.yaml:1: unknown key 'modle'; did you mean 'model'?"),
    ("model:\n  bakbone: 3", "bad.yaml:2: unknown key 'model.bakbone'; did you mean 'backbone'?"),
    ("trainer:\n  max_epoch: 3", "bad.yaml:2: unknown key 'trainer.max_epoch'; did you mean 'max_epochs'?"),
    ("model:\n  schedule: {warmup_epoch: 3}", "unknown key 'model.schedule.warmup_epoch'; did you mean 'warmup"),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.MViT\n    init_args: {dept: 3}",
        "bad.yaml:4: unknown key 'model.backbone.dept'; did you mean 'depth'?",
    ),
    (
        "data:\n  class_path: mvrec.data.Kinetics\n  init_args:\n    root: x\n    clip: {num_frame: 3}",
        "bad.yaml:5: unknown key 'data.clip.num_frame'; did you mean 'num_frames'?",
    ),
    ("data:\n  class_path: mvrec.data.Kinetic", "mvrec.data has no 'Kinetic'; did you mean 'Kinetics'?"),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.mvit_b_16x5",
        "has no 'mvit_b_16x5'; did you mean 'mvit_b_",
    ),
    ("model:\n  backbone: mvit_b_16x5", "bad.yaml:2: the zoo has no 'mvit_b_16x5'; did you mean 'mvit_b_16x4'?"),
    (
        "model:\n  backbone: torchvision/resnet51",
        "bad.yaml:2: torchvision has no network 'torchvision/resnet51'; did you mean 'torchvision/resnet50'?",
    ),
    ("model:\n  backbone: tim/resnet50", "bad.yaml:2: 'tim/resnet50' is not a network: the part before the slash"),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.create_model\n    init_args:\n      name: shunted_x",
        "bad.yaml:5: the zoo has no 'shunted_x'; did you mean 'shunted_",
    ),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.create_model\n"
        "    init_args: {name: torchvision/r3d_18, drop_path_rate: 0.2}",
        "torchvision/r3d_18: it does not support drop_path_rate",
    ),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.Framewise\n"
        "    init_args: {num_frames: 8, backbone: shuntd_t}",
        "bad.yaml:4: the zoo has no 'shuntd_t'; did you mean 'shunted_t'?",
    ),
    (
        "model:\n  backbone:\n    class_path: mvrec.models.Framewise\n    init_args:\n      backbone:\n"
        "        class_path: mvrec.models.shunted_t\n        init_args: {drop_rate: 0.1}",
        "bad.yaml:7: unknown key 'model.backbone.backbone.drop_rate'; did you mean 'drop_path_rate'?",
    ),
    ("trainer:\n  max_epochs: three", "bad.yaml:2: trainer.max_epochs: 'three' is not a whole number or null"),
    ("a: [1\nb: }", "bad.yaml:2: not valid YAML"),
    ("- 1\n- 2", "bad.yaml:1: a config file must be a mapping"),
    ("# nothing\n", "bad.yaml: this config file sets nothing"),
    ("? [1]\n: 2", "bad.yaml:1: not valid YAML: found unhashable key"),
    ("trainer: !!python/name:os.system", "bad.yaml:1: not valid YAML: could not determine a constructor"),
    ("a: " + 1000 * "[", "bad.yaml: not valid YAML: maximum recursion depth exceeded"),
    ("data:\n  size: 3\nmodel: {}\ndata:\n  root: x", "bad.yaml:4: data is set twice (also"),
    ("trainer: [1, 2]", "bad.yaml:1: trainer must be a mapping of keys"),
    ("run_dir: [1, 2]", "bad.yaml:1: run_dir: '[1, 2]' is not str or null"),
    ("model:\n  backbone:\n    class_path: [1]", "bad.yaml:3: model.backbone.class_path must be a name"),
    (
        "model:\n  optimizer:\n    class_path: SGD\n    lr: 1",
        "bad.yaml:4: model.optimizer.lr: put the arguments of a class below init_args",
    ),
    (
        "trainer:\n  callbacks:\n    - EarlyStopping",
        "bad.yaml:3: trainer.callbacks[0]: EarlyStopping needs init_args with monitor",
    ),
    (
        "trainer:\n  callbacks:\n    - class_path: EarlyStoping",
        "bad.yaml:3: trainer.callbacks[0]: 'EarlyStoping' is not a class name such as package.module.Class; did "
        "you mean 'EarlyStopping'?",
    ),
    (
        "trainer:\n  callbacks:\n    - class_path: EarlyStopping\n      init_args: {monitr: val/loss}",
        "bad.yaml:4: unknown key 'trainer.callbacks[0].monitr'; did you mean 'monitor'?",
    ),
]
# One flag, and what the answer to it holds.
WRONG_FLAGS = [
    ("--model.bakbone=3", "unknown key 'model.bakbone'; did you mean 'backbone'?"),
    ("--model.backbone.dept=3", "unknown key 'model.backbone.dept'; did you mean 'depth'?"),
    ("--data.rooot=x", "unknown key 'data.rooot'; did you mean 'root'?"),
    ("--trainer.max_epoch=3", "unknown key 'trainer.max_epoch'; did you mean 'max_epochs'?"),
    ("--model.backbone.depth=x", "--model.backbone.depth: 'x' is not a whole number"),
    (
        "--data.decoder=decort",
        "--data.decoder: 'decort' is not one of 'auto', 'decord', 'pyav', 'torchcodec'; did you mean 'decord'",
    ),
    ("--model.backbone=mvit_b_16x5", "the zoo has no 'mvit_b_16x5'; did you mean 'mvit_b_16x4'?"),
    (
        "--model.backbone=torchvision/r3d_17",
        "--model.backbone: torchvision has no network 'torchvision/r3d_17'; did you mean 'torchvision/r3d_18'?",
    ),
    ("--data.clip.num_frames=0", "--data.clip.num_frames must lie in 1..10000, got 0"),
    ("--data.batch_size=0", "data.batch_size must be at least 1, got 0"),
    ("--model.label_smoothing=1.5", "model.label_smoothing must lie in 0..1, got 1.5"),
    ("--ckpt_path=none.ckpt", "--ckpt_path: checkpoint 'none.ckpt' does not exist"),
    ("--config=none.yaml", "config file 'none.yaml' does not exist"),
    ("--trainer.strategy=foo", "--trainer.strategy: 'foo' is not one of auto, ddp,"),
    ("--trainer.logger=WandbLogger", "lightning.pytorch.loggers.WandbLogger: "),
    ("--config", "--config needs the path of a file"),
]


def test_a_wrong_config_is_one_line_with_file_and_line(answer, tmp_path):
    path = tmp_path / "bad.yaml"
    for text, expected in WRONG_CONFIGS:
        path.write_text(text)
        assert expected in answer(DEMO, f"--config={path}"), text


def test_a_wrong_flag_is_one_line(answer):
    for flag, expected in WRONG_FLAGS:
        assert expected in answer(DEMO, flag), flag


def test_a_wrong_key_of_a_data_set_is_one_line(answer):
    wrong = {
        "splt": "--data.splt: unknown key 'data.splt'; did you mean 'split'?",  # its own
        "batchsize": "--data.batchsize: unknown key 'data.batchsize'; did you mean 'batch_size'?",  # shared
        "clip.num_frame": "unknown key 'data.clip.num_frame'; did you mean 'num_frames'?",
    }
    for name in ("UCF101", "mvrec.data.UCF101"):
        for key, expected in wrong.items():
            assert expected in answer("--data", name, "--data.root=x", f"--data.{key}=2"), (name, key)


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
