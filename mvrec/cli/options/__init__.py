"""The keys of `fit`, `validate`, `test` and `predict` and of their classes, without importing these.

`options.json` holds them, one line per key; `python -m mvrec.cli.options.make` writes it. A row has

- `kinds`: the types in the order in which they are tried: int, float, bool, str, null, path, choice, list, dict,
  class (a class path), mapping (keys of a dataclass, which have rows of their own), other;
- `choices`: the values of "choice";
- `default`, or `required`;
- `doc`: what the key means, as its docstring says;
- `commands`: which commands have the key, if not all four.

A class whose arguments are not all known has a row `*`.
"""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("options.json")
Row = dict[str, Any]
VERSIONED = ("torch", "lightning")  # whose classes the file knows as of one version


@functools.cache
def options() -> dict[str, Any]:
    """Return the file's content: `versions`, `commands` (rows by key), `classes` (rows by class path and key)."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def command_options(command: str) -> dict[str, Row]:
    """Return the rows of a command's own keys, such as "trainer.max_epochs".

    Args:
        command: "fit", "validate", "test" or "predict".
    """
    return {key: row for key, row in options()["commands"].items() if command in row.get("commands", (command,))}


def class_options(class_path: str) -> dict[str, Row] | None:
    """Return the rows of the arguments of a class, such as "clip.num_frames"; `None` for an unknown class."""
    return options()["classes"].get(class_path)


def class_names(package: str) -> list[str]:
    """Return the bare names of the classes of a package, such as "mvrec.data"."""
    return [path.rpartition(".")[2] for path in options()["classes"] if path.rpartition(".")[0] == package]


@functools.cache
def is_installed(library: str) -> bool:
    """Return whether a library's version is the one whose classes the file lists."""
    return version(library).partition("+")[0] == options()["versions"][library]
