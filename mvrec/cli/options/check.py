"""Checks a command line before torch and Lightning are imported, as far as `options.json` knows its keys."""

import dataclasses
import functools
import itertools
import operator
import re
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mvrec.class_paths import is_class_path
from mvrec.cli.backbone_names import check_networks
from mvrec.cli.config_check import (
    CONFIG_ENDINGS,
    Entry,
    KnownKeys,
    class_entries,
    class_path_of,
    entries,
    expand_configs,
    expand_flags,
    flags,
    last_value,
    reads_as_null,
    refuse_unknown,
)
from mvrec.cli.help.hints import stray_hint
from mvrec.cli.options import Row, class_names, class_options, command_options, is_installed
from mvrec.cli.options.loggers import check_loggers
from mvrec.cli.parse_errors import HOMES, PLAIN_KINDS, WHICH_NETWORK, not_expected, said_of_key
from mvrec.cli.planning import data_of_folder, is_annotations, is_planned, of_folders_task, task_of_folder
from mvrec.cli.value_check import as_number, check_values
from mvrec.data import GENERATED
from mvrec.data.listing.root import check_root
from mvrec.data.views.presets import preset
from mvrec.errors import UserError, nearest, nearest_path
from mvrec.files import at_home, stand_in, weights_in
from mvrec.plan.kinds import ANNOTATED
from mvrec.weights.cache import fetched_path
from mvrec.weights.table import FILES

TASK = "mvrec.tasks.Classification"
OPTIMIZER = "torch.optim.AdamW"  # of a task, unless another one is named
CHECKPOINT_KEYWORDS = ("best", "last", "hpc", "registry")
READABLE = frozenset({"int", "float", "bool", "null", "choice"})  # kinds that not every text is of
CHOICE_OR_CLASS = frozenset({"choice", "str"})  # a name or the class path of one's own
NO_VALUE = r"=|^--print_config|help$"  # in flags that stand alone
BOOLS = frozenset(["true", "false", "yes", "no", "on", "off", "y", "n"])


@dataclasses.dataclass
class AnyDataclass:
    """Stands for a dataclass in a type."""


class AnyClass:
    """Stands for a class in a type."""


TYPES: dict[str, Any] = {
    **{"int": int, "float": float, "bool": bool, "str": str, "null": types.NoneType, "path": Path},
    **{"list": list, "dict": dict, "choice": str, "class": AnyClass, "mapping": AnyDataclass, "other": Any},
}


class ListedKeys(KnownKeys):
    """The keys that a command accepts, those of classes as `options.json` lists them.

    Below a class that is not listed, anything goes.

    Args:
        command: "fit" and so on.
        settings: What configs and flags set.
        open_model: Whether the task is not known, whose arguments stand below `model`.
    """

    def __init__(self, command: str, settings: Iterable[Entry], *, open_model: bool) -> None:
        self.rows = {key: row for key, row in command_options(command).items() if _is_as_listed(key)}
        classes = class_entries({"model": {"class_path": TASK, "optimizer": {"class_path": OPTIMIZER}}})
        super().__init__(command_options(command), [*classes, *settings])
        self._open.update(key for key in ("trainer", "checkpoint") if not _is_as_listed(f"{key}."))
        if open_model:
            self._open.add("model")
            self.rows = {key: row for key, row in self.rows.items() if not key.startswith("model.")}

    def _add_class(self, entry: Entry, class_path: Any) -> None:
        if not isinstance(class_path, str) or not class_path or class_path.startswith("{"):
            return
        path = class_path if is_class_path(class_path) else f"{HOMES.get(entry.key)}.{class_path}"
        rows = class_options(path) if _is_as_listed(path) else None
        self._unnamed.discard(entry.key)
        for name, row in (rows or {"*": {"kinds": ["other"]}}).items():
            if name == "*":
                self._open.add(entry.key)
            else:
                self._add_row(f"{entry.key}.{name}", row, owner=path)

    def _add_row(self, key: str, row: Row, *, owner: str) -> None:
        self._add(key)
        self.rows[key], self.owners[key] = row, owner
        self.hints[key] = functools.reduce(operator.or_, (TYPES[kind] for kind in row["kinds"]))
        if not {*row["kinds"]} <= {*READABLE, "str", "mapping"}:
            self._unnamed.add(key)


