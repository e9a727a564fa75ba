"""Writes `options.json`: the keys of `fit`, `validate`, `test` and `predict`, and those of the classes they name.

python -m mvrec.cli.options.make

The command line checks keys and values against that file before it imports torch and Lightning, and help reads it.
tests/cli/test_options.py holds it equal to the parser and the signatures.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docstring_parser import parse
from lightning.pytorch.cli import LightningArgumentParser

from mvrec import data, models, tasks
from mvrec.cli.config_check import own_parameters
from mvrec.cli.jsonargparse_private import arguments_of
from mvrec.cli.lightning import MvrecCLI, build
from mvrec.cli.options import FILE, VERSIONED, Row
from mvrec.lightning_private import OpenCLI
from mvrec.models.backbone import Backbone

PLAIN = {int: "int", float: "float", bool: "bool", str: "str", types.NoneType: "null", Path: "path"}
CONTAINERS = {list: "list", tuple: "list", dict: "dict"}
REFERENCE = re.compile(r"See `\w+`")  # in place of a text
# Whose classes configurations name by their bare names, and what marks one.
HOMES = {
    "torch.optim": "Optimizer",
    "lightning.pytorch.callbacks": "Callback",
    "lightning.pytorch.loggers": "Logger",
}


class ParsersCLI(MvrecCLI):
    """Makes the parsers of all commands, and stops there."""

    subcommands = staticmethod(OpenCLI.subcommands)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Raise the command line, whose parsers are made by now."""
        raise ParsersMade(self)


class ParsersMade(Exception):  # noqa: N818 - no error
    """Carries the command line out of its constructor, which would run the command."""

    def __init__(self, command_line: MvrecCLI) -> None:
        self.command_line = command_line


def make_options() -> dict[str, Any]:
    """Return all keys in the form of `options.json`."""
    return {
        "versions": {name: version(name).partition("+")[0] for name in VERSIONED},
        "commands": _by_commands(_command_rows()),
        "classes": {path: _own_first(_rows(target, path)) for path, target in sorted(_classes())},
    }


def _own_first(rows: Iterator[tuple[str, Row]]) -> dict[str, Row]:
    """Return rows by key; a class's own come before its parents', which they replace.

    A text "See `Parent`; by default ..." takes the parent's text in place of the reference.
    """
    first: dict[str, Row] = {}
    for key, row in rows:
        argument = first.setdefault(key, row)
        if (reference := REFERENCE.match(argument.get("doc", ""))) and "doc" in row and row is not argument:
            first[key] = {**argument, "doc": row["doc"].rstrip(".") + argument["doc"][reference.end() :]}
    return first


def _by_commands(tables: dict[str, dict[str, Row]]) -> dict[str, Row]:
    """Merge the tables of all commands; a row that some commands lack names the others."""
    rows: dict[str, Row] = {}
    for command, table in tables.items():
        for key, row in table.items():
            rows.setdefault(key, {**row, "commands": []})["commands"].append(command)
    for row in rows.values():
        if len(row["commands"]) == len(tables):
            del row["commands"]
    return rows


def _command_rows() -> dict[str, dict[str, Row]]:
    tables = {}
    try:
        command_line = build(ParsersCLI, ["fit", "--print_config"])
    except ParsersMade as error:
        command_line = error.command_line
    for command in command_line.subcommands():
        parser = command_line.parser_of(command)
        rows = {name: _row(hint, default, required, doc) for name, hint, default, required, doc in arguments_of(parser)}
        tables[command] = {key: rows.get(key, {"kinds": ["other"]}) for key in _keys_of(parser)}
    return tables


def _keys_of(parser: LightningArgumentParser) -> list[str]:
    """Return a parser's own keys, without those of its default classes."""
    keys = parser.get_defaults().keys()  # dotted, while iterating gives the first level
    return [key for key in keys if ".init_args" not in key and ".class_path" not in key]


def _classes() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in data.__all__:
        if hasattr(kind := getattr(data, name), "train_dataloader"):
            yield f"mvrec.data.{name}", kind
    for name in models.__all__:
        target = getattr(models, name)
        is_network = isinstance(target, type) and issubclass(target, Backbone) and target is not Backbone
        if is_network or name in models.list_models() or name == "create_model":
            yield f"mvrec.models.{name}", target
    yield from ((f"mvrec.tasks.{name}", getattr(tasks, name)) for name in tasks.__all__ if name != "Task")
    for module, base in HOMES.items():
        home = import_module(module)
        for name, kind in vars(home).items():
            if isinstance(kind, type) and issubclass(kind, getattr(home, base)) and not name.startswith("_"):
                yield f"{module}.{name}", kind


