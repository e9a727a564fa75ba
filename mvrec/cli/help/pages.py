"""`--help`, `--help TOPIC` and `--KEY.help CLASS` of `fit`, `validate`, `test` and `predict`, without torch."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from mvrec.cli.config_check import class_path_of, entries, expand_configs
from mvrec.cli.help.hints import OURS
from mvrec.cli.help.rows import HOMES, as_text, class_names, class_rows, command_rows, home_of, kinds_text, matching
from mvrec.cli.help.short import short_help
from mvrec.errors import UserError, nearest

WIDTH = 110


def help_page(command: str, arguments: Sequence[str]) -> str | None:
    """Return the page that a command line asks for.

    Args:
        command: "fit", "validate", "test" or "predict".
        arguments: The rest of the command line.

    Returns:
        The page; `None` where no help is asked for, or that of a class that only its module knows.

    Raises:
        UserError: There is no such topic.
    """
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        topic = value if equals else "" if following.startswith("-") else following
        if name in ("-h", "--help"):
            return topic_page(command, topic, arguments) if topic else short_help(command)
        if home := re.fullmatch(r"--(.+)\.help", name):
            topic = f"{home[1]}.{topic.rpartition('.')[2]}" if topic else home[1]
            return topic_page(command, topic, arguments) if _is_ours(topic, value or following) else None
    return None


def topic_page(command: str, topic: str, arguments: Sequence[str]) -> str:
    """Return the help of a key, of a group of keys, of a class, or of all keys ("all").

    Args:
        command: "fit", "validate", "test" or "predict".
        topic: Such as "trainer", "data.augment", "data.Kinetics", "lr" or "all".
        arguments: The command line, whose classes are those whose keys are shown.

    Raises:
        UserError: There is no such topic.
    """
    home, _, name = topic.rpartition(".")
    if home in HOMES and name in class_names(home):
        return _page(f"the keys of {HOMES[home][0]}.{name}", class_rows(home, name))
    classes = _named_classes(arguments)
    rows = command_rows(command, classes)
    if topic == "all":
        return _page(f"every key of mvrec {command}", rows) + "\n" + _classes_text(command, list(HOMES), classes)
    keys = list(matching(rows, topic)) or list(matching(rows, OURS.get(topic.replace("-", "_"), topic)))
    if not keys and (elsewhere := _of_other_class(topic)) is not None:
        home, name = elsewhere
        return _page(f"of {HOMES[home][0]}.{name}", {k: v for k, v in class_rows(home, name).items() if k == topic})
    if not keys:
        raise UserError(f"--help: there is no key or group {topic!r}{nearest(topic, rows)} (--help all lists all)")
    homes = [home for home in HOMES if topic == home or (home_of(topic) == home and home != topic)]
    about = f"mvrec {command}: {topic}"
    return _page(about, {key: rows[key] for key in keys}) + "\n" + _classes_text(command, homes, classes)


def _is_ours(topic: str, value: str) -> bool:
    """Return whether the file of options has a topic of `--KEY.help VALUE`."""
    home, _, name = topic.rpartition(".")
    return home not in HOMES or (name in class_names(home) and value in (name, f"{HOMES[home][0]}.{name}"))


def _named_classes(arguments: Sequence[str]) -> dict[str, str]:
    """Return the classes that flags and configs name, by key."""
    classes = {}
    for entry in entries(list(expand_configs(arguments))):
        path = class_path_of(entry) or entry.value
        if entry.key in HOMES and isinstance(path, str) and path.rpartition(".")[2] in class_names(entry.key):
            classes[entry.key] = path.rpartition(".")[2]
    return classes


def _of_other_class(topic: str) -> tuple[str, str] | None:
    """Return the first class with a key that the default class lacks."""
    home = home_of(topic)
    return next(((home, name) for name in class_names(home) if topic in class_rows(home, name)), None) if home else None


def _classes_text(command: str, homes: Sequence[str], classes: dict[str, str]) -> str:
    lines = []
    for home in homes:
        shown = classes.get(home, HOMES[home][1])
        names = textwrap.fill(
            ", ".join(class_names(home)), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        lines += [
            f"Keys below {home} are those of {shown}; of another class: mvrec {command} --help {home}.CLASS",
            names,
        ]
    return "\n".join(lines) + "\n" if lines else ""


def _page(title: str, rows: dict[str, Any]) -> str:
    lines = [title, ""]
    for key, row in rows.items():
        default = "required" if row.get("required") else f"default: {as_text(row.get('default'))}"
        if "mapping" in row["kinds"] and any(other.startswith(f"{key}.") for other in rows):
            default = "default: see below" if row.get("default") is not None else default
        lines.append(f"--{key} {kinds_text(row)}  ({default})")
        if row.get("doc"):
            lines += textwrap.wrap(row["doc"], WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"
