"""Checks for numbers out of range in configs and flags, before anything is built or read.

Constructors check their arguments too, but know neither the file and line nor the flag of a value.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from mvrec.class_paths import reason
from mvrec.cli.config_check import CONFIG_ENDINGS, Entry, KnownKeys, class_path_of, reads_as_null
from mvrec.cli.options import class_names
from mvrec.cli.parse_errors import located
from mvrec.errors import UserError, nearest
from mvrec.files import shown
from mvrec.ranges import RANGES

NULLS = ("null", "~")
OURS = ("mvrec.", "torch.optim")
NAMES = tuple(f"trainer.{name}" for name in ("accelerator", "strategy", "devices", "precision", "profiler", "logger"))


def as_number(text: Any) -> float | None:
    """Return a scalar of YAML or a flag as a number, `None` if it is not one."""
    try:
        return float(re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", str(text).lower()))
    except ValueError:
        return None


def check_values(settings: Iterable[Entry], keys: KnownKeys) -> None:
    """Check the values that configs and flags set.

    Args:
        settings: Entries of configs and flags.
        keys: The accepted keys, with their types.

    Raises:
        UserError: The first number that is out of range, null where there must be a value, or a single value or file
            where there must be a mapping or a name.
    """
    for entry in settings:
        if entry.value is None or "[" in entry.key or not keys.owners.get(entry.key, "mvrec.").startswith(OURS):
            continue
        _check_bytes(entry)
        _check_data(entry)
        _check_kind(entry, keys)
        _check_number(entry)


def _check_bytes(entry: Entry) -> None:
    """Refuse bytes that are not UTF-8, which YAML, the form of settings, cannot hold."""
    if entry.key.startswith(("data.", "model.")) and entry.value != shown(entry.value):
        raise UserError(
            f"{entry.place}: {shown(entry.value)} has bytes that are not UTF-8, which settings cannot keep: rename "
            "the folder, or name a link to it"
        )


def _check_data(entry: Entry) -> None:
    """Check the class of the data; jsonargparse would complain about its arguments instead."""
    if entry.key != "data" or entry.value in ("", *NULLS) or entry.value.startswith("{"):
        return
    path = class_path_of(entry)
    if path is None and not entry.value.endswith(CONFIG_ENDINGS):
        raise UserError(f"{entry.place} must be a class such as VideoFolder, got {entry.value!r}")
    package, _, name = (path or "").rpartition(".")
    if package != "mvrec.data":
        return
    kinds = class_names(package)
    if name not in kinds:
        hint = nearest(name, kinds) or f" (one of {', '.join(sorted(kinds))})"
        if Path(name).is_dir():
            hint = f"; a folder of data is named by --data.root {name}"
        raise UserError(f"{entry.place}: {package} has no {name!r}{hint}")


def _check_kind(entry: Entry, keys: KnownKeys) -> None:
    hint = keys.hints.get(entry.key)
    alternatives = (hint, *get_args(hint))
    names = keys.group(entry.key)
    if _is_null(entry, alternatives):
        if names or (hint not in (None, Any) and type(None) not in alternatives):
            limits = RANGES.get(entry.name)
            raise UserError(f"{entry.place} must not be null{f', it must {limits.wanted()}' if limits else ''}")
        return
    if any(dataclasses.is_dataclass(kind) for kind in alternatives):
        names = keys.children(entry.key)
    is_mapping = entry.value.startswith("{") or entry.value.endswith(CONFIG_ENDINGS)
    if names and not is_mapping:
        listing = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
        hint = "; a scheduler of torch or timm goes to model.lr_scheduler" if entry.key == "model.schedule" else ""
        raise UserError(f"{entry.place} must be a mapping of keys ({listing}), got {entry.value!r}{hint}")
    if entry.key in NAMES and Path(entry.value).is_file():  # jsonargparse would take what the file holds
        raise UserError(f"{entry.place} must be a name or a number, got the file {entry.value!r}")


def _is_null(entry: Entry, kinds: Sequence[Any]) -> bool:
    """Return whether YAML reads a value as null, such as Null, a lone anchor, or an empty value in a file."""
    if entry.value in NULLS or str in kinds:
        return entry.value in NULLS
    return reads_as_null(entry.value) and bool(entry.value or not entry.where.startswith("-"))


def _check_number(entry: Entry) -> None:
    limits, number = RANGES.get(entry.name), as_number(entry.value)
    wrong = entry.value.startswith("{") if number is None else limits is not None and not limits.holds(number)
    if limits is not None and wrong:
        raise UserError(f"{entry.place} must {limits.wanted(number)}, got {entry.value}")


@contextmanager
def refusals(settings: Sequence[Entry]) -> Iterator[None]:
    """Turn refusals of data, model and trainer into errors of the user.

    Raises:
        UserError: The refusal, with the place of the value.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        yield
    except MemoryError as raised:
        raise UserError(located(f"more memory than there is is asked for {raised}", settings)) from None
    except (ArithmeticError, ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as raised:
        raise UserError(located(reason(raised).partition(" Exception raised from ")[0], settings)) from None