def _is_as_listed(path: str) -> bool:
    """Return whether the installed version of the library of a class or key is the one that the file lists."""
    library = {"trainer": "lightning", "checkpoint": "lightning"}.get(path.partition(".")[0], path.partition(".")[0])
    return library not in ("torch", "lightning") or is_installed(library)


def check_early(args: Sequence[str]) -> None:
    """Check what needs neither torch nor Lightning: keys, plain values, names of ours, files that must exist.

    Args:
        args: "fit", "validate", "test" or "predict", and its arguments.

    Raises:
        UserError: Bad input.
    """
    command, *arguments = args
    _check_strays(command, arguments)
    arguments = [*expand_flags([*expand_configs(arguments)])]
    has_checkpoint = command != "fit" and bool(arguments) and not arguments[0].startswith("-")
    if has_checkpoint:
        _check_weights(at_home(arguments.pop(0)), noun="checkpoint")
    settings = entries(arguments)
    _check_protocol(command, settings)
    check_networks(settings)
    if not has_checkpoint:  # two checkpoints are refused as such later
        _check_files(settings)
    has_checkpoint |= any(last_value(settings, key) is not None for key in ("ckpt_path", "resume"))
    names = [name for name, _ in flags(arguments)]
    is_help = any(name.endswith(".help") for name in names)
    is_run = not is_help and not any(name.startswith("--print_config") for name in names)
    fault: UserError | None = None
    has_plan = is_planned(command, settings)
    if has_plan and not is_help and not has_checkpoint:
        try:
            task = task_of_folder(settings)
            settings = [data_of_folder(settings), *([task] if task else []), *of_folders_task(settings, task)]
        except UserError as error:  # another mistake comes first, as of any root
            fault = error
    elif is_run and not has_checkpoint:
        _check_data(command, settings)
    is_open = has_checkpoint or fault is not None or _has_own_task(settings)  # the folder that has it names the task
    accepted = ListedKeys(command, settings, open_model=is_open)
    keys = [entry for entry in settings if entry.key != "model"]
    refuse_unknown(keys, accepted)
    check_values(keys, accepted)
    _check_kinds(keys, accepted.rows)
    if is_run:
        check_loggers(keys)
    if fault is not None:
        raise fault
    if is_run:
        _check_root(settings)
    if command == "fit" and is_run and not has_checkpoint and not _has_own_task(settings):
        _check_network(settings, has_plan=has_plan)


def _check_strays(command: str, arguments: Sequence[str]) -> None:
    """Refuse arguments that are neither a flag nor its value; commands other than `fit` take one, which comes first."""
    rest = iter(arguments)
    if command != "fit" and arguments and not arguments[0].startswith("-"):
        next(rest)
    previous = ""
    for argument in rest:
        is_value = previous.startswith("-") and "=" not in previous
        if not argument.startswith("--") and argument not in ("-c", "-h") and not is_value:
            raise UserError(stray_hint(argument, accepts_checkpoint=command != "fit"))
        previous = "" if is_value and not argument.startswith("--") else argument
    for argument, following in itertools.pairwise([*arguments, "--"]):
        if argument.startswith("--") and following.startswith("--") and not re.search(NO_VALUE, argument):
            raise UserError(f"{argument} needs {'the path of a file' if argument == '--config' else 'a value'}")


def _check_protocol(command: str, settings: Sequence[Entry]) -> None:
    if (named := last_value(settings, "protocol")) is None:
        return
    if command in ("fit", "validate"):
        raise UserError(f"{named.where}: a protocol is for test and predict, {command} has data.val_views")
    preset(named.value, where=named.where)


def _check_files(settings: Sequence[Entry]) -> None:
    """Check that the files exist which a command reads first."""
    checkpoint, weights = last_value(settings, "ckpt_path"), last_value(settings, "model.weights")
    if checkpoint is not None:
        if checkpoint.value not in CHECKPOINT_KEYWORDS:
            _check_weights(at_home(checkpoint.value), where=f"{checkpoint.where}: ", noun="checkpoint")
    elif weights is not None and last_value(settings, "resume") is None:  # to resume, the first weights are not needed
        _check_weights(at_home(weights.value), where=f"{weights.where}: ")


def _check_weights(path: Path, *, where: str = "", noun: str = "file") -> None:
    """Check that a path may hold weights: a file, a folder with one, or the name of published ones."""
    try:
        path = fetched_path(path) or path
        if not path.exists():
            hint = nearest_path(path) or nearest(str(path), FILES, likeness=0.8)
            raise UserError(f"there is no {noun} {str(path)!r}{hint}")
        file = weights_in(path) if path.is_dir() else path
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    if file.is_file() and (wrong := stand_in(file)):
        raise UserError(f"{where}{file}: the file is {wrong}")


