"""The two kinds of value files: flags line by line, and ranges to search."""

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mvrec.errors import UserError
from mvrec.sweep.children import Trial

_MOST_LETTERS = 80  # of a folder's name
RANGE_KEYS = {"low", "high", "log", "step", "choices"}


def read_lines(path: Path, folder: Path) -> list[Trial]:
    """Return the run of each line of a file of flags, such as `--model.optimizer.lr 1e-3 --data.batch_size 4`.

    Quotes are a shell's; empty lines and comments are skipped.

    Raises:
        UserError: The file cannot be read, a line is damaged, or two lines are equal.
    """
    line_of: dict[str, int] = {}
    trials = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            flags = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {line.strip()!r}: {error}") from None
        if not flags:
            continue
        if not flags[0].startswith("--"):
            raise UserError(f"{path}:{number}: {flags[0]!r} is no flag; a line is such as --model.optimizer.lr 1e-3")
        name = folder_name(flags)
        if name in line_of:
            raise UserError(f"{path}:{number} has the flags of line {line_of[name]}: a sweep runs each once")
        line_of[name] = number
        trials.append(Trial(name, tuple(flags), folder / name))
    if not trials:
        raise UserError(f"{path} has no line of flags, such as --model.optimizer.lr 1e-3")
    return trials


def folder_name(flags: list[str]) -> str:
    """Return a readable name for a run's folder: its flags without the common words."""
    text = ",".join(flag.removeprefix("--") for flag in " ".join(flags).replace(" --", "\0--").split("\0"))
    text = re.sub(r"\b(model|data|trainer|optimizer|init_args)\.", "", text).replace(" ", "=")
    name = re.sub(r"[^\w.=,+-]+", "_", text).strip(".")
    if name == text and len(name) <= _MOST_LETTERS:
        return name
    return f"{name[:_MOST_LETTERS]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Range:
    """The values of one key.

    Attributes:
        key: The key, without dashes.
        choices: Its values; empty for a range of numbers.
        low: The smallest number.
        high: The largest one.
        log: Whether orders of magnitude are searched evenly.
        step: The distance of whole numbers; `None` for any number.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: int | None = None


def read_ranges(path: Path) -> list[Range]:
    """Return the ranges in a YAML file, a key of the configuration each: `{low, high, log, step}` or `{choices}`.

    Raises:
        UserError: The file cannot be read, or an entry is no range.
    """
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}") from None
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} has no ranges, such as model.optimizer.lr: {{low: 1e-4, high: 1e-2, log: true}}")
    return [_range(f"{path}: {key}", str(key), entry) for key, entry in content.items()]


def _range(where: str, key: str, entry: Any) -> Range:
    if not isinstance(entry, Mapping) or not entry or set(entry) - RANGE_KEYS:
        raise UserError(f"{where}: give {{low, high}}, with log or step if needed, or {{choices: [...]}}, not {entry}")
    if "choices" in entry:
        if not isinstance(entry["choices"], list) or not entry["choices"]:
            raise UserError(f"{where}: choices is a list of values, not {entry['choices']}")
        return Range(key, tuple(entry["choices"]))
    try:
        low, high = float(entry["low"]), float(entry["high"])  # YAML reads 1e-3 as text
        step = None if entry.get("step") is None else int(entry["step"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: low and high are numbers, step is a whole one, not {dict(entry)}") from None
    if not low < high:
        raise UserError(f"{where}: low is {low:g} and high {high:g}; low is the smaller one")
    if entry.get("log") and low <= 0:
        raise UserError(f"{where}: low is {low:g}; with log it is above 0")
    return Range(key, (), low, high, bool(entry.get("log")), step)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
