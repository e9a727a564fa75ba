"""The private names of jsonargparse that mvrec relies on; `parse_errors` reads its messages.

pyproject.toml lets in the one minor version for which `tests/cli/test_jsonargparse_private.py` holds both.
"""

from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser


def change_types(parser: ArgumentParser, keys: Container[str], change: Callable[[Any], Any]) -> None:
    """Change the types of some of a parser's keys.

    Args:
        parser: The parser.
        keys: Dotted names of its arguments.
        change: The new type of an old one.
    """
    for action in parser._actions:
        if action.dest in keys:
            vars(action)["_typehint"] = change(vars(action)["_typehint"])


class Argument(NamedTuple):
    """One argument of a parser: dotted name, type, default, whether it must be given, and its help."""

    name: str
    hint: Any
    default: Any
    required: bool
    help: str | None


def arguments_of(parser: ArgumentParser) -> Iterator[Argument]:
    """Yield the arguments of a parser that have a type."""
    for action in parser._actions:
        if (hint := vars(action).get("_typehint")) is not None and not action.dest.endswith(".help"):
            yield Argument(action.dest, hint, action.default, action.required, action.help)