def _check_data(command: str, settings: Sequence[Entry]) -> None:
    """Check that data are named where no checkpoint says them; the cause may be a misspelt key."""
    from_weights = last_value(settings, "model.weights") is not None and last_value(settings, "model.backbone") is None
    if not from_weights and all(last_value(settings, key) is None for key in ("data", "data.root")):
        modules = [Entry("data", f"mvrec.data.{name}", "", is_class=True) for name in class_names("mvrec.data")]
        keys = ListedKeys(command, [*modules, *settings], open_model=_has_own_task(settings))
        refuse_unknown([entry for entry in settings if entry.key != "model"], keys)
        raise UserError(missing_data(command, settings))


def _check_network(settings: Sequence[Entry], *, has_plan: bool) -> None:
    """Check that a network is named where neither weights nor a plan choose one."""
    is_named = any(last_value(settings, key) is not None for key in ("model.weights", "model.backbone"))
    if not has_plan and not is_named:
        raise UserError(WHICH_NETWORK)


def missing_data(command: str, settings: Sequence[Entry]) -> str:
    """Say that no data module is named, and how to name one."""
    if command == "fit":
        return "which data? --data.root FOLDER (your videos or images in class folders), or --data one of mvrec.data"
    text = "which data? --data VideoFolder (or another of mvrec.data)"
    weights, backbone = last_value(settings, "model.weights"), last_value(settings, "model.backbone")
    if weights is None:
        return f"{text}, or --model.weights FILE, whose network says it"
    if backbone is None:
        return f"{text}: {weights.value} does not say it"
    return f"{text}: {weights.value} says it only where model.backbone is left out ({backbone.where})"


def _has_own_task(settings: Sequence[Entry]) -> bool:
    named = [entry.value for entry in settings if entry.key == "model" and isinstance(entry.value, str)]
    return any(name not in ("Classification", TASK) and not name.startswith("{") for name in named if name)


def _check_kinds(settings: Iterable[Entry], rows: dict[str, Row]) -> None:
    """Check values of keys that take numbers, true and false, or one of some names."""
    for entry in settings:
        row = rows.get(entry.key)
        if row is not None and isinstance(entry.value, str) and not _may_be(entry.value, row):
            expected = dict.fromkeys(_in_words(kind, row) for kind in row["kinds"])
            raise UserError(not_expected(entry.place, entry.key, entry.value, [*expected]))


def _may_be(text: str, row: Row) -> bool:
    is_choice_or_class = {*row["kinds"]} == CHOICE_OR_CLASS
    if not ({*row["kinds"]} <= READABLE or is_choice_or_class) or text.startswith(("{", "[")):
        return True
    if text.endswith(CONFIG_ENDINGS):
        return True
    number = as_number(text)
    holds = {
        "int": number is not None and (number.is_integer() or "." not in text),
        "float": number is not None,
        "bool": text.lower() in BOOLS,
        "null": reads_as_null(text),
        "choice": text in map(str, row.get("choices", ())),
        "str": is_class_path(text),
    }
    return text == "" or any(holds[kind] for kind in row["kinds"])


def _in_words(kind: str, row: Row) -> str:
    if {*row["kinds"]} == CHOICE_OR_CLASS and kind == "str":
        return "the class path of your own"
    return f"one of {', '.join(map(repr, row['choices']))}" if kind == "choice" else PLAIN_KINDS.get(kind, kind)


def _check_root(settings: Sequence[Entry]) -> None:
    """Check that the folder exists that a flag names, for data modules of ours that read one.

    The folder that a recipe names is checked when the data are read: another mistake comes first.
    """
    data, root = last_value(settings, "data"), last_value(settings, "data.root")
    path = None if data is None else class_path_of(data)
    if (
        root is None
        or not root.where.startswith("--")
        or path is None
        or path.removeprefix("mvrec.data.") in GENERATED
        or class_options(path) is None
    ):
        return
    try:
        if path != f"mvrec.data.{ANNOTATED}" or not is_annotations(at_home(root.value)):
            check_root(at_home(root.value))
    except UserError as error:
        raise UserError(said_of_key(str(error), settings)) from None
