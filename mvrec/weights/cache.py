"""Fetched files of weights in the user's cache, by their published name."""

import json
import os
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import sha256, stand_in, user_cache, write_atomically
from mvrec.weights.table import FILES, WeightsFile, published_file


def place_of(file: WeightsFile) -> Path:
    """Return where a file lies once it is fetched."""
    return user_cache() / "weights" / f"{file.name}{file.suffix}"


def fetched_path(source: str | os.PathLike[str]) -> Path | None:
    """Return the fetched file of a published name; None for the path of a file or folder, and for any other text.

    An existing file or folder of that name is meant first.

    Raises:
        UserError: The name is published, and its file is not here, or is another one.
    """
    name = os.fspath(source)
    file = published_file(name)
    if file is None or Path(name).exists():
        return None
    place = place_of(file)
    if not place.is_file():
        raise UserError(f"the weights {file.name} are not on this machine: mvrec weights get {file.name}")
    if record_of(place) is None:
        keep(file, place)
    return place


def keep(file: WeightsFile, path: Path, *, sha: str | None = None, served: str | None = None) -> dict[str, Any]:
    """Check a whole file and record its source next to it.

    Args:
        file: The published file that it should be.
        path: Where it lies.
        sha: A SHA-256 that the server stated.
        served: The address that it came from; None for a file that was put there by hand.

    Returns:
        The record: `name`, `page`, `address`, `bytes`, `sha256`, and `checked`, by what.

    Raises:
        UserError: It is another file, or unfinished.
    """
    if wrong := stand_in(path):
        raise UserError(f"{path}: the file is {wrong}")
    digest = sha256(path)
    expected = file.sha256 or sha
    if expected is not None and not digest.startswith(expected.lower()):
        raise UserError(f"{path}: its SHA-256 is {digest}, that of {file.name} begins with {expected[:16]}")
    record = {
        "name": file.name,
        "page": file.page,
        "address": served,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "checked": "SHA-256" if expected is not None else "length" if served else None,
    }
    write_atomically(_record_place(place_of(file)), json.dumps(record, indent=2) + "\n")
    return record


def record_of(path: Path) -> dict[str, Any] | None:
    """Return the record of a file in the cache; None if it has none, or another size by now."""
    try:
        record = json.loads(_record_place(path).read_text(encoding="utf-8"))
        return record if record["bytes"] == path.stat().st_size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def origin_of(source: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of published weights, by their name or by their path in the cache; None for other files."""
    file = published_file(os.fspath(source))
    path = Path(source) if file is None or Path(source).exists() else place_of(file)
    if path.parent != user_cache() / "weights" or path.stem not in FILES:
        return None
    return record_of(path)


def _record_place(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
