"""Refusals of values by jsonargparse, Lightning and torch as one plain line with the place."""

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mvrec.class_paths import attempts, import_problem
from mvrec.cli.config_check import Entry, class_path_of, resolve
from mvrec.cli.help.hints import PRECISIONS
from mvrec.errors import nearest

PLAIN_KINDS = {
    **{"int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a mapping"},
    **dict.fromkeys(("tuple", "list", "Sequence", "Iterable"), "a list"),
}
CLASS_NAME = "a class name such as package.module.Class"
# Whose classes a key takes by their bare names.
HOMES = {
    "model.optimizer": "torch.optim",
    "trainer.callbacks": "lightning.pytorch.callbacks",
    "trainer.logger": "lightning.pytorch.loggers",
}

WHICH_NETWORK = (
    "which network? --model.backbone NAME (mvrec models lists them), or --model.weights FILE, which has one; mvrec fit "
    "--data.root FOLDER alone chooses one"
)
PLAIN_WORDS = [
    (
        "No supported gpu backend found!",
        "trainer.accelerator gpu: torch finds no GPU here: use --trainer.accelerator cpu, or run mvrec doctor",
    ),
    (
        r"You selected an invalid accelerator name: `accelerator='(.*?)'`.*",
        r"trainer.accelerator: '\1' is not one of auto, cpu, gpu, cuda, mps, tpu",
    ),
    (
        r"You selected an invalid strategy name: `strategy='(.*?)'`.*",
        r"trainer.strategy: '\1' is not one of auto, ddp, ddp_find_unused_parameters_true, fsdp, deepspeed",
    ),
    (
        r"`Trainer\(devices='?(.*?)'?\)` value is not a valid input using (\w+) accelerator\.",
        r"trainer.devices: \1 is not a number of devices for \2: give 1 or more, or auto",
    ),
    (
        r"Requirement '(transformer_engine\S*)' not met.*",
        r"trainer.precision: transformer-engine needs the package \1: choose 16-mixed or bf16-mixed, or install it",
    ),
    (
        r"The filesystem tracking backend \(e\.g\., './mlruns'\).*",
        "trainer.logger: MLflow keeps runs in a database: add --trainer.logger.tracking_uri sqlite:///mlflow.db",
    ),
    (r"When passing string value for the `profiler` parameter.*one of \[(.*)\]", r"trainer.profiler is one of \1"),
]


def explain(message: str, settings: Sequence[Entry]) -> str:
    """Turn jsonargparse's message about a value into one line: where, key, value, what was expected."""
    parser_key = re.search(r'Parser key "([^"]+)"', message)
    if parser_key is None:
        return _of_arguments(message, settings)
    key = parser_key.group(1)
    message = re.sub(r"Config file loop detected: (\S+) -> \S+", r"\1 holds no settings for it", message)
    entry = next((e for e in reversed(settings) if e.key == key or e.key.endswith(f".{key}")), None)
    place = key if entry is None else entry.place
    if problem := _of_class(message, entry, key, settings):
        return problem
    expected, cause = _expected(message), attempts(message)
    if cause or not expected:
        return f"{place}: {cause or ' '.join(message[parser_key.end() :].strip(': ').split())}"
    if entry is not None and entry.value is None:  # a list of classes, of which one is wrong
        items = [item for item in settings if re.fullmatch(rf"{re.escape(entry.key)}\[\d+\]", item.key)]
        if (wrong := next((item for item in items if _kind(item) is None), None)) is not None:
            entry, place, expected = wrong, wrong.place, [CLASS_NAME]
    value = _given_value(message) if entry is None or entry.value is None else entry.value
    return not_expected(place, key, value, expected)


def not_expected(place: str, key: str, value: str, expected: Sequence[str]) -> str:
    """Say that a value is none of those that a key takes.

    Args:
        place: Where it stands.
        key: The key.
        value: The value.
        expected: What the key takes, such as "a whole number", "one of 'a', 'b'", "null".
    """
    if key == "trainer.precision" and value.lower() in PRECISIONS:
        return f"{place}: unknown precision {value!r}; did you mean {PRECISIONS[value.lower()]!r}?"
    return f"{place}: {value!r} is not {_alternatives(expected, key)}{_value_hint(str(value), expected, key)}"


