"""The private names of Lightning that mvrec relies on, each behind a name of ours.

Nothing else in mvrec uses one. `tests/test_lightning_private.py` checks what each of them does, and pyproject.toml
admits only versions of Lightning that passed that test.
"""

from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

# -- training -----------------------------------------------------------------------------------------------------


def leave_sigterm_alone(trainer: L.Trainer) -> None:
    """Keep the loop from asking all processes for a SIGTERM before each batch, which waits for the device."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def resume_after_finished_epochs(trainer: L.Trainer) -> None:
    """Make a run with `max_steps` resume after a finished epoch as one without: with the next epoch.

    Lightning would repeat the end of that epoch, and count one epoch more than has been trained.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def log_train_step(trainer: L.Trainer) -> None:
    """Pass the metrics of this step to the loggers; Lightning does so after all hooks of the batch's end."""
    trainer._logger_connector.update_train_step_metrics()


def uncount_stepped_batch(fit_loop_state: dict[str, Any]) -> None:
    """Subtract the last batch from the count by which the loggers of a checkpoint number their steps."""
    fit_loop_state["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


# -- strategies ---------------------------------------------------------------------------------------------------


def collective_timeout(strategy: Strategy) -> timedelta | None:
    """Return how long a process waits for the others; `None` where the strategy sets no time."""
    if isinstance(strategy, DDPStrategy | FSDPStrategy | ModelParallelStrategy):
        return strategy._timeout
    return None


def set_data_parallel_size(strategy: ModelParallelStrategy, size: int) -> None:
    """Set the number of processes that share the data, before the strategy sets up its environment."""
    strategy._data_parallel_size = size


def drop_layer_sync(strategy: Strategy) -> bool:
    """Let batch norms be computed per process on a CPU, where torch cannot share them; return whether that changed."""
    synced = getattr(strategy, "_layer_sync", None) is not None and strategy.root_device.type == "cpu"
    if synced:
        strategy._layer_sync = None  # type: ignore[attr-defined]
    return synced


# -- modules ------------------------------------------------------------------------------------------------------


def has_trainer(module: L.LightningModule) -> bool:
    """Return whether a module belongs to a trainer; `module.trainer` raises an error if it does not."""
    return module._trainer is not None


# -- command line -------------------------------------------------------------------------------------------------


class OpenCLI(LightningCLI):
    """`LightningCLI` with public names for its private steps, to build a command line on.

    The configuration overrides the hyperparameters of a checkpoint; in stock Lightning the checkpoint wins.
    """

    def parser_of(self, command: str) -> LightningArgumentParser:
        """Return the parser of a command, such as "fit"."""
        return self._subcommand_parsers[command]

    def run_command(self, command: str) -> None:
        """Run a command once data, model and trainer are built."""
        super()._run_subcommand(command)

    def command_arguments(self, command: str) -> dict[str, Any]:
        """Return the arguments of the trainer's method for the command."""
        return super()._prepare_subcommand_kwargs(command)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_command(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return self.command_arguments(subcommand)

    def _parse_ckpt_path(self) -> None:
        pass
