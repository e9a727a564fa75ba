"""The private names of Lightning that mvrec relies on, each behind a name of ours.

Nothing else in mvrec touches one, and `tests/test_lightning_private.py` holds what each of them does: pyproject.toml
lets no Lightning in for which that was not seen.
"""

from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

# -- training -----------------------------------------------------------------------------------------------------


def leave_sigterm_alone(trainer: L.Trainer) -> None:
    """Keep the loop from asking all processes before each batch who got a SIGTERM, which waits for the device."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def log_train_step(trainer: L.Trainer) -> None:
    """Hand the metrics of this step to the loggers: Lightning does so after all hooks of the batch's end."""
    trainer._logger_connector.update_train_step_metrics()


def uncount_stepped_batch(fit_loop_state: dict[str, Any]) -> None:
    """Take the last batch off the count by which a checkpoint's loggers number their steps."""
    fit_loop_state["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


# -- strategies ---------------------------------------------------------------------------------------------------


def collective_timeout(strategy: Strategy) -> timedelta | None:
    """How long a process waits for the others; `None` where the strategy sets no time."""
    if isinstance(strategy, DDPStrategy | FSDPStrategy | ModelParallelStrategy):
        return strategy._timeout
    return None


def set_data_parallel_size(strategy: ModelParallelStrategy, size: int) -> None:
    """Spread the data over so many processes, before the strategy sets its environment up."""
    strategy._data_parallel_size = size


# -- modules ------------------------------------------------------------------------------------------------------


def has_trainer(module: L.LightningModule) -> bool:
    """Return whether a module belongs to a trainer: asking for `trainer` raises where it does not."""
    return module._trainer is not None


# -- command line -------------------------------------------------------------------------------------------------


class OpenCLI(LightningCLI):
    """`LightningCLI` whose private steps have public names, for a command line that builds on it.

    The configuration wins over the hyperparameters of a checkpoint, where stock Lightning lets the checkpoint win.
    """

    def parser_of(self, command: str) -> LightningArgumentParser:
        """Return the parser of a command, such as "fit"."""
        return self._subcommand_parsers[command]

    def run_command(self, command: str) -> None:
        """Run a command, with data, model and trainer built."""
        super()._run_subcommand(command)

    def command_arguments(self, command: str) -> dict[str, Any]:
        """What the trainer's method of the command is called with."""
        return super()._prepare_subcommand_kwargs(command)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_command(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return self.command_arguments(subcommand)

    def _parse_ckpt_path(self) -> None:
        pass
