"""A plan as a configuration file, each setting with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from mvrec.plan.learning import Choice
from mvrec.plan.plan import CLASS_NODES, as_defaults

ABOVE = 60  # letters, from which a reason stands above its setting
WIDTH = 120


def as_yaml(choices: Sequence[Choice], *, head: Sequence[str], task: str = "") -> str:
    """Return choices as a commented configuration.

    Args:
        choices: The settings with their reasons; a later one wins, also over a part of an earlier one.
        head: Lines of the comment at the top.
        task: Class path of a task that a configuration has to name.
    """
    tree: dict[str, Any] = {"seed_everything": 0, "model": {}, "data": {}, "trainer": {}}
    for key, value in as_defaults(choices).items():
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    if task:
        tree["model"] = {"class_path": task, "init_args": tree["model"]}
    reasons = {_place(choice.key, has_task=bool(task)): choice.reason for choice in choices}
    lines = [*(f"# {line}" for line in head), *_lines({key: node for key, node in tree.items() if node != {}}, reasons)]
    return "\n".join(lines) + "\n"


def _place(key: str, *, has_task: bool) -> tuple[str, ...]:
    """Return the path of a key in a configuration, where the arguments of a class are below `init_args`."""
    if has_task and key.startswith("model."):
        return ("model", "init_args", *_place(key, has_task=False)[1:])
    node = next((name for name in CLASS_NODES if key.startswith(f"{name}.")), None)
    if node is None:
        return tuple(key.split("."))
    return (*node.split("."), "init_args", *key.removeprefix(f"{node}.").split("."))


def _lines(
    node: Mapping[str, Any], reasons: Mapping[tuple[str, ...], str], path: tuple[str, ...] = ()
) -> Iterator[str]:
    for key, value in node.items():
        place, indent = (*path, key), "  " * len(path)
        is_block = isinstance(value, dict) and (not path or key == "init_args" or "class_path" in value)
        text = f"{indent}{key}:" if is_block else f"{indent}{key}: {_flow(value)}"
        reason = "; ".join(
            reasons[other] for other in reasons if other == place or (not is_block and other[: len(place)] == place)
        )
        if reason and len(reason) < ABOVE and len(text) + len(reason) < WIDTH - 4:
            yield f"{text}  # {reason}"
        else:
            yield from [f"{indent}# {reason}"] * bool(reason)
            yield text
        if is_block:
            yield from _lines(value, reasons, place)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text.removesuffix("\n").removesuffix("\n...")
