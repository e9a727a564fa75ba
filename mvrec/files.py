"""Writing files so that nobody ever sees half of one, and knowing a file wherever it is copied to."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what bytes of file names become that are not


def write_atomically(path: Path, text: str) -> None:
    """Write a text file: into a temporary sibling first, then renamed. Bytes of file names stay as they are."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON with letters as they are; bytes of file names that are not UTF-8 are escaped, as `os.fsdecode` has them."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _NOT_UTF8.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(text: str) -> str:
    """Text for what takes UTF-8 only: bytes of file names that are not become visible with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write into, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # noqa: PTH101 - mkstemp gives 0600, which nobody else could read
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