def _rows(target: Callable[..., Any], path: str) -> Iterator[tuple[str, Row]]:
    """Yield the arguments of a class or function, including those of `**knobs` and of dataclasses."""
    call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        parameters, hints = own_parameters(target), typing.get_type_hints(call)
    except (ValueError, TypeError, NameError):
        yield "*", {"kinds": ["other"]}
        return
    docs = _docs(target)
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield from _rest(target, path)
            continue
        hint, required = hints.get(parameter.name), parameter.default is parameter.empty
        default = None if required else parameter.default
        yield parameter.name, _row(hint, default, required, docs.get(parameter.name))
        for kind in typing.get_args(hint) or (hint,):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                for name, row in _rows(kind, path):
                    yield f"{parameter.name}.{name}", _with_default(row, default, name)


def _with_default(row: Row, owner: Any, name: str) -> Row:
    """Return a row of a dataclass with its owner's default."""
    for part in name.split("."):
        if not hasattr(owner, part):  # it is None, or a class without a default
            return row
        owner = getattr(owner, part)
    return {**row, "default": _as_json(owner)}


def _rest(target: Callable[..., Any], path: str) -> Iterator[tuple[str, Row]]:
    parents = target.__mro__[1:] if isinstance(target, type) else ()
    parent = next((kind for kind in parents if "__init__" in vars(kind)), None)
    if parent is not None and parent.__module__.startswith("mvrec."):
        yield from _rows(parent, path)
    else:
        yield "*", {"kinds": ["other"]}


def _docs(target: Callable[..., Any]) -> dict[str, str]:
    texts = [inspect.getdoc(target), inspect.getdoc(target.__init__) if isinstance(target, type) else None]  # type: ignore[misc]
    return {item.arg_name: item.description or "" for text in texts if text for item in parse(text).params}


def _row(hint: Any, default: Any, required: bool, doc: str | None) -> Row:
    kinds = list(dict.fromkeys(_kinds(hint)))
    if {"int", "float"} <= {*kinds}:  # typing gives an equal union from its cache, in whatever order that has
        kinds = ["int", "float", *(kind for kind in kinds if kind not in ("int", "float"))]
    choices = list(dict.fromkeys(_choices(hint)))
    return {
        "kinds": kinds,
        **({"choices": choices} if choices else {}),
        **({"required": True} if required else {"default": _as_json(default)}),
        **({"doc": " ".join(doc.split())} if doc else {}),
    }


def _kinds(hint: Any) -> Iterator[str]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for kind in typing.get_args(hint):
            yield from _kinds(kind)
    elif origin is typing.Literal:
        yield "choice"
    elif hint in PLAIN:
        yield PLAIN[hint]
    elif (origin or hint) in CONTAINERS:
        yield CONTAINERS[origin or hint]
    elif isinstance(hint, type):
        yield "mapping" if dataclasses.is_dataclass(hint) else "class"
    else:
        yield "other"


def _choices(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Literal:
        yield from typing.get_args(hint)
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for kind in typing.get_args(hint):
            yield from _choices(kind)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else getattr(value, "__qualname__", str(value))


def as_text(options: dict[str, Any]) -> str:
    """Return the file's text, with one line per key."""
    lines = [f'{{"versions": {json.dumps(options["versions"])},', ' "commands": {']
    lines += _lines(options["commands"], " ")
    lines += [" },", ' "classes": {']
    for path, rows in options["classes"].items():
        lines += [f'  "{path}": {{', *_lines(rows, "  "), "  },"]
    lines[-1] = "  }"
    return "\n".join([*lines, " }", "}"]) + "\n"


def _lines(rows: dict[str, Row], indent: str) -> list[str]:
    lines = [f"{indent} {json.dumps(key)}: {json.dumps(row, ensure_ascii=False)}," for key, row in rows.items()]
    return [*lines[:-1], lines[-1].removesuffix(",")] if lines else []


if __name__ == "__main__":
    FILE.write_text(as_text(make_options()), encoding="utf-8")
