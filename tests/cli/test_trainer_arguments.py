"""Values of the trainer and of its checkpoints: each works or is refused in one line, and none is forgotten."""

import inspect
import re
from argparse import Namespace
from pathlib import Path

import lightning as L
import pytest
import yaml
from config_builds import tiny_images
from lightning.pytorch.callbacks import ModelCheckpoint

from mvrec.cli.trainer_arguments import check_trainer
from mvrec.errors import UserError

# Per argument the values that are tried, each alone.
TRAINER = {
    **{key: ["0", "-1"] for key in ("num_nodes", "limit_test_batches", "limit_predict_batches")},
    **{key: ["2", "-1"] for key in ("min_epochs", "min_steps")},
    **{key: ["true"] for key in ("benchmark", "barebones", "detect_anomaly", "enable_model_summary")},
    **{key: ["true"] for key in ("sync_batchnorm", "use_distributed_sampler")},
    **{key: ["false"] for key in ("enable_autolog_hparams", "enable_checkpointing", "enable_progress_bar")},
    "inference_mode": ["false"],
    **{key: ["foo"] for key in ("model_registry", "plugins")},
    "accelerator": ["cpu", "gpu", "mps", "foo"],
    "strategy": ["auto", "ddp_foo", "fsdp"],
    "devices": ["auto", "1", "0", "-1", "foo", "[0]"],
    "precision": ["bf16-true", "64-true", "16-true", "bf16-mixed", "64", "transformer-engine", "fp16"],
    "logger": ["true", "false"],
    "callbacks": ["null", "[]", "Foo", "LearningRateMonitor", "DeviceStatsMonitor", "RichModelSummary"],
    "fast_dev_run": ["true", "3", "0", "-1"],
    "max_epochs": ["0", "-1", "-2", "null"],
    "max_steps": ["0", "1", "-2"],
    "max_time": ["00:00:00:01", "00:00:00:00", "foo", "{seconds: 1}", "{foo: 1}"],
    "limit_train_batches": ["0", "0.01", "0.5", "1", "-1", "1.5", "99"],
    "limit_val_batches": ["0", "0.01", "-1", "99"],
    "overfit_batches": ["-1"],
    "val_check_interval": ["0", "0.5", "2", "99", "-1", "1.5", "00:00:00:01", "foo"],
    "check_val_every_n_epoch": ["0", "-1", "5", "null"],
    "num_sanity_val_steps": ["-1", "-2", "0"],
    "log_every_n_steps": ["0", "-1", "1000", "null"],
    "accumulate_grad_batches": ["0", "2", "99", "-1"],
    "gradient_clip_val": ["0.5", "0", "-1"],
    "gradient_clip_algorithm": ["value", "foo"],
    "deterministic": ["true", "warn"],
    "profiler": ["simple", "advanced", "foo"],
    "reload_dataloaders_every_n_epochs": ["1", "-1"],
    "default_root_dir": ["elsewhere"],
}
CHECKPOINT = {
    **{key: ["true"] for key in ("auto_insert_metric_name", "enable_version_counter", "save_on_exception")},
    **{key: ["true"] for key in ("save_weights_only", "verbose")},
    "dirpath": ["elsewhere"],
    "filename": ["null", "{epoch}"],
    "monitor": ["null"],
    "save_last": ["null", "false", "link"],
    "save_top_k": ["0", "-1", "-2"],
    "mode": ["foo"],
    "every_n_train_steps": ["1", "-1"],
    "train_time_interval": ["00:00:01", "foo"],
    "every_n_epochs": ["-1", "5"],
    "save_on_train_epoch_end": ["true", "false"],
}
ALL = [(f"trainer.{key}", value) for key, values in TRAINER.items() for value in values] + [
    (f"checkpoint.{key}", value) for key, values in CHECKPOINT.items() for value in values
]


def test_no_argument_is_forgotten():
    for kind, tried in ((L.Trainer, TRAINER), (ModelCheckpoint, CHECKPOINT)):
        assert set(inspect.signature(kind.__init__).parameters) - {"self"} == set(tried)


def callback(name):
    return {"callbacks": [Namespace(class_path=f"x.{name}")]}


