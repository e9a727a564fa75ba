"""The private names of Lightning that mvrec relies on are there, and do what we rely on."""

import functools
import inspect
import sys
from datetime import timedelta

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
)

from mvrec import lightning_private
from mvrec.lightning_private import OpenCLI


class Steps(Logger):
    """Keeps the steps at which it was handed metrics."""

    name, version = "steps", 0

    def __init__(self) -> None:
        super().__init__()
        self.steps = []

    def log_metrics(self, metrics, step=None):
        self.steps.append(step)

    def log_hyperparams(self, *args, **kwargs):
        pass


class Logging(BoringModel):
    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0)
        return super().training_step(batch, batch_idx)


class Ahead(L.Callback):
    """Hands the first batch's metrics over before Lightning does, and takes that batch off the count."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            assert trainer.logger.steps == []
            lightning_private.log_train_step(trainer)
            assert trainer.logger.steps == [0]
            state = trainer.fit_loop.state_dict()
            lightning_private.uncount_stepped_batch(state)
            trainer.fit_loop.load_state_dict(state)


def make_trainer(**values):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2,
        log_every_n_steps=1,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **values,
    )


@pytest.mark.filterwarnings("ignore:.*treespec")
def test_loggers_get_a_steps_metrics_early_and_number_steps_by_a_count_in_the_checkpoint(tmp_path):
    logger = Steps()
    trainer = make_trainer(logger=logger, callbacks=[Ahead()], default_root_dir=tmp_path)
    trainer.fit(Logging())
    # Ours, and Lightning's of the same batch and of the next one, each numbered one less.
    assert logger.steps == [0, -1, 0]


def test_the_training_loop_asks_for_sigterm_by_a_method_that_can_be_replaced():
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)
    trainer = make_trainer(logger=False)
    lightning_private.leave_sigterm_alone(trainer)
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None  # without any process group


@pytest.mark.parametrize("kind", [DDPStrategy, FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_keeps_how_long_processes_wait(kind):
    assert lightning_private.collective_timeout(kind(timeout=timedelta(seconds=7))) == timedelta(seconds=7)
    assert lightning_private.collective_timeout(SingleDeviceStrategy(torch.device("cpu"))) is None


def test_data_are_spread_over_as_many_processes_as_are_set(monkeypatch):
    """Before the environment is set up, which makes the mesh."""
    sizes = []
    monkeypatch.setattr(ParallelStrategy, "setup_environment", lambda self: None)
    monkeypatch.setattr(ModelParallelStrategy, "_setup_distributed", lambda self: None)
    module = inspect.getmodule(ModelParallelStrategy)
    monkeypatch.setattr(module, "_setup_device_mesh", lambda data, *_: sizes.append(data))
    strategy = ModelParallelStrategy(tensor_parallel_size=1)
    strategy.parallel_devices = [torch.device("cpu")]
    strategy._lightning_module = BoringModel()
    strategy.cluster_environment = L.fabric.plugins.environments.LightningEnvironment()
    lightning_private.set_data_parallel_size(strategy, 6)
    strategy.setup_environment()
    assert sizes == [6]


def test_a_module_knows_whether_it_has_a_trainer():
    module = BoringModel()
    assert not lightning_private.has_trainer(module)
    module.trainer = make_trainer(logger=False)
    assert lightning_private.has_trainer(module)


class Told(OpenCLI):
    def run_command(self, command):
        self.told = command, self.command_arguments(command)

    def command_arguments(self, command):
        return {**super().command_arguments(command), "verbose": False}


def test_the_steps_of_the_command_line_have_public_names(tmp_path, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "argv", ["mvrec"])
    not_read = tmp_path / "a.ckpt"
    not_read.write_text("no checkpoint")
    arguments = ["validate", "--trainer.logger=false", "--trainer.accelerator=cpu", f"--ckpt_path={not_read}"]
    options = {"save_config_callback": None, "seed_everything_default": 0, "args": arguments}
    told = Told(BoringModel, BoringDataModule, **options)
    command, values = told.told
    assert command == "validate"
    assert values["model"] is told.model
    assert values["datamodule"] is told.datamodule
    assert (values["ckpt_path"], values["verbose"]) == (str(not_read), False)
    assert told.parser_of("fit").get_defaults().trainer.max_epochs is None
    # Stock Lightning reads the file for hyperparameters.
    assert "self._parse_ckpt_path()" in inspect.getsource(LightningCLI.__init__)
    # It calls a command with what its private step gives.
    ran = []
    validate = functools.wraps(L.Trainer.validate)(lambda self, **values: ran.append(values))
    monkeypatch.setattr(L.Trainer, "validate", validate)
    monkeypatch.setattr(Told, "run_command", OpenCLI.run_command)
    Told(BoringModel, BoringDataModule, **options)
    assert [values["verbose"] for values in ran] == [False]
