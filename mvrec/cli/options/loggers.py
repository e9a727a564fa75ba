"""Loggers of Lightning that need packages of an extra."""

import importlib.util
from collections.abc import Iterable

from mvrec.cli.config_check import Entry
from mvrec.errors import UserError, install_hint

# The extra of a logger, and its modules, of which one is enough.
EXTRAS = {
    "TensorBoardLogger": ("tensorboard", ("tensorboard", "tensorboardX")),
    "WandbLogger": ("wandb", ("wandb",)),
    "MLFlowLogger": ("mlflow", ("mlflow",)),
}


def check_loggers(settings: Iterable[Entry]) -> None:
    """Check that the packages of all loggers are installed.

    Raises:
        UserError: One is not, with the command that installs it.
    """
    for entry in settings:
        if entry.key.partition("[")[0] != "trainer.logger" or not isinstance(entry.value, str):
            continue
        name = entry.value.rpartition(".")[2]
        extra, modules = EXTRAS.get(name, ("", ()))
        if extra and not any(map(importlib.util.find_spec, modules)):
            raise UserError(f"{entry.place}: {name} needs {modules[0]}: {install_hint(extra)}")
