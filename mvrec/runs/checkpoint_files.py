"""Checkpoints that are whole or not there, and the newest of them that can be gone on from."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mvrec.files import atomic_path
from mvrec.models.checkpoints.files import StoredWeights, read_weights

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"

log = logging.getLogger(__name__)


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, through to the disk, and gives it its name last.

    What was `last.ckpt` before becomes `previous.ckpt`, to fall back on. The file's own format (a zip archive) has a
    CRC-32 of every tensor, by which `is_whole` finds damage.

    Args:
        read: The checkpoint that was read for its settings: the trainer is handed it in place of a second reading. Its
            tensors are mapped privately from the file, so a step never writes to the file, nor does a new file of the
            same name change them. Strategies that shard weights read for themselves.
    """

    def __init__(self, read: StoredWeights | None = None) -> None:
        super().__init__()
        self.read = read

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Hand out the checkpoint that was read already, once; read any other file."""
        read, self.read = self.read, None
        if read is not None and Path(path) == Path(read.source):
            return read.content
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: The file.
            storage_options: Not used.

        Raises:
            OSError: The disk is full or may not be written to; the file, if there was one, is as before.
        """
        path = Path(path)
        with atomic_path(path) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as raised:
                # torch, closing its archive, hides the system's error behind one about positions in the file.
                cause = raised if isinstance(raised, OSError) else raised.__context__
                if isinstance(cause, OSError):
                    raise OSError(cause.errno, cause.strerror, str(path)) from None
                raise
            if path.name == LAST and path.is_file():
                path.replace(path.with_name(PREVIOUS))


def is_whole(path: Path) -> bool:
    """Return whether every byte of a checkpoint's tensors is as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


class Found(NamedTuple):
    """A checkpoint of a run, by how far it got."""

    step: int
    modified_ns: int
    path: Path


def newest_checkpoint(folder: Path) -> Found | None:
    """Return the whole checkpoint in a folder that is furthest in training; damaged ones are named in a warning.

    Those of weights alone are passed over: a run cannot go on from them.

    Args:
        folder: A run's `checkpoints`.
    """
    found, damaged = [], []
    for path in sorted(folder.glob("*.ckpt")) if folder.is_dir() else []:
        step = _step(path)
        if step is None:
            damaged.append(path)
        elif step >= 0:
            found.append(Found(step, path.stat().st_mtime_ns, path))
    for candidate in sorted(found, reverse=True):
        if is_whole(candidate.path):
            break
        damaged.append(candidate.path)
    else:
        candidate = None
    for path in damaged:
        log.warning("%s is damaged: %s", path, "the one before is taken" if candidate else "it is not used")
    return candidate


def _step(path: Path) -> int | None:
    """At which optimiser step a checkpoint was saved, -1 for one of weights alone, `None` for what cannot be read."""
    try:
        checkpoint = read_weights(path).content
        return int(checkpoint["global_step"]) if "optimizer_states" in checkpoint else -1
    except Exception:  # a damaged file shows itself as anything; the caller says that it is damaged
        return None