def _alternatives(expected: Sequence[str], key: str) -> str:
    """Return the expected values, with all names in one list."""
    if list(expected) == ["null"]:
        return CLASS_NAME
    names = [text.removeprefix("one of ") for text in expected if text.startswith("one of ")]
    others = [text for text in expected if not text.startswith("one of ")]
    if key not in HOMES and len(expected) > 1:
        others = [text for text in others if text != CLASS_NAME]  # a tensor in place of a number
    choices = [f"one of {', '.join(names)}" if "," in ", ".join(names) else names[0]] if names else []
    words = [*(text for text in others if text != "null"), *choices, *({"null"} & set(others))]
    return " or ".join(words) if words != ["null"] else CLASS_NAME


def _value_hint(value: str, expected: Sequence[str], key: str) -> str:
    if key == "resume" and value:
        return f"; to resume from a file: --ckpt_path {value}"
    names = {name.strip(" '") for text in expected for name in text.removeprefix("one of ").split(",")}
    classes = _home_names(key)
    begun = [name for name in classes if len(value) > 2 and name.lower().startswith(value.lower())]
    return f"; did you mean {begun[0]!r}?" if begun else nearest(value, names | set(classes))


def _of_class(message: str, entry: Entry | None, key: str, settings: Sequence[Entry]) -> str:
    """Return the fault of the class that a value names; "" if the fault is another."""
    place = key if entry is None else entry.place
    missing = re.search(r"Problem with given class_path '([\w.]+)':\s+No module named", message)
    if missing is not None:
        named = next((entry for entry in reversed(settings) if entry.value == missing[1]), entry)
        return f"{named.place if named else key}: {import_problem(missing[1])}"
    unknown = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if unknown is not None:
        module, name = unknown.groups()
        return f"{place}: {module} has no {name!r}{nearest(name, dir(importlib.import_module(module)))}"
    other_kind = re.search(r"Expected '([\w.]+)' to be a .*<class '(?:[\w.]+\.)?(\w+)'>", message)
    if other_kind is not None:
        return f"{place}: {other_kind[1]} is no {other_kind[2]}{nearest(other_kind[1], _home_names(key))}"
    return ""


def located(message: str, settings: Sequence[Entry]) -> str:
    """Prefix a constructor's message with the place of the value that it is about.

    That is the one whose key the message begins with, or which it names together with its value. A name that is no
    word of English, or a value that is no number, is enough where it is the only one.
    """
    message = plain(message)
    placed = said_of_key(message, settings)
    if placed == message and not any(message.startswith((f"{entry.where}:", entry.place)) for entry in settings):
        entry = _named(message, [entry for entry in settings if entry.value is not None])
        placed = message if entry is None else _with_place(entry, f": {message}")
    return placed


def plain(message: str) -> str:
    """Rephrase messages of Lightning and torch, with the remedy."""
    for pattern, text in PLAIN_WORDS:
        message = re.sub(pattern, text, message)
    return message


def said_of_key(message: str, settings: Sequence[Entry]) -> str:
    """Prefix a message that begins with a key with the place where the key, or a named key below it, was set."""
    key = max(
        (entry.key for entry in settings if re.match(rf"{re.escape(entry.key)}(?![\w.])", message)), key=len, default=""
    )
    if not key:
        return message
    rest = message.removeprefix(key)
    below = [entry for entry in settings if entry.key.startswith(f"{key}.") and entry.value is not None]
    numbers = re.findall(r"-?\d+\.\d+", rest)
    fractions = [entry for entry in below if any(_has_token(str(entry.value), number) for number in numbers)]
    words = set(_words(rest))
    entry = _last(fractions) or _last(entry for entry in below if entry.name in words)
    entry = entry or _last(entry for entry in settings if entry.key == key)
    return message if entry is None else _with_place(entry, rest)


