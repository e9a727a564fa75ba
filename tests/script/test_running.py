"""Training from a script is the command line's training, and leaves the caller's process as it was."""

import logging
import os
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import mvrec
from mvrec.errors import UserError
from mvrec.script.running import _arguments

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
NETWORK = {"num_frames": 4, "embed_dim": 8, "depth": 2, "dim_mults": {}, "head_mults": {}, "q_strides": {1: 2}}


def state_of_the_process():
    loggers = [logging.getLogger(name) for name in ("mvrec", "lightning.pytorch", "lightning.fabric")]
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)],
        "logging": [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers],
        "warnings": warnings.filters[:],
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
    }


def test_a_script_trains_tests_and_uses_a_network(digits, no_pictures, tmp_path):
    settings = {
        "model": {"backbone": NETWORK},
        "data": {"root": digits, "clips_per_class": 3, "eval_clips_per_class": 2, "batch_size": 9, "num_workers": 0},
        "data.clip.num_frames": 4,
        "trainer": {"max_epochs": 1, "enable_progress_bar": False},
        "run_dir": tmp_path / "my run",
    }
    before = state_of_the_process()
    run = mvrec.fit(DEMO, settings, {"trainer.log_every_n_steps": 1})
    assert state_of_the_process() == before
    assert run.folder == tmp_path / "my run"
    assert {"val/top1", "val/loss"} <= run.scores.keys()
    tested = mvrec.test(run, {"trainer": {"enable_progress_bar": False}})
    assert state_of_the_process() == before
    assert tested.folder == run.folder
    assert 0 <= tested.scores["test/top1"] <= 1
    video = next(digits.glob("test/*/*.mp4"))
    assert run.load(device="cpu").predict(video).label in mvrec.load(run.folder, device="cpu").class_names


def test_a_mapping_is_what_stands_on_the_command_line():
    arguments = {"root": Path("my videos"), "classes": ["ä", "b"]}
    config = {
        "data": {"class_path": "mvrec.data.VideoFolder", "init_args": arguments},
        "model": {"backbone": {"class_path": "my.Net", "init_args": {"mults": {1: 2.0}}}, "weights": None},
        "trainer.max_epochs": np.int64(3),
    }
    assert list(_arguments(config)) == [
        "--data=mvrec.data.VideoFolder",
        "--data.root=my videos",
        '--data.classes=["ä", "b"]',
        "--model.backbone=my.Net",
        '--model.backbone.mults={"1": 2.0}',
        "--model.weights=null",
        "--trainer.max_epochs=3",
    ]
    assert list(_arguments("finetune")) == ["--config", "finetune"]


def test_wrong_configurations_raise_what_the_command_line_says(digits, tmp_path, capfd):
    before = state_of_the_process()
    rows = [
        ((DEMO, {"data": {"roof": digits}}), "--data.roof: unknown key .*did you mean 'root'"),
        (("finetun",), "'finetun' does not exist; did you mean 'finetune'"),
        ((DEMO, {"trainer": {"max_epochs": "many"}, "data.root": digits}), "trainer.max_epochs"),
        ((DEMO, {"model.backbone.depth": [1], "data.root": digits}), "model.backbone.depth"),
        (({"data.rot": "x"},), "--data.rot: unknown key 'data.rot'; did you mean 'root'"),
        (({"data": {"rot": "x"}},), "--data.rot: unknown key 'data.rot'; did you mean 'root'"),
        (({"data": {"batch-size": 4}},), "unknown key 'data.batch-size'; did you mean 'batch_size'"),
        (
            ({"data": {"class_path": "VideoFolder", "init_arg": {}}},),
            "data.init_arg: put the arguments of a class into",
        ),
        (({"data": {}},), "which data"),
        (({"trainer": {"max_epoch": 3}},), "unknown key 'trainer.max_epoch'; did you mean 'max_epochs'"),
        ((3,), "a configuration is a file, the name of a recipe or a dict, got a int"),
        (({"trainer": {"max_epochs": object()}},), "got a object"),
    ]
    for configs, message in rows:
        with pytest.raises(UserError, match=message) as raised:
            mvrec.fit(*configs)
        assert "\n" not in str(raised.value)
        assert state_of_the_process() == before
    assert "error:" not in capfd.readouterr().err
