"""Training and testing from a script: the command line's `fit` and `test`, with the caller's process left as it was."""

import json
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from mvrec.cli.lightning import MvrecParser, run
from mvrec.cli.options.check import check_early
from mvrec.errors import UserError
from mvrec.inference.model import Model, load
from mvrec.messages import fail
from mvrec.runs.preemption import INTERRUPT_EXIT
from mvrec.runs.signals import requests

LOGGERS = ("mvrec", "lightning.pytorch", "lightning.fabric")
GROUPS = ("data", "model", "trainer", "checkpoint")

Config = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run that was trained or tested.

    Attributes:
        folder: Its directory, which `mvrec.load`, `mvrec.test` and every command take.
        scores: The last scores by name, such as `val/top1` in 0..1.
    """

    folder: Path
    scores: dict[str, float] = field(default_factory=dict)

    def load(self, **options: Any) -> Model:
        """Return its best network for use; the options are those of `mvrec.load`."""
        return load(self.folder, **options)


def fit(*configs: Config) -> Run:
    """Train as `mvrec fit` does, with the same keys.

    `mvrec.fit({"data": {"root": "my_videos"}})` is `mvrec fit --data.root my_videos`. A script that loader processes
    import again (where processes are spawned) or that several GPUs run needs `if __name__ == "__main__":`.

    Args:
        configs: YAML files, names of recipes, and mappings with nested or dotted keys; later ones win. A class is
            written `{"class_path": ..., "init_args": {...}}`, as in YAML.

    Returns:
        The run, with the last scores of its training and validation.

    Raises:
        UserError: A key, a value or the data are wrong; the message is that of the command line.
        KeyboardInterrupt: Ctrl-C; the run has saved a checkpoint, from which `{"resume": "auto"}` goes on.
        SystemExit: A signal has asked the process to end, as a cluster does; likewise.
    """
    return _run("fit", [], configs)


def test(source: "str | os.PathLike[str] | Run", *configs: Config) -> Run:
    """Score a run's best checkpoint, or a file of weights, as `mvrec test` does, with the same keys.

    Args:
        source: A run, its directory, a checkpoint, or weights.
        configs: As in `fit`.

    Returns:
        The run, with the scores of the test.

    Raises:
        UserError: A key, a value or the data are wrong; the message is that of the command line.
    """
    folder = source.folder if isinstance(source, Run) else source
    return _run("test", [os.fspath(folder)], configs)


def _run(command: str, first: list[str], configs: tuple[Config, ...]) -> Run:
    arguments = [command, *first, *(word for config in configs for word in _arguments(config))]
    with _process_as_it_was(), _errors_of_the_parser():
        if command == "fit":
            requests.listen()
        try:
            check_early(arguments)
            finished = run(arguments)
        except SystemExit as leaving:
            if leaving.code == INTERRUPT_EXIT:
                raise KeyboardInterrupt from None
            raise
        finally:
            requests.restore()
        scores = {name: float(score) for name, score in finished.trainer.callback_metrics.items()}
    return Run(finished.run_dir, scores)


def _arguments(config: Config) -> Iterator[str]:
    if isinstance(config, str | os.PathLike):
        yield from ("--config", os.fspath(config))
    elif isinstance(config, Mapping):
        yield from _flags("", config)
    else:
        raise UserError(f"a configuration is a file, the name of a recipe or a dict, got a {type(config).__name__}")


def _flags(prefix: str, values: Mapping[Any, Any]) -> Iterator[str]:
    """Yield `--key=value` for every leaf, as on the command line."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "class_path" in value:
            if other := [part for part in value if part not in ("class_path", "init_args")]:
                raise UserError(f"{name}.{other[0]}: put the arguments of a class into init_args")
            yield f"--{name}={value['class_path']}"
            yield from _flags(f"{name}.", value.get("init_args") or {})
        elif isinstance(value, Mapping) and (name in GROUPS or _are_keys(value)):
            yield from _flags(f"{name}.", value)
        elif isinstance(value, str | os.PathLike):
            yield f"--{name}={os.fspath(value)}"
        else:
            yield f"--{name}={json.dumps(value, default=_plain, ensure_ascii=False)}"


def _are_keys(value: Mapping[Any, Any]) -> bool:
    """Return whether a mapping has keys of ours below it, and is no value itself, such as `{1: 2.0}`."""
    return bool(value) and all(str(part).isidentifier() for part in value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UserError(f"a value of a configuration is text, a number or a list, got a {type(value).__name__}: {value!r}")


class _RefusedError(BaseException):
    """The parser's refusal, which no handler of a library catches."""


@contextmanager
def _errors_of_the_parser() -> Iterator[None]:
    """Raise what the command line prints before it exits."""

    def refuse(message: str) -> NoReturn:
        raise _RefusedError(" ".join(message.split()))

    MvrecParser.refuse = staticmethod(refuse)
    try:
        yield
    except _RefusedError as refusal:
        raise UserError(str(refusal)) from None
    finally:
        MvrecParser.refuse = staticmethod(fail)


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Restore the caller's logging, warnings, environment, number of threads and random states."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    settings = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    environment = dict(os.environ)
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings(), torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            for logger, (handlers, propagate, level) in zip(loggers, settings, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)
