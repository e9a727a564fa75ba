"""Settings that a run takes over from files: a checkpoint that is tested or resumed, weights that it starts from."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mvrec.config_check import Entry
from mvrec.errors import UserError, nearest
from mvrec.starting_point import build_from, starting_point
from mvrec.training.checkpoint_files import newest_checkpoint

CHECKPOINT_KEYWORDS = ("best", "last", "hpc")

log = logging.getLogger("mvrec")


def last_value(given: Sequence[Entry], key: str) -> Entry | None:
    """The entry of a key that counts, `None` where it is not set or set to null."""
    # A mapping has no value of its own: what it holds are entries too.
    entry = next((entry for entry in reversed(given) if entry.key == key and entry.value is not None), None)
    return None if entry is None or entry.value in ("", "null", "~") else entry


def resumed(given: Sequence[Entry], run_dir: Path) -> Path | None:
    """The checkpoint that `--resume auto` goes on from, `None` for a fresh start.

    Args:
        given: What configs and flags set.
        run_dir: The run's directory.
    """
    entry = last_value(given, "resume")
    if entry is None or entry.value != "auto":
        return None
    dirpath = last_value(given, "checkpoint.dirpath")
    folder = run_dir / "checkpoints" if dirpath is None else Path(dirpath.value)
    found = newest_checkpoint(folder)
    if found is None:
        log.info("resume: nothing to go on from in %s, a fresh start", folder)
        return None
    log.info("resume: going on from %s at step %d", found.path, found.step)
    return found.path


def inherited(given: Sequence[Entry], *, checkpoint: Entry | None) -> dict[str, Any]:
    """What files say of model and data, as parser defaults: flags and configs win over them.

    Args:
        given: What configs and flags set.
        checkpoint: The path of a checkpoint to test or resume; it knows all, so weights to start from are not read.

    Raises:
        UserError: A file that is missing or of another kind.
    """
    if checkpoint is not None and checkpoint.value not in CHECKPOINT_KEYWORDS:
        return checkpoint_defaults(Path(checkpoint.value), where=checkpoint.where)
    weights = last_value(given, "model.weights")
    if weights is None or last_value(given, "model.backbone") is not None:
        return {}
    start = starting_point(weights.value, where=weights.where)
    log.info("start from %s", start.summary)
    return {"model.backbone": start.backbone, "data": start.data}


def checkpoint_defaults(path: Path, *, where: str) -> dict[str, Any]:
    """How the model and the data of a checkpoint were configured, as parser defaults.

    Raises:
        UserError: No file, or no checkpoint of ours.
    """
    if not path.is_file():
        others = [str(other) for other in path.parent.glob("*.ckpt")] if path.parent.is_dir() else []
        raise UserError(f"{where}: checkpoint {str(path)!r} does not exist{nearest(str(path), others)}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"{where}: cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "mvrec" not in checkpoint:
        raise UserError(f"{where}: {path} is not a checkpoint that `mvrec fit` has written")
    saved = checkpoint.get("hyper_parameters", {})
    defaults = {f"model.{key}": value for key, value in saved.items() if not key.startswith("_")}
    build_from(str(path), defaults.get("model.backbone"))
    defaults["model.weights"] = None  # a checkpoint has its own
    data = checkpoint.get("datamodule_hyper_parameters", {})
    return {**defaults, "data": dict(data)} if data else defaults