def _with_place(entry: Entry, text: str) -> str:
    """Join place and message, adding the value of a key if the message lacks it."""
    has_value = " got " in text or entry.is_class or entry.key in HOMES or _has_token(text, str(entry.value))
    return f"{entry.place}{text}{'' if has_value or entry.value is None else f' (got {entry.value})'}"


def _named(message: str, settings: Sequence[Entry]) -> Entry | None:
    named = [entry for entry in settings if entry.name in _words(message)]
    begins = [entry for entry in settings if entry.value and message.startswith(f"{entry.value}: ")]  # as files do
    if sure := begins or [entry for entry in named if _has_token(message, str(entry.value))]:
        return _last(sure)
    technical = [entry for entry in named if "_" in entry.name or re.match(rf".*`{entry.name}|{entry.name} ", message)]
    words = [entry for entry in settings if re.fullmatch(r"[^\d\s.-]\S{2,}", str(entry.value))]
    candidates = technical or [entry for entry in words if _has_token(message, str(entry.value))]
    return _last(candidates) if len({entry.key for entry in candidates}) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z_][a-z_0-9]*", text.lower())


def _has_token(text: str, token: str) -> bool:
    pattern = rf"(?<![\w.]){re.escape(token.lower())}(?!\w|\.\w)"
    return bool(token) and re.search(pattern, text.lower()) is not None


def _last(entries: Iterable[Entry]) -> Entry | None:
    return next(reversed(list(entries)), None)


def _of_arguments(message: str, settings: Sequence[Entry]) -> str:
    """Explain a message about the command line as a whole."""
    if (match := re.fullmatch(r"the following arguments are required: (.*)", message)) is not None:
        return _required(match.group(1).split(", ")[0].removeprefix("fit."), settings)
    if (match := re.fullmatch(r"Option '([\w.]+)' is not accepted", message)) is not None:
        unknown = _last(entry for entry in settings if f".{entry.key}".endswith(f".{match.group(1)}"))
        if unknown is not None:
            parent, _, name = unknown.key.rpartition(".")
            names = {name for entry in settings if entry.key == parent for name in _parameters(entry)}
            return f"{unknown.where}: unknown key {unknown.key!r}{nearest(name, names)}"
    if message.endswith(": expected one argument"):
        entry = _last(entry for entry in settings if entry.value == "" and entry.where.startswith("--"))
        return f"{entry.where} needs a value" if entry is not None else message
    return message


def _required(name: str, settings: Sequence[Entry]) -> str:
    if name == "model.backbone":
        return WHICH_NETWORK
    if "." not in name:  # of a class
        for entry in reversed(settings):
            if name in _parameters(entry):
                needed = f"init_args with {name}" if entry.key.endswith("]") else f"--{entry.key}.{name}"
                return f"{entry.place}: {entry.value} needs {needed}"
    return f"--{name} is required"


def _parameters(entry: Entry) -> Iterable[str]:
    kind = _kind(entry)
    return inspect.signature(kind).parameters if callable(kind) else ()


def _kind(entry: Entry) -> Any:
    """Return the class that an entry names, also by a bare name, or `None`."""
    home = HOMES.get(entry.key.partition("[")[0])
    return resolve(class_path_of(entry) or f"{home}.{entry.value}") or resolve(f"{home}.{entry.value}")


def _home_names(key: str) -> list[str]:
    if key not in HOMES:
        return []
    return [name for name, kind in vars(importlib.import_module(HOMES[key])).items() if isinstance(kind, type)]


def _given_value(message: str) -> str:
    match = re.search(r"(?:Given value|Got value): (.*)", message)
    return match.group(1) if match else "?"


def _expected(message: str) -> list[str]:
    """Return the values that a message expects, in plain words."""
    words: dict[str, None] = {}
    for text in re.findall(r"Expected (?:an? )?(.+?)(?:\. Got value.*)?$", message, flags=re.MULTILINE):
        if text.startswith("path but"):
            continue
        text = re.sub(r"^(dot import path string|import path or a subclass spec).*", CLASS_NAME, text)
        text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text).replace("NoneType", "null")
        text = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", text)
        text = re.sub(r"^(\w+)", lambda kind: PLAIN_KINDS.get(kind[1], kind[1]), text)
        words[text] = None
    return list(words)
