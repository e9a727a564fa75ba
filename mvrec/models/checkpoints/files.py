"""Files of weights: reads them without running code in them, and finds the network among their content."""

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

from mvrec.array_pickles import ENDINGS as PICKLES
from mvrec.array_pickles import read_pickle
from mvrec.class_paths import renewed
from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home, stand_in, weights_in
from mvrec.models.checkpoints.detector_files import detector_facts
from mvrec.models.checkpoints.segmenters import mmseg_facts
from mvrec.weights.cache import fetched_path

Source = str | os.PathLike[str] | Mapping[str, Any]

# Entries in which training codes keep the network; averaged weights come first, because authors evaluate them.
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
    """A placeholder for the argument namespaces that training codes pickle with the weights; it keeps nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # of files before version 1.6
NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
NUMPY_ARRAY: Callable[..., Any] = np.zeros(0).__reduce__()[0]  # type: ignore[assignment]
NUMPY_KINDS = (np.float64, np.float32, np.int64, np.int32, np.bool_)
# Settings and scores in published files, read as plain containers: none of their code runs.
HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Settings, "argparse.Namespace"),
    (OrderedDict, "yacs.config.CfgNode"),
    (OrderedDict, "fvcore.common.config.CfgNode"),
    (_Settings, "mmengine.logging.history_buffer.HistoryBuffer"),  # curves of losses, which are arrays
    np.ndarray,
    (NUMPY_ARRAY, "numpy._core.multiarray._reconstruct"),
    (NUMPY_ARRAY, "numpy.core.multiarray._reconstruct"),
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
    """The tensors of one network under a file's names.

    Attributes:
        tensors: Tensors by the file's names.
        source: The path, or "state dict".
        entry: Dotted path inside the file, "" for its top level.
        details: The file's facts about the network, such as `mvrec`'s own model card.
        content: The whole content of the file.
    """

    tensors: dict[str, Tensor]
    source: str
    entry: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def is_checkpoint(self) -> bool:
        """Whether `mvrec fit` wrote the file."""
        return "mvrec" in self.content

    @property
    def model_settings(self) -> dict[str, Any]:
        """A copy of the model's settings in a checkpoint of a run; empty for other weights."""
        return self._settings("hyper_parameters")

    @property
    def data_settings(self) -> dict[str, Any]:
        """A copy of the data's settings in a checkpoint of a run; empty for other weights."""
        return self._settings("datamodule_hyper_parameters")

    def _settings(self, key: str) -> dict[str, Any]:
        settings = self.content.get(key)
        return renewed(settings) if self.is_checkpoint and isinstance(settings, dict) else {}


Stamp = tuple[Path, int, int, int]  # a file and its state
_read: ContextVar[dict[Stamp, StoredWeights] | None] = ContextVar("_read", default=None)


@contextmanager
def each_file_once() -> Iterator[None]:
    """Make `read_weights` read each unchanged file only once inside this context.

    A command needs one file's settings, classes and weights. The file's path reaches some of these places as the
    text of a configuration, so its content cannot be passed on. Nothing is kept after the outermost context.
    """
    token = _read.set({}) if _read.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _read.reset(token)


def forget_files() -> None:
    """Free the content kept by `each_file_once`, before a run that takes days."""
    (_read.get() or {}).clear()


def read_weights(source: Source) -> StoredWeights:
    """Read a `.safetensors` file, any torch checkpoint or a state dict; skip wrappers around the network.

    Of a run directory its best checkpoint is read, of a name of published weights the file that was fetched. Tensors
    of a zip or `.safetensors` file are mapped: their bytes are read on use.

    Raises:
        UserError: The file is missing, not fetched or damaged, holds more than tensors and settings, or no tensors.
    """
    if isinstance(source, Mapping):
        return _network(source, "state dict", {})
    path = fetched_path(source) or at_home(source)
    if path.is_dir():
        path = weights_in(path)
    if not path.exists():
        raise UserError(f"{path}: no such file{nearest_path(path)}")
    if wrong := stand_in(path):
        raise UserError(f"{path}: the file is {wrong}")
    files = _read.get()
    if files is None:
        return _read_file(path)
    state = path.stat()
    stamp = (path.resolve(), state.st_mtime_ns, state.st_size, state.st_ino)
    if stamp not in files:
        files[stamp] = _read_file(path)
    return replace(files[stamp], source=str(path))


def _read_file(path: Path) -> StoredWeights:
    if path.suffix in PICKLES and _is_plain_pickle(path):
        return _network(as_tensors(read_pickle(path, noun="arrays")), str(path), {})
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
        return _network(tensors, str(path), metadata)
    tree = _read_torch(path)
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: holds a {type(tree).__name__}, not a dictionary with weights")
    card = tree.get("mvrec")
    return _network(tree, str(path), dict(card) if isinstance(card, Mapping) else {})


def _is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a pickle, as detectron2 writes it, and not one of torch's, which begin with a number."""
    with path.open("rb") as file:
        start = file.read(64)
    return start[:1] == b"\x80" and TORCH_MAGIC not in start


def as_tensors(tree: Any) -> Any:
    """Return dictionaries within dictionaries with tensors in place of their arrays of numbers."""
    if isinstance(tree, Mapping):
        return {key: as_tensors(value) for key, value in tree.items()}
    is_array = isinstance(tree, np.ndarray) and tree.dtype.kind in "fiub"
    return torch.from_numpy(np.array(tree)) if is_array else tree  # a copy, as arrays of pickles may be read-only


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
        raise UserError(f"{path}: damaged or not a safetensors file: {_first_line(error)}") from None
    return tensors, card


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals(HARMLESS):
            # Mapped, so that optimiser states in the file are never read from disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(path, str(error))}") from None
    except Exception as error:  # a damaged file may raise any error: RuntimeError, EOFError, KeyError ...
        raise UserError(f"{path}: {unreadable(error)}") from error


def _refusal(path: Path, message: str) -> str:
    match = re.search(r"GLOBAL ([\w.]+)", message)
    if match is None:
        return "damaged, truncated or not a torch checkpoint (its pickle cannot be read)"
    command = shlex.join(["python", "-c", EXTRACT, str(path), str(path.with_suffix(".weights.pth"))])
    return (
        f"holds a {match.group(1)} besides its weights, and loading that could run code of the file's author; "
        f"if you trust them, extract the weights once: {command}"
    )


def unreadable(error: BaseException) -> str:
    """Return why torch could not read a checkpoint, in a few words."""
    if "central directory" in str(error):  # the end of a zip archive
        return "truncated: an unfinished download or copy"
    return f"damaged, truncated or not a torch checkpoint: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0]


def _network(tree: Mapping[str, Any], source: str, details: dict[str, Any]) -> StoredWeights:
    for entry, candidate in _candidates(tree, ""):
        tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
        if tensors:
            facts = details or mmseg_facts(tensors, tree) or detector_facts(tensors, tree)
            return StoredWeights(tensors, source, entry, facts, dict(tree))
    names = ", ".join(map(repr, list(tree)[:8])) or "nothing"
    raise UserError(f"{source}: no weights found; it holds {names} and none of {', '.join(ENTRIES)} with tensors")


def _candidates(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the mappings that may be the network, the likeliest first."""
    for entry in ENTRIES:
        below = tree.get(entry)
        if isinstance(below, Mapping):
            yield from _candidates(below, f"{prefix}.{entry}".lstrip("."))
    yield prefix, tree
