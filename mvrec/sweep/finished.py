"""The record of a sweep: its configuration, and its runs that have ended well."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import at_home, json_text, sha256, write_atomically
from mvrec.recipes import find_config
from mvrec.sweep.children import Trial

RECORD = "sweep.json"
_lock = threading.Lock()


@dataclass(frozen=True)
class Finished:
    """A run that has ended well.

    Attributes:
        flags: Its flags.
        is_pruned: Whether a search ended it early.
    """

    flags: list[str]
    is_pruned: bool = False


def begin(folder: Path, config: str, flags: Sequence[str]) -> None:
    """Record what all runs of a folder have in common; an earlier sweep that has trained there must have had the same.

    Raises:
        UserError: It had not, or its record is damaged.
    """
    named = configs(config, flags)
    digests = [sha256(at_home(path)) for path in named]
    common = {"config": config, "config_sha256": digests, "flags": list(flags)}
    record = _read(folder)
    if record and not record["runs"] and not any(folder.glob("*/checkpoints/*.ckpt")):
        record = {}  # all failed at once, perhaps by the flags that are now corrected
    for key, noun in (
        ("config", "another configuration"),
        ("flags", "other flags"),
        ("config_sha256", "another configuration"),
    ):
        if record and record.get(key) != common[key]:
            earlier = record.get(key) if key != "config_sha256" else "an earlier version of " + " or of ".join(named)
            text = " ".join(earlier) if isinstance(earlier, list) else earlier
            raise UserError(
                f"{folder} holds a sweep with {noun}, {text or 'none'}: choose another folder with --run_dir, "
                "or delete this one"
            )
    if not record:
        write_atomically(folder / RECORD, json_text({**common, "runs": {}}, indent=2) + "\n")


def configs(config: str, flags: Sequence[str]) -> list[str]:
    """Return the configurations of all runs: the one of the sweep, then those of `--config` among further flags.

    Raises:
        UserError: One does not exist.
    """
    names = [config]
    for flag, after in zip(flags, [*flags, ""][1:], strict=True):
        if flag == "--config" or flag.startswith("--config="):
            names.append(flag.partition("=")[2] or after)
    return [find_config(name) for name in names]


def finished_runs(folder: Path) -> dict[str, Finished]:
    """Return the finished runs in a sweep's folder, by the name of their folder.

    Raises:
        UserError: The record is damaged.
    """
    return {name: Finished(**run) for name, run in _read(folder).get("runs", {}).items()}


def finish(folder: Path, trial: Trial, *, is_pruned: bool = False) -> int:
    """Record that a run has ended well; return how many have."""
    with _lock:
        record = _read(folder)
        runs = record.get("runs", {}) | {trial.name: {"flags": list(trial.flags), "is_pruned": is_pruned}}
        write_atomically(folder / RECORD, json_text({**record, "runs": runs}, indent=2) + "\n")
        return len(runs)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for run in record["runs"].values():
            Finished(**run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to let each run say whether it has finished") from None
    return dict(record)


def say(text: str) -> None:
    """Print a line about the sweep at once."""
    print(f"mvrec: {text}", flush=True)  # noqa: T201
