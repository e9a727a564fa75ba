"""A network's frames and pixels, which follow from the data like its class count, or the data from the network's."""

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mvrec.cli.config_check import Entry, resolve
from mvrec.models import Backbone
from mvrec.published import CREATE_MODEL


class InputSize(NamedTuple):
    """The input size of a network, and its origin.

    Attributes:
        filled: The sizes that were filled in, with the place of the data's values.
        overrides: A line for each size that the user sets for the network and that is not the data's, or was not.
    """

    filled: list[Entry]
    overrides: list[str]


def fit_to_data(config: Namespace, settings: Sequence[Entry], from_files: Mapping[str, Any]) -> InputSize:
    """Build the network for the data's size, unless the user or a file of weights sets one.

    A size that the user sets stays, and the data take it where neither the user nor a file sets theirs. Networks of
    other libraries (`timm/...`) keep the size that they have by name.

    Args:
        config: The settings of a command; `num_frames` and `image_size` of its network are filled in, or the data's.
        settings: Entries of configs and flags.
        from_files: Settings of files, from `inherited`.
    """
    filled, overrides = [], []
    for source, name, value, unit in _sizes(config.get("data")):
        node, key, stored = config.model.backbone, "model.backbone", from_files.get("model.backbone")
        while isinstance(node, Namespace) and node.get("init_args") is not None and node.class_path != CREATE_MODEL:
            arguments, stored_arguments = node.init_args, _arguments(stored)
            if name not in arguments:  # of an image network in `Framewise`
                node, key, stored = arguments.get("backbone"), f"{key}.backbone", stored_arguments.get("backbone")
                continue
            entry = _last(settings, f"{key}.{name}")
            if entry is not None and _sides(arguments[name]) != _sides(value):
                if isinstance(size := arguments[name], int) and not _is_set(source, settings, from_files):
                    config[source.replace("data.", "data.init_args.", 1)] = size
                    filled.append(Entry(source, str(size), entry.where))
                    overrides.append(f"{entry.place} {size}: the data get {size} {unit} too")
                else:
                    overrides.append(f"{entry.place} {entry.value} overrides the {value} {unit} of the data")
            elif entry is None and name not in stored_arguments:
                arguments[name] = value
                if (origin := _last(settings, source)) is not None:
                    filled.append(Entry(f"{key}.{name}", str(value), origin.where))
            break
    return InputSize(filled, overrides)


def _is_set(key: str, settings: Sequence[Entry], from_files: Mapping[str, Any]) -> bool:
    """Return whether the user or a file sets a key of the data."""
    value: Any = from_files.get("data")
    for name in ("init_args", *key.split(".")[1:]):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value is not None or _last(settings, key) is not None


def wrap_own_network(config: Namespace) -> None:
    """Put a network that is no `Backbone` into `OwnNetwork`, for the data's frames and pixels.

    Args:
        config: The settings of a command; the network's are changed.
    """
    node = config.model.get("backbone")
    if not isinstance(node, Namespace) or _is_backbone(resolve(node.get("class_path"))):
        return
    sizes = {name: value for _, name, value, _ in _sizes(config.get("data"))}
    arguments = {"network": node, "num_frames": sizes.get("num_frames"), "image_size": sizes.get("image_size", 224)}
    config.model.backbone = Namespace(class_path="mvrec.models.OwnNetwork", init_args=Namespace(**arguments))


def _is_backbone(target: Any) -> bool:
    """Return whether a class, or the return type of a function, is a `Backbone`; also for what cannot be imported."""
    if target is not None and not isinstance(target, type):
        target = typing.get_type_hints(target).get("return") if inspect.isfunction(target) else None
    return target is None or (isinstance(target, type) and issubclass(target, Backbone))


def _last(settings: Sequence[Entry], key: str) -> Entry | None:
    """Return the last entry of a key, even if it is null."""
    return next((entry for entry in reversed(settings) if entry.key == key), None)


def _sizes(data: Any) -> Iterator[tuple[str, str, int | list[int], str]]:
    """Yield the sizes in a data module's arguments: key, the network's argument, number or two, unit."""
    arguments = data.get("init_args") if isinstance(data, Namespace) else None
    if arguments is None:
        return
    clip, size = arguments.get("clip"), arguments.get("size")
    frames = getattr(clip, "num_frames", None)
    if isinstance(frames, int) and frames > 0:  # the data module refuses others
        yield "data.clip.num_frames", "num_frames", frames, "frames"
    if min(_sides(size), default=0) > 0:
        yield "data.size", "image_size", size if isinstance(size, int) else _sides(size), "pixels"


def _sides(size: Any) -> list[int]:
    """Return the two sides of a square or rectangle; empty for anything else."""
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    return sides if len(sides) == 2 and all(isinstance(side, int) for side in sides) else []


def _arguments(stored: Any) -> Mapping[str, Any]:
    """Return the arguments of a network in a file; empty without one."""
    return (stored.get("init_args") or {}) if isinstance(stored, dict) else {}
