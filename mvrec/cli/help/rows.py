"""The keys of a command with their types, defaults and meanings, from `options.json`: no import of torch."""

from collections.abc import Iterator
from typing import Any

from mvrec.cli.options import Row, class_options, command_options
from mvrec.cli.options import class_names as names_in

# Whose classes a key takes by their bare names, and the class whose keys stand for all of them.
HOMES = {
    "data": ("mvrec.data", "VideoFolder"),
    "model.backbone": ("mvrec.models", "mvit_b_16x4"),
    "model.optimizer": ("torch.optim", "AdamW"),
    "trainer.callbacks": ("lightning.pytorch.callbacks", "EarlyStopping"),
    "trainer.logger": ("lightning.pytorch.loggers", "TensorBoardLogger"),
}
# What tasks have as their default in place of the optimiser's own; tests/cli/test_help.py holds both equal.
TASK_DEFAULTS = {"model.optimizer": "AdamW", "model.optimizer.lr": 0.001, "model.optimizer.weight_decay": 0.05}
KINDS = {"class": "CLASS", "mapping": "KEYS", "other": "VALUE", "null": "null"}


def home_of(key: str) -> str:
    """Return the key that takes a class and that a key is or stands below; "" for other keys."""
    return max((home for home in HOMES if key == home or key.startswith(f"{home}.")), key=len, default="")


def class_names(home: str) -> list[str]:
    """Return the bare names of the classes that a key takes."""
    return names_in(HOMES[home][0])


def class_rows(home: str, name: str) -> dict[str, Row]:
    """Return the keys of a class, as they are written on the command line."""
    rows = class_options(f"{HOMES[home][0]}.{name}") or {}
    return {f"{home}.{key}": row for key, row in rows.items() if key not in ("*", "params")}


def command_rows(command: str, classes: dict[str, str]) -> dict[str, Row]:
    """Return all keys of a command, those of one class per home included.

    Args:
        command: "fit", "validate", "test" or "predict".
        classes: The class of each home whose keys are meant; by default that of `HOMES`.
    """
    rows = {key: row for key, row in command_options(command).items() if key != "verbose"}
    rows.setdefault("model.optimizer", {"kinds": ["class"], "doc": "Makes the optimiser."})
    for home, (_, standard) in HOMES.items():
        rows |= class_rows(home, classes.get(home, standard))
    for key, value in TASK_DEFAULTS.items():
        if key in rows and classes.get("model.optimizer", "AdamW") == "AdamW":
            rows[key] = {**rows[key], "default": value}
    return rows


def default_text(command: str, key: str) -> str:
    """Return the default of a key as text, "" for a key that has none."""
    row = command_rows(command, {}).get(key, {})
    if row.get("required"):
        return "required"
    default = row.get("default")
    return "" if default is None or "kinds" not in row else as_text(default)


def as_text(value: Any) -> str:
    """Return a value as it would be written on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_text, value))}]"
    return str(value)


def kinds_text(row: Row) -> str:
    """Return what a key takes: `int|null`, or its choices."""
    parts: list[str] = []
    for kind in row["kinds"]:
        parts += [str(choice) for choice in row["choices"]] if kind == "choice" else [KINDS.get(kind, kind)]
    return "|".join(dict.fromkeys(parts))


def matching(rows: dict[str, Row], topic: str) -> Iterator[str]:
    """Yield the keys that a topic means: itself and those below it, else keys that end in it."""
    inside = [key for key in rows if key == topic or key.startswith(f"{topic}.")]
    yield from inside or [key for key in rows if key.endswith(f".{topic}")]
