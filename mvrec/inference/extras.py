"""Packages that only some commands need."""

import importlib.util

from mvrec.errors import UserError


def need(extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        UserError: With the command that installs them.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}: pip install 'mvrec[{extra}]'")
