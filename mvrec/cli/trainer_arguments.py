"""Checks of trainer values with which Lightning would fail late, or the run would do nothing."""

import functools
import logging
import operator
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mvrec.errors import UserError
from mvrec.ranges import check_ranges

log = logging.getLogger("mvrec")

# Of these 1 means one batch and 1.0 all.
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
BATCH_COUNTS = (*LIMITS, "val_check_interval")
READS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
CLIP_ALGORITHMS = (None, "norm", "value")

# Callbacks that change settings which are fixed before training, or that a flag of the trainer replaces.
NOT_HERE = {
    "LearningRateFinder": "it looks for a rate that model.optimizer.lr and the schedule set here",
    "BatchSizeFinder": "steps, order and schedule follow from data.batch_size before training; mvrec benchmark data "
    "measures the cost of a size",
    "Timer": "--trainer.max_time does the same",
    "GradientAccumulationScheduler": "steps and schedule follow from trainer.accumulate_grad_batches before training",
    "BackboneFinetuning": "it would freeze the head with the backbone; --model.freeze backbone keeps all but the head",
}
REFUSALS = (MisconfigurationException, ValueError, TypeError, AttributeError, ImportError)


def whole_first(union: Any) -> Any:
    """Return a union of types in which a whole number is tried before a float.

    Python's `typing` gives equal unions the order of the one that was made first: then 1 is read and saved as 1.0.
    """
    return functools.reduce(operator.or_, sorted(get_args(union), key=lambda kind: kind is float))


def refused_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning raised an error because of a value, which it may do only during the run."""
    if not isinstance(error, REFUSALS) or error.__traceback__ is None:
        return False
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, MisconfigurationException) or Path(L.__file__).parent in raised_in.parents


def check_trainer(config: Mapping[str, Any], command: str) -> None:
    """Check values that Lightning does not check, or only with a traceback.

    Args:
        config: The values below `trainer`.
        command: "fit", "validate", "test" or "predict".

    Raises:
        UserError: A value is out of range, or the command would do nothing with it.
    """
    check_ranges("trainer.", {key: value for key, value in config.items() if key != "val_check_interval"})
    callbacks = config.get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = str(getattr(callback, "class_path", None)).rpartition(".")[2]
        if name in NOT_HERE:
            raise UserError(f"trainer.callbacks: {name} does not work here: {NOT_HERE[name]}")
    limit = f"limit_{READS[command]}_batches"
    if config.get(limit) == 0 and not config.get("fast_dev_run"):
        raise UserError(f"trainer.{limit}=0: {command} would do nothing; leave it out, or give 1 or more")
    if command == "fit":
        _check_fit(config)


def _check_fit(config: Mapping[str, Any]) -> None:
    for key in ("max_epochs", "max_steps"):
        if config.get(key) == 0:
            raise UserError(f"trainer.{key}=0: nothing would be trained; mvrec test scores a network as it is")
    limits = (config.get("max_epochs"), config.get("max_time"), config.get("fast_dev_run") or None)
    if limits == (None, None, None) and config.get("max_steps") in (None, -1):
        log.warning("trainer.max_epochs is not set: training ends after 1000 epochs")
    interval = config.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        raise UserError(
            f"trainer.val_check_interval must be above 0, got {interval}; without validation: "
            "--trainer.limit_val_batches 0"
        )
    if config.get("gradient_clip_algorithm") not in CLIP_ALGORITHMS:
        raise UserError(f"trainer.gradient_clip_algorithm is norm or value, got {config['gradient_clip_algorithm']!r}")
    for key in ("max_time", "val_check_interval"):
        _check_duration(key, config.get(key))
    if config.get("barebones"):
        raise UserError(
            "trainer.barebones: it measures Lightning without any callback, and runs here have some; "
            "mvrec benchmark measures a training step"
        )


def _check_duration(key: str, value: Any) -> None:
    units = ("days", "hours", "minutes", "seconds", "weeks", "milliseconds", "microseconds")
    if isinstance(value, str) and not re.fullmatch(r"\d+:\d+:\d+:\d+", value.strip()):
        raise UserError(f"trainer.{key}: a time is DD:HH:MM:SS (days, hours, minutes, seconds), got {value!r}")
    if isinstance(value, str) and not re.search("[1-9]", value):
        raise UserError(f"trainer.{key} must be above 0, got {value!r}")
    if isinstance(value, Mapping) and not (set(value) <= set(units) and value):
        raise UserError(f"trainer.{key}: a time has {', '.join(units[:4])}, got {', '.join(map(str, value)) or 'none'}")
