"""Monitored scores: their direction, and whether a validation logs them."""

import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvrec.errors import UserError, nearest

if TYPE_CHECKING:  # a report needs the names, and no Lightning
    import lightning as L

Mode = Literal["min", "max"]
ERRORS = frozenset({"mae", "mse", "rmse"})  # words in names of scores of which a lower one is better
COUNTS = ("epoch", "step")  # allowed in a file's name, like scores


def mode_of(score: str) -> Mode:
    """Return whether a lower or a higher score is better, by the score's name."""
    name = score.lower()
    is_error = any(word in name for word in ("loss", "error")) or not ERRORS.isdisjoint(re.split(r"[/_]", name))
    return "min" if is_error else "max"


def placeholders(filename: str) -> list[str]:
    """Return the names in braces in a file's name.

    Raises:
        UserError: Malformed braces or number formats, which would fail only at the first checkpoint; a name outside the
            run directory.
    """
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(filename) if name is not None]
        for name, spec in fields:
            format(1 if name in COUNTS else 1.0, spec or "")
    except ValueError as error:
        raise UserError(f"checkpoint.filename {filename!r}: {error}") from None
    if Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise UserError(f"checkpoint.filename {filename!r}: give a name below checkpoint.dirpath")
    return [name for name, _ in fields]


def check_monitors(trainer: "L.Trainer", logged: Iterable[str]) -> None:
    """Check that callbacks watch scores that will be logged, in the direction of improvement.

    Args:
        trainer: Holds the callbacks and the validation's batch count.
        logged: The scores that this run logs.

    Raises:
        UserError: A score that nothing logs, with the nearest name, or one watched in the wrong direction.
    """
    names = [name for name in logged if not name.startswith("val/") or trainer.num_val_batches != [0]]
    # Callbacks from other packages may log any score.
    others = any(type(item).__module__.split(".")[0] not in ("lightning", "mvrec") for item in trainer.callbacks)  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in placeholders(getattr(callback, "filename", None) or ""):
            hint = _nearest(name, [*names, *COUNTS])
            if name not in (*names, *COUNTS) and (hint or not others):
                raise UserError(f"checkpoint.filename {callback.filename!r}: nothing in this run logs {name!r}{hint}")
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        key = getattr(callback, "monitor_key", None) or f"{type(callback).__name__}.monitor"
        hint = _nearest(monitor, names)
        if monitor not in names and (hint or not others):
            raise UserError(f"{key} {monitor!r}: nothing in this run logs it{hint}; available: {', '.join(names)}")
        _check_mode(callback, monitor, is_logged=monitor in names)


def _check_mode(callback: Any, monitor: str, *, is_logged: bool) -> None:
    mode = getattr(callback, "mode", None)
    if hasattr(callback, "monitor_key") or not is_logged or mode not in ("min", "max") or mode == mode_of(monitor):
        return
    better = "lower" if mode_of(monitor) == "min" else "higher"
    raise UserError(
        f"{type(callback).__name__} watches {monitor} with mode {mode}, but {better} is better: "
        f"set its mode to {mode_of(monitor)} (the default is min)"
    )


def _nearest(name: str, names: list[str]) -> str:
    """Return a hint that also knows other libraries' names of a score: val_acc1, val_top1."""
    plain = name.replace("_", "/", 1) if "/" not in name else name
    return f"; did you mean {plain!r}?" if plain in names else nearest(plain, names)
