"""The two kinds of error that callers tell apart from a bug. Importing this module costs nothing."""

import importlib.util
import os
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A fault of the user's input: the command line prints one line without a traceback and exits with code 2."""


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


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an error message, `"; did you mean 'x'?"`, or "" when no valid name is similar."""
    matches = get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def need(extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        UserError: With the command that installs them.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}: pip install 'mvrec[{extra}]'")
