"""Atomic checkpoint files, and the newest one from which a run can resume."""

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
    """Checkpoint I/O that writes a temporary file, flushes it to disk, and renames it last.

    The earlier `last.ckpt` becomes `previous.ckpt`, as a fallback. The file format (a zip archive) has a CRC-32 of
    every tensor, by which `is_whole` detects damage.

    Args:
        read: A checkpoint that was read for its settings: the trainer gets it instead of reading it again. Its tensors
            are mapped privately from the file, so neither a step nor a new file of that name changes the other.
            Strategies that shard weights read for themselves.
    """

    def __init__(self, read: StoredWeights | None = None) -> None:
        super().__init__()
        self.read = read

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint that was already read, once; read any other file."""
        read, self.read = self.read, None
        if read is not None and Path(path) == Path(read.source):
            return read.content
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: The content.
            path: The file.
            storage_options: Not used.

        Raises:
            OSError: The disk is full or read-only; an earlier file of that name is unchanged.
        """
        path = Path(path)
        with atomic_path(path) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as raised:
                # When torch closes its archive, it hides the system's error behind one about positions in the file.
                cause = raised if isinstance(raised, OSError) else raised.__context__
                if isinstance(cause, OSError):
                    raise OSError(cause.errno, cause.strerror, str(path)) from None
                raise
            if path.name == LAST and path.is_file():
                path.replace(path.with_name(PREVIOUS))


def is_whole(path: Path) -> bool:
    """Return whether every byte of a checkpoint's tensors has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


class Candidate(NamedTuple):
    """A checkpoint of a run, ordered by progress."""

    step: int
    modified_ns: int
    path: Path


def newest_checkpoint(folder: Path) -> Candidate | None:
    """Return the undamaged checkpoint in a folder with the most training; warn about damaged ones.

    Checkpoints of weights alone are skipped: a run cannot resume from them.

    Args:
        folder: A run's `checkpoints`.
    """
    checkpoints, damaged = [], []
    for path in sorted(folder.glob("*.ckpt")) if folder.is_dir() else []:
        step = _step(path)
        if step is None:
            damaged.append(path)
        elif step >= 0:
            checkpoints.append(Candidate(step, path.stat().st_mtime_ns, path))
    for candidate in sorted(checkpoints, reverse=True):
        if is_whole(candidate.path):
            break
        damaged.append(candidate.path)
    else:
        candidate = None
    for path in damaged:
        log.warning("%s is damaged: %s", path, "using the one before" if candidate else "it is not used")
    return candidate


def _step(path: Path) -> int | None:
    """Return the optimiser step of a checkpoint, -1 for weights alone, `None` for an unreadable file."""
    try:
        checkpoint = read_weights(path).content
        return int(checkpoint["global_step"]) if "optimizer_states" in checkpoint else -1
    except Exception:  # a damaged file may raise any error; the caller reports the damage
        return None
