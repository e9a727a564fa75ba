"""The private names of Lightning that mvrec relies on are there, and do what we rely on."""

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


def make_trainer(**values):
    shown = dict.fromkeys(["enable_progress_bar", "enable_model_summary", "enable_checkpointing"], False)
    return L.Trainer(
        accelerator="cpu", devices=1, max_steps=2, log_every_n_steps=1, limit_val_batches=0, **shown, **values
    )


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
    """Hands the first batch's metrics over before Lightning does, and takes that batch off the count."""

    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 0:
            assert self.logger.steps == []
            lightning_private.log_train_step(self.trainer)
            assert self.logger.steps == [0]
            state = self.trainer.fit_loop.state_dict()
            lightning_private.uncount_stepped_batch(state)
            self.trainer.fit_loop.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:.*treespec")
def test_loggers_get_a_steps_metrics_early_and_number_steps_by_a_count_in_the_checkpoint(tmp_path):
    trainer = make_trainer(logger=Steps(), default_root_dir=tmp_path)
    trainer.fit(Logging())
    # Ours, and Lightning's of the same batch and of the next one, each numbered one less.
    assert trainer.logger.steps == [0, -1, 0]


def test_a_run_with_max_steps_restarts_no_finished_epoch():
    trainer = make_trainer(logger=False)  # with max_steps
    trainer.fit_loop.restarting = True
    assert trainer.fit_loop.restarting  # Lightning repeats the end of the epoch
    lightning_private.resume_after_finished_epochs(trainer)
    trainer.fit_loop.restarting = True
    assert not trainer.fit_loop.restarting


def test_a_trainer_asks_for_sigterm_by_a_method_that_can_be_replaced_and_its_module_knows_it():
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)
    trainer, module = make_trainer(logger=False), BoringModel()
    lightning_private.leave_sigterm_alone(trainer)
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None  # without any process group
    assert not lightning_private.has_trainer(module)
    module.trainer = trainer
    assert lightning_private.has_trainer(module)


def test_a_strategy_keeps_how_long_processes_wait():
    for kind in (DDPStrategy, FSDPStrategy, ModelParallelStrategy):
        assert lightning_private.collective_timeout(kind(timeout=timedelta(seconds=7))) == timedelta(seconds=7), kind
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


class RecordingCLI(OpenCLI):
    def run_command(self, command):
        self.command = command, self.command_arguments(command)

    def command_arguments(self, command):
        return {**super().command_arguments(command), "verbose": False}


def test_the_steps_of_the_command_line_have_public_names(tmp_path, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "argv", ["mvrec"])
    (tmp_path / "a.ckpt").write_text("no checkpoint")  # stock Lightning reads it for hyperparameters
    assert "self._parse_ckpt_path()" in inspect.getsource(LightningCLI.__init__)
    arguments = ["validate", "--trainer.logger=false", "--trainer.accelerator=cpu", f"--ckpt_path={tmp_path}/a.ckpt"]
    options = {"save_config_callback": None, "seed_everything_default": 0, "args": arguments}
    cli = RecordingCLI(BoringModel, BoringDataModule, **options)
    values = {"model": cli.model, "datamodule": cli.datamodule, "ckpt_path": f"{tmp_path}/a.ckpt", "verbose": False}
    assert cli.command[0] == "validate"
    assert cli.command[1].items() >= values.items()
    assert cli.parser_of("fit").get_defaults().trainer.max_epochs is None
    # A command is called with what its private step gives.
    calls = []
    monkeypatch.setattr(cli.trainer, "validate", lambda **values: calls.append(values))
    OpenCLI.run_command(cli, "validate")
    assert calls == [cli.command[1]]


def test_batch_norms_of_processes_without_gpus_are_not_shared():
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")])
    strategy._layer_sync = "a layer sync"
    assert "self._layer_sync" in inspect.getsource(DDPStrategy)
    assert lightning_private.drop_layer_sync(strategy)
    assert strategy._layer_sync is None
    assert not lightning_private.drop_layer_sync(strategy)
