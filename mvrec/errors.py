"""The two kinds of fault that callers tell apart from a bug, and their words. Importing this module costs nothing."""

import importlib.util
import os
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A fault of input: the command line prints it as one line, without a traceback, and exits with 2."""


class DecodeError(Exception):
    """A media file that cannot be opened or decoded.

    It pickles, so that it can cross from a data-loading process to the one that keeps the books.

    Attributes:
        path: the file, as it was asked for.
        cause: what is wrong with it, in a few words.
    """

    def __init__(self, path: str | os.PathLike[str], cause: str) -> None:
        self.path = os.fspath(path)
        self.cause = " ".join(cause.split())
        super().__init__(f"{self.path}: {self.cause}")

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        # Exception.__reduce__ would call the constructor with the one finished message.
        return type(self), (self.path, self.cause)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an error message: `"; did you mean 'x'?"`, or nothing when no known name is like it."""
    matches = get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def need(extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        UserError: With the command that installs them.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}: pip install 'mvrec[{extra}]'")
