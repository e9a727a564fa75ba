"""The keys of `fit`, `validate`, `test` and `predict` and of the classes they name, known without importing these.

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
VERSIONED = ("torch", "lightning")  # whose classes the file knows as of one version


@functools.cache
def options() -> dict[str, Any]:
    """The file's content: `versions`, `commands` (rows by dotted key), `classes` (rows by class path, then by key)."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def command_options(command: str) -> dict[str, dict[str, Any]]:
    """The rows of a command's own keys, such as "trainer.max_epochs".

    Args:
        command: "fit", "validate", "test" or "predict".
    """
    return {key: row for key, row in options()["commands"].items() if command in row.get("commands", (command,))}


def class_options(class_path: str) -> dict[str, dict[str, Any]] | None:
    """The rows of the arguments of a class, such as "clip.num_frames"; `None` of a class that the file lacks."""
    return options()["classes"].get(class_path)


def is_installed(library: str) -> bool:
    """Whether the version of a library is the one whose classes the file knows."""
    return version(library).partition("+")[0] == options()["versions"][library]
