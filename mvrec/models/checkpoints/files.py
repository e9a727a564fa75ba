"""Files of weights: reads them without running anything in them, and finds the network among what else they hold."""

import os
import pickle
import re
import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvrec.class_paths import renewed
from mvrec.errors import UserError, nearest
from mvrec.files import at_home, stand_in

Source = str | os.PathLike[str] | Mapping[str, Any]

# Where training codes keep the network, the averaged weights first: they are what the authors evaluate.
ENTRIES = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "model_state",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "network",
)


class _Settings:
    """Stands in for the argument namespaces that training codes pickle beside the weights: it keeps nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
NUMPY_KINDS = (np.float64, np.float32, np.int64, np.int32, np.bool_)
# Settings and scores as published files hold them, read as plain containers: nothing of theirs is ever run.
HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Settings, "argparse.Namespace"),
    (OrderedDict, "yacs.config.CfgNode"),
    (OrderedDict, "fvcore.common.config.CfgNode"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in NUMPY_KINDS),
]
EXTRACT = (
    "import sys, torch; source, out = sys.argv[1:]; "
    'd = torch.load(source, map_location="cpu", weights_only=False); '
    f"d = next((d[k] for k in {ENTRIES} if isinstance(d, dict) and k in d), d); ".replace("'", '"')
    + 'd = d.state_dict() if hasattr(d, "state_dict") else d; torch.save(dict(d), out)'
)


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of one network as a file names them.

    Attributes:
        tensors: By the file's own names.
        source: The path, or "state dict".
        entry: Dotted path inside the file, "" for its top level.
        details: What else the file says of the network, such as `mvrec`'s own model card.
        content: All that the file holds, as it holds it.
    """

    tensors: dict[str, Tensor]
    source: str
    entry: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def is_checkpoint(self) -> bool:
        """Return whether `mvrec fit` has written the file."""
        return "mvrec" in self.content

    @property
    def model_settings(self) -> dict[str, Any]:
        """A copy of how the run of a checkpoint configured its model; empty for weights of another kind."""
        return self._settings("hyper_parameters")

    @property
    def data_settings(self) -> dict[str, Any]:
        """A copy of how the run of a checkpoint configured its data; empty for weights of another kind."""
        return self._settings("datamodule_hyper_parameters")

    def _settings(self, key: str) -> dict[str, Any]:
        settings = self.content.get(key)
        return renewed(settings) if self.is_checkpoint and isinstance(settings, dict) else {}


Stamp = tuple[Path, int, int, int]  # a file in the state in which it was read
_read: ContextVar[dict[Stamp, StoredWeights] | None] = ContextVar("_read", default=None)


@contextmanager
def each_file_once() -> Iterator[None]:
    """Return inside this context `read_weights` reads a file a single time, as long as the file does not change.

    A command asks one file for its settings, its classes and its weights. Its path reaches some of these places as the
    text of a configuration, so what was read cannot be handed to them. Nothing is kept after the outermost context.
    """
    token = _read.set({}) if _read.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _read.reset(token)


def forget_files() -> None:
    """Let go of what `each_file_once` keeps, before a run that takes days."""
    (_read.get() or {}).clear()


def read_weights(source: Source) -> StoredWeights:
    """Read a `.safetensors` file, any torch checkpoint or a state dict; wrappers around the network are left out.

    Of a run directory its best checkpoint is read. Tensors of a zip or `.safetensors` file are mapped: their bytes are
    read when they are used.

    Raises:
        UserError: No file, a damaged one, one that holds more than tensors and settings, or no tensors in it.
    """
    if isinstance(source, Mapping):
        return _network(source, "state dict", {})
    path = at_home(source)
    if path.is_dir():
        path = weights_in(path)
    if not path.exists():
        others = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), others)}")
    if wrong := stand_in(path):
        raise UserError(f"{path}: the file is {wrong}")
    kept = _read.get()
    if kept is None:
        return _read_file(path)
    state = path.stat()
    stamp = (path.resolve(), state.st_mtime_ns, state.st_size, state.st_ino)
    if stamp not in kept:
        kept[stamp] = _read_file(path)
    return replace(kept[stamp], source=str(path))


def _read_file(path: Path) -> StoredWeights:
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
        return _network(tensors, str(path), metadata)
    tree = _read_torch(path)
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: holds a {type(tree).__name__}, not a dictionary with weights")
    known = tree.get("mvrec")
    return _network(tree, str(path), dict(known) if isinstance(known, Mapping) else {})


def weights_in(folder: Path) -> Path:
    """Of a run directory the best checkpoint, else the last; of a folder that `mvrec hub` has made the weights.

    Raises:
        UserError: There is none.
    """
    places = [place / name for place in (folder / "checkpoints", folder) for name in ("best.ckpt", "last.ckpt")]
    found = next((place for place in [*places, folder / "model.safetensors"] if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{folder} is a folder without checkpoints/best.ckpt, checkpoints/last.ckpt or model.safetensors"
        )
    return found


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    # Eight bytes of header length, then JSON.
    return head[8:] == b"{" or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        card = json.loads(metadata.get("mvrec", "{}"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged or no safetensors file: {_first_line(error)}") from None
    return tensors, card


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals(HARMLESS):
            # Mapped, so that optimiser states beside the weights are never read from disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(path, str(error))}") from None
    except Exception as error:  # a damaged file shows itself as anything: a RuntimeError, EOFError, KeyError ...
        raise UserError(f"{path}: {unreadable(error)}") from error


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return "damaged, truncated or no torch checkpoint (its pickle cannot be read)"
    command = shlex.join(["python", "-c", EXTRACT, str(path), str(path.with_suffix(".weights.pth"))])
    return (
        f"holds a {found.group(1)} beside its weights, and loading that could run code of whoever wrote the file; "
        f"if you trust them, extract the weights once: {command}"
    )


def unreadable(error: BaseException) -> str:
    """Why torch could not read a checkpoint, in a few words."""
    if "central directory" in str(error):  # which is the end of a zip archive
        return "truncated: an unfinished download or copy"
    return f"damaged, truncated or no torch checkpoint: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0]


def _network(tree: Mapping[str, Any], source: str, details: dict[str, Any]) -> StoredWeights:
    for entry, candidate in _candidates(tree, ""):
        tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
        if tensors:
            return StoredWeights(tensors, source, entry, details, dict(tree))
    names = ", ".join(map(repr, list(tree)[:8])) or "nothing"
    raise UserError(f"{source}: no weights found; it holds {names} and none of {', '.join(ENTRIES)} with tensors")


def _candidates(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the mappings that may be the network, the likeliest first."""
    for entry in ENTRIES:
        below = tree.get(entry)
        if isinstance(below, Mapping):
            yield from _candidates(below, f"{prefix}.{entry}".lstrip("."))
    yield prefix, tree
