"""Frames and pixels of a network, which follow from the data as its class count does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mvrec.cli.config_check import Entry
from mvrec.published import CREATE_MODEL


class InputSize(NamedTuple):
    """What became of the input size of a network.

    Attributes:
        filled: The sizes that were filled in, as if set where the data's own values stand.
        overrides: A line for each size of the user's that is not the data's.
    """

    filled: list[Entry]
    overrides: list[str]


def fit_to_data(config: Namespace, given: Sequence[Entry], from_files: Mapping[str, Any]) -> InputSize:
    """Build the network for what the data give, where neither the user nor a file of weights says how large it is.

    A size that the user gives the network stays. Networks of other libraries
    (`timm/...`) keep the size that they have by name.

    Args:
        config: The settings of a command; `num_frames` and `image_size` of its network are filled in.
        given: What configs and flags set.
        from_files: What files say, as `inherited` returns it.
    """
    filled, overrides = [], []
    for source, name, value, what in _sizes(config.get("data")):
        node, key, stored = config.model.backbone, "model.backbone", from_files.get("model.backbone")
        while isinstance(node, Namespace) and node.get("init_args") is not None and node.class_path != CREATE_MODEL:
            arguments, said = node.init_args, _arguments(stored)
            if name not in arguments:  # of an image network in `Framewise`
                node, key, stored = arguments.get("backbone"), f"{key}.backbone", said.get("backbone")
                continue
            entry = _last(given, f"{key}.{name}")
            if entry is not None and arguments[name] not in (value, [value, value], (value, value)):
                overrides.append(f"{entry.place} {entry.value} overrides the {value} {what} of the data")
            elif entry is None and name not in said:
                arguments[name] = value
                if (origin := _last(given, source)) is not None:
                    filled.append(Entry(f"{key}.{name}", str(value), origin.where))
            break
    return InputSize(filled, overrides)


def _last(given: Sequence[Entry], key: str) -> Entry | None:
    """The entry of a key that counts, also where it is null."""
    return next((entry for entry in reversed(given) if entry.key == key), None)


def _sizes(data: Any) -> Iterator[tuple[str, str, int, str]]:
    """What a data module's arguments say about its clips or images: key, the network's argument, number, unit."""
    arguments = data.get("init_args") if isinstance(data, Namespace) else None
    if arguments is None:
        return
    clip, size = arguments.get("clip"), arguments.get("size")
    frames = getattr(clip, "num_frames", None)
    if isinstance(frames, int) and frames > 0:  # the data module refuses others
        yield "data.clip.num_frames", "num_frames", frames, "frames"
    if isinstance(size, int) and size > 0:
        yield "data.size", "image_size", size, "pixels"


def _arguments(stored: Any) -> Mapping[str, Any]:
    """The arguments of a network in a file; empty where there is none."""
    return (stored.get("init_args") or {}) if isinstance(stored, dict) else {}
