"""The record of the runs of a sweep that have ended well."""

import json
import threading
from pathlib import Path

from mvrec.errors import UserError
from mvrec.files import json_text, write_atomically
from mvrec.sweep.children import Trial

RECORD = "sweep.json"  # the flags of each finished run, by the name of its folder
_lock = threading.Lock()


def finished_runs(folder: Path) -> dict[str, list[str]]:
    """Return the flags of the finished runs in a sweep's folder, by the name of their folder.

    Raises:
        UserError: The record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): without it, every run is asked again whether it is finished"
        ) from None


def finish(folder: Path, trial: Trial) -> int:
    """Record that a run has ended well; return how many have."""
    with _lock:
        runs = finished_runs(folder) | {trial.name: list(trial.flags)}
        write_atomically(folder / RECORD, json_text(runs, indent=2) + "\n")
        return len(runs)


def say(text: str) -> None:
    """Print a line about the sweep at once."""
    print(f"mvrec: {text}", flush=True)  # noqa: T201
