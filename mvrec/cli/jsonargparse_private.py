"""The private names of jsonargparse that mvrec relies on; `parse_errors` reads its messages.

pyproject.toml lets in the one minor version for which `tests/cli/test_jsonargparse_private.py` holds both.
"""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from mvrec.cli.config_check import as_value


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


def with_deep_nulls(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return arguments with null two or more names below a class as a mapping, which means the same.

    jsonargparse reads `--data.clip.target_fps null` and hands it to the class's own parser as the text "None".

    Args:
        parser: The parser.
        arguments: Flags and values.
    """
    owners = [action.dest for action in parser._actions if "_typehint" in vars(action)]
    changed = list(arguments)
    for place, argument in enumerate(arguments):
        flag, equals, text = argument.partition("=")
        text = text if equals else "".join(arguments[place + 1 : place + 2])
        owner = max((name for name in owners if flag.startswith(f"--{name}.")), key=len, default=None)
        if owner is None or not _has_null(text):
            continue
        first, *names = flag.removeprefix(f"--{owner}.").removeprefix("init_args.").split(".")
        if names:
            deep = [f"--{owner}.{first}", json.dumps(_nested(names, as_value(text)))]
            changed[place : place + 2 - bool(equals)] = ["=".join(deep)] if equals else deep
    return changed


def _has_null(text: str) -> bool:
    """Return whether YAML reads null in a text that is not empty."""
    values = [as_value(text)] if text else []
    while values:
        value = values.pop()
        values += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        if value is None:
            return True
    return False


def _nested(names: Sequence[str], value: Any) -> Any:
    for name in reversed(names):
        value = {name: value}
    return value
