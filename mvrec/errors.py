"""The two kinds of error that callers tell apart from a bug. Importing this module costs nothing."""

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """A fault of the user's input: the command line prints one line without a traceback and exits with code 2."""


class PartError(UserError):
    """A fault in a part of the user's own, such as a loss, by the exception that it raised."""


class DecodeError(Exception):
    """A media file that cannot be opened or decoded.

    It can be pickled, so that it travels from a loader worker to the main process.

    Attributes:
        path: The file, as the caller named it.
        cause: The fault in a few words.
    """

    def __init__(self, path: str | os.PathLike[str], cause: str) -> None:
        self.path = os.fspath(path)
        self.cause = " ".join(cause.split())
        super().__init__(f"{self.path}: {self.cause}")

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        # Exception.__reduce__ would call the constructor with the one finished message.
        return type(self), (self.path, self.cause)


def nearest(name: str, names: Iterable[str], *, likeness: float = 0.6) -> str:
    """Return a hint for an error message, `"; did you mean 'x'?"`, or "" when no valid name is similar.

    Args:
        name: As it was written.
        names: Those that exist.
        likeness: How similar two names must be at least, 0..1; names that differ in case alone always are.
    """
    match = _match(name, list(names), likeness)
    return "" if match is None else f"; did you mean {match!r}?"


def nearest_path(path: Path, *, folders_only: bool = False) -> str:
    """Return such a hint for a path that does not exist: its first wrong part may be another one's misspelling.

    Args:
        path: As it was written.
        folders_only: Whether no file is meant.
    """
    wrong = next((part for part in (path, *path.parents) if part.parent.is_dir()), None)
    if wrong is None:
        return ""
    names = [other.name for other in wrong.parent.iterdir() if other.is_dir() or not folders_only]
    if (match := _match(wrong.name, names, likeness=0.6)) is None:
        return ""
    right = wrong.with_name(match)
    below = right / path.relative_to(wrong)
    return f"; did you mean {str(below if below.exists() else right)!r}?"


def _match(name: str, names: list[str], likeness: float) -> str | None:
    matches = [other for other in names if other.lower() == name.lower()]
    return next(iter(matches or get_close_matches(name, names, n=1, cutoff=likeness)), None)


def need(extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        UserError: With the command that installs them.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}: {install_hint(extra)}")


def install_hint(extra: str) -> str:
    """Return the command that installs an extra: into the environment of a clone, or next to an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / "pyproject.toml").is_file():
        return f"pip install 'mvrec[{extra}]'"
    pip = Path(sys.executable).with_name("pip")
    command = [_from_here(pip)] if pip.is_file() else [sys.executable, "-m", "pip"]
    return f"{shlex.join([*command, 'install', '-e'])} '{_from_here(root)}[{extra}]'"


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