def test_values_that_lightning_trips_over_are_refused():
    for command, values, message in (
        ("fit", {"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches must be at least 1, got 0"),
        ("fit", {"log_every_n_steps": -1}, "trainer.log_every_n_steps must be at least 0, got -1"),
        ("fit", {"limit_train_batches": 0}, "trainer.limit_train_batches=0: fit would do nothing"),
        ("test", {"limit_test_batches": 0.0}, "trainer.limit_test_batches=0: test would do nothing"),
        ("predict", {"limit_predict_batches": -0.5}, "must be at least 0, got -0.5"),
        ("fit", {"max_epochs": 0}, "trainer.max_epochs=0: nothing would be trained"),
        ("fit", {"val_check_interval": 0}, "trainer.val_check_interval must be above 0"),
        ("fit", {"max_time": "1h"}, "trainer.max_time: a time is DD:HH:MM:SS (days, hours, minutes, seconds), got"),
        ("fit", {"max_time": "00:00:00:00"}, "trainer.max_time must be above 0, got '00:00:00:00'"),
        ("fit", {"max_time": {"hour": 1}}, "trainer.max_time: a time has days, hours, minutes, seconds, got hour"),
        ("fit", callback("BatchSizeFinder"), "BatchSizeFinder does not work here: steps"),
        ("fit", callback("GradientAccumulationScheduler"), "schedule follow from trainer.accumulate_grad_batches"),
        ("fit", {"callbacks": Namespace(class_path="x.BackboneFinetuning")}, "--model.freeze backbone keeps"),
        ("fit", {"gradient_clip_algorithm": "max"}, "trainer.gradient_clip_algorithm is norm or value, got 'max'"),
        ("fit", {"barebones": True}, "mvrec benchmark measures a training step"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check_trainer(values, command)


def test_values_that_have_a_meaning_are_taken():
    for command, values in (
        ("fit", {"limit_val_batches": 0, "limit_test_batches": 0, "log_every_n_steps": 0, "max_epochs": -1}),
        ("fit", {"val_check_interval": "00:01:00:00", "max_time": {"hours": 1}, "num_sanity_val_steps": -1}),
        ("test", {"limit_train_batches": 0, "max_epochs": 0}),
        ("validate", {"fast_dev_run": True, "limit_val_batches": None}),
    ):
        check_trainer(values, command)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """Arguments of a run of four steps: a network of two blocks on generated images of 32 pixels."""
    root = tmp_path_factory.mktemp("trainer") / "data"
    values = {"data.size": 32, "data.batch_size": 5, "data.decode_timeout": "null", "data.decode_memory": "null"}
    values |= {"trainer.log_every_n_steps": 1, "trainer.gradient_clip_val": "null"}
    flags = (f"--{key}={value}" for key, value in values.items())
    return ["fit", "--config=demo_images_mvit", *tiny_images(root), *flags]


def test_a_saved_configuration_means_what_was_said(command, tiny):
    values = {"limit_train_batches": "1", "limit_val_batches": "1.0", "overfit_batches": "0", "val_check_interval": "1"}
    flags = [f"--trainer.{key}={value}" for key, value in values.items()]
    average = ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    code, out, err = command(*tiny, *flags, *average, "--print_config")
    assert code == 0, err
    saved = yaml.safe_load(out)["trainer"]
    assert {key: str(saved[key]) for key in values} == values
    assert saved["callbacks"][0]["init_args"]["device"] == "cpu"


def test_what_was_asked_for_is_shown_and_an_early_end_is_explained(command, tiny, tmp_path):
    stop = {"": "EarlyStopping", ".monitor": "val/top1", ".mode": "max", ".patience": "1"}
    flags = [*(f"--trainer.callbacks{key}={value}" for key, value in stop.items()), "--trainer.profiler=simple"]
    flags += ["--trainer.enable_model_summary=true", "--trainer.max_epochs=8", "--model.optimizer.lr=1e-9"]
    code, _, err = command(*tiny, f"--run_dir={tmp_path}", *flags)
    assert code == 0, err
    assert "EarlyStopping: Monitored metric val/top1 did not improve in the last 1 records" in err
    assert err.count("mvrec: training stops in epoch ") == 1
    assert "run_training_batch" in err
    assert "Trainable params" in err
    assert "GPU available" not in err  # nobody asked


@pytest.mark.parametrize(
    ("precision", "end", "reason"),
    [
        ("bf16-true", "max_steps=6", "training stops in epoch 2 at step 6: trainer.max_steps=6 is reached"),
        pytest.param("64-true", "max_time=00:00:00:01", ": trainer.max_time is over", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_ends_early_says_why(command, tiny, tmp_path, precision, end, reason):
    """Two true precisions train and are scored."""
    flags = [f"--trainer.precision={precision}", f"--trainer.{end}", "--trainer.max_epochs=99"]
    code, _, err = command(*tiny, f"--run_dir={tmp_path}", *flags)
    assert code == 0, err
    assert reason in err
    code, _, err = command("test", tmp_path, flags[0], "--trainer.accelerator=cpu")
    assert code == 0, err
    assert "10/10 images scored, 0 failed" in err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on odd values
@pytest.mark.parametrize(("key", "value"), ALL, ids=lambda value: value.replace("/", "|"))
def test_every_value_works_or_is_refused_in_one_line(command, tiny, tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    end = ["--trainer.max_steps=6"] if key == "trainer.max_epochs" else []  # without a limit it goes on for long
    code, _, err = command(*tiny, f"--run_dir={tmp_path / 'run'}", f"--{key}={value}", *end)
    assert code in (0, 2), err
    if code == 2:
        assert len([line for line in err.splitlines() if line.startswith("mvrec: error: ")]) == 1
        assert err.splitlines()[-1].startswith("mvrec: error: ")
    assert not list(Path(tmp_path).glob("*.csv"))


def test_training_without_an_end_says_its_1000_epochs(caplog):
    for values, lines in (({}, 1), ({"max_epochs": -1}, 0), ({"max_steps": 3}, 0), ({"max_time": "00:00:00:01"}, 0)):
        caplog.clear()
        check_trainer({"max_steps": -1, **values}, "fit")
        assert caplog.text.count("trainer.max_epochs is not set: training ends after 1000 epochs") == lines, values
