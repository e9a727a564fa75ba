"""The private names of jsonargparse that mvrec relies on; what its messages say is read in `parse_errors`.

pyproject.toml lets in the one minor version for which `tests/cli/test_jsonargparse_private.py` holds both.
"""

from collections.abc import Callable, Container
from typing import Any

from jsonargparse import ArgumentParser


def change_types(parser: ArgumentParser, keys: Container[str], change: Callable[[Any], Any]) -> None:
    """Change what a parser takes for some keys that a signature has given it.

    Args:
        parser: The parser.
        keys: Dotted names of its arguments.
        change: The new type of an old one.
    """
    for action in parser._actions:
        if action.dest in keys:
            vars(action)["_typehint"] = change(vars(action)["_typehint"])
