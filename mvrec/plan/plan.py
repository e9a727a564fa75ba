"""The plan of a run: settings that follow from the files and the machine, each with its reason."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvrec.data.listing.class_names import mirrored_classes
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS, Kind
from mvrec.data.listing.groups.rules import AUTO, check_rule
from mvrec.data.listing.mask_layouts import Naming
from mvrec.errors import UserError
from mvrec.plan.boxes import look_at_boxes
from mvrec.plan.findings import Findings, look
from mvrec.plan.kinds import ANNOTATED, BOXED, DATA, MASKED, SUBJECTS, kind_of
from mvrec.plan.learning import Choice, learning
from mvrec.plan.machine import Machine, this_machine
from mvrec.plan.masks import look_at_masks
from mvrec.plan.networks import MANY_FILES, Network, clip_for, crop_size, network_for
from mvrec.plan.objects import MOST_IN_BATCH, look_at_objects, object_settings
from mvrec.runs.weights_origin import StartingPoint

GPU_FEEDS = 1000  # files, below which one GPU is enough
ENDS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")  # of a run, as the user sets them
CLASS_NODES = ("data", "model.backbone", "model.optimizer")
HEAD_KEYS = ("decoder", "channels")  # of a segmenter's weights
SMALL_DECODER = 64  # channels
IMAGE_DATA, VIDEO_DATA = "mvrec.data.ImageFolder", "mvrec.data.VideoFolder"
LONGEST_TEST, LONGEST_VAL = 5, 3  # clips per video


@dataclass(frozen=True)
class Plan:
    """Settings of a run, all of which flags and configs override.

    Attributes:
        findings: The contents of the folder.
        machine: The machine that trains.
        weights: The file of weights in a few words; "" without one.
        choices: The settings with their reasons, by key.
        network: The network of a run without weights, unless the user names one.
    """

    findings: Findings
    machine: Machine
    weights: str
    choices: tuple[Choice, ...]
    network: Network | None

    def value(self, key: str) -> Any:
        """Return a planned value; `None` without one."""
        return next((choice.value for choice in self.choices if choice.key == key), None)

    def defaults(self) -> dict[str, Any]:
        """Return the settings as defaults of the command line's parser."""
        return as_defaults(self.choices)


def as_defaults(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return choices as defaults of a parser: those of a class as its `class_path` and `init_args`."""
    values: dict[str, Any] = {}
    for choice in choices:
        node = next((name for name in CLASS_NODES if f"{choice.key}.".startswith(f"{name}.")), None)
        if node is None:
            values[choice.key] = choice.value
            continue
        path, value = choice.key.removeprefix(node).lstrip(".").split("."), copy.deepcopy(choice.value)
        if path == [""]:  # another class has other arguments
            values[node] = value if isinstance(value, dict) else {"class_path": value}
            continue
        target = values.setdefault(node, {})
        target = target.setdefault("init_args", {})
        for name in path[:-1]:
            target = target.setdefault(name, {})
        target[path[-1]] = value
    return values


def make_plan(
    root: Path,
    overrides: Mapping[str, Any],
    *,
    start: StartingPoint | None,
    has_recipe: bool = False,
    has_classes: bool = True,
    values: Sequence[str] | None = None,
    masks: bool = False,
    boxes: Mapping[str, Any] | None = None,
    objects: Mapping[str, Any] | None = None,
) -> Plan:
    """Look at a folder and this machine, and decide how to train.

    The speed of the machine decides nothing, so that all processes of a run come to the same plan.

    Args:
        root: The folder.
        overrides: The keys that flags and configs set, with their values.
        start: The network and data that a file of weights prescribes; `None` without one.
        has_recipe: Whether a config says how to learn.
        has_classes: Whether the task learns classes.
        values: See `look`.
        masks: Whether the task learns the masks of images.
        boxes: The data's arguments about lists of boxes, if the task learns these.
        objects: The data's arguments about annotations of objects in images, if the task learns these.

    Raises:
        UserError: Nothing can be learned from the files, or they are not of the kind that the weights know.
    """
    kind = VIDEOS if boxes is not None else IMAGES if objects is not None else kind_of(root)
    placed = ANNOTATED if objects is not None else MASKED if masks else BOXED if boxes is not None else None
    data = f"mvrec.data.{placed or DATA[kind]}"
    others = [IMAGE_DATA] if masks or objects is not None else [VIDEO_DATA] if boxes is not None else []
    if start is not None and start.data["class_path"] not in (data, *others):
        other, weights = SUBJECTS[start.data["class_path"].rpartition(".")[2]], start.summary.partition(",")[0]
        raise UserError(f"data.root: {str(root)!r} holds {kind.noun}s, and {weights} is a network for {other}")
    findings = _look(
        root, kind, overrides, masks=masks, boxes=boxes, objects=objects, has_classes=has_classes, values=values
    )
    machine = this_machine(accelerator=str(overrides.get("trainer.accelerator") or "auto"))
    places = {ANNOTATED: " with objects", MASKED: " with masks", BOXED: " with boxes"}.get(placed or "", "")
    choices = [Choice("data", data, f"the folder holds {kind.noun}s{places}"), *_splits(findings)]
    network = None
    if start is None:
        network = network_for(findings, machine)
        choices += [] if objects is not None else _input(findings, network, overrides)
        if "model.backbone" in overrides:
            network = None
        else:
            choices.append(Choice("model.backbone", network.node, network.reason))
        if masks:
            choices.append(Choice("model.channels", SMALL_DECODER, "a decoder as small as the network"))
    elif masks:
        choices += _segmenter(findings, machine, start)
    if objects is not None:
        choices += object_settings(findings, machine, start)
    if not has_recipe:
        is_planned = masks or objects is not None
        choices += [] if is_planned else _box_augmentation(findings) if boxes is not None else _augmentation(findings)
        choices += _learning(
            findings, machine, overrides, has_weights=start is not None or "model.weights" in overrides
        )
    return Plan(findings, machine, start.summary if start is not None else "", tuple(choices), network)


def _look(
    root: Path,
    kind: Kind,
    overrides: Mapping[str, Any],
    *,
    masks: bool,
    boxes: Mapping[str, Any] | None,
    objects: Mapping[str, Any] | None,
    has_classes: bool,
    values: Sequence[str] | None,
) -> Findings:
    """Look at a folder as the flags about its files say."""
    fraction, fold = overrides.get("data.val_fraction"), overrides.get("data.fold")
    fraction = None if fraction is None else float(fraction)
    if objects is not None:
        return look_at_objects(root, val_fraction=fraction, fold=fold, **objects)
    if boxes is not None:
        return look_at_boxes(root, val_fraction=fraction, fold=fold, **boxes)
    if masks:
        named = {key: overrides[f"data.{key}"] for key in Naming.__dataclass_fields__ if f"data.{key}" in overrides}
        return look_at_masks(root, val_fraction=fraction, fold=fold, naming=Naming(**named))
    group = check_rule(str(overrides.get("data.group", AUTO)))
    return look(root, kind, val_fraction=fraction, fold=fold, group=group, has_classes=has_classes, values=values)


def _splits(findings: Findings) -> Iterator[Choice]:
    """Yield how the files are split, and the part of their frames that is evaluated."""
    if not findings.has_splits:
        yield Choice("data.val_fraction", findings.val_fraction, "the folder has no splits of its own")
    if findings.fold:
        yield Choice("data.fold", findings.fold, "there are no validation files")
    if findings.num_videos:
        yield Choice("data.pixels", "full", "people may be anywhere in the frame")


def _segmenter(findings: Findings, machine: Machine, start: StartingPoint) -> Iterator[Choice]:
    """Yield the input and the head of a segmenter that starts from weights."""
    size = crop_size(findings, machine)
    yield Choice("data.size", size, "crops fit for this machine, and no larger than the images")
    head = start.details.get("head") or {}
    yield from (Choice(f"model.{key}", head[key], "as the weights have it") for key in HEAD_KEYS if key in head)


def _input(findings: Findings, network: Network, overrides: Mapping[str, Any]) -> Iterator[Choice]:
    """Yield the size of the network's input; a size that the user gives the network is the data's too."""
    size = _number(overrides, "data.size", "model.backbone.image_size") or network.size
    short = findings.media.short_side or size
    yield Choice("data.size", size, f"fit for this machine and for files of {short} pixels")
    if not findings.is_video:
        return
    frames = _number(overrides, "data.clip.num_frames", "model.backbone.num_frames") or network.frames or 16
    clip = clip_for(findings, frames)
    yield Choice("data.clip", clip, "a clip spans two seconds, or the whole of a shorter video")
    if findings.num_videos:  # key frames have one view
        return
    span = frames * clip["stride_frames"] / clip["target_fps"]
    clips = max(1, int((findings.media.length or span) / span))
    short_side = size if short <= size else min(short, round(size * 8 / 7))
    for key, most in (("data.val_views", LONGEST_VAL), ("data.test_views", LONGEST_TEST)):
        views = {"num_clips": min(most, clips), "short_side": short_side}
        yield Choice(key, views, "as many clips as a video has room for")


def _number(overrides: Mapping[str, Any], *keys: str) -> int | None:
    text = next((str(overrides[key]) for key in keys if overrides.get(key) is not None), "")
    return int(text) if text.isdecimal() and int(text) > 0 else None  # the parser refuses others


def _augmentation(findings: Findings) -> Iterator[Choice]:
    if findings.num_train >= MANY_FILES and not findings.values:
        return
    sided = mirrored_classes(findings.class_names)
    flips = f"no flips, because of the class {sided[0]!r}" if sided else "flips; 0 where a mirror changes a class"
    if findings.values:
        flips = "no flips, which may change a number"
    augment = {
        **{"crop_area": [0.5, 1.0], "flip_probability": 0.0 if sided or findings.values else 0.5},
        **{"rand_augment": None, "random_erasing": None},
    }
    cause = "because turns may change a number" if findings.values else "for a small set"
    yield Choice("data.augment", augment, f"mild, {cause}: crops of half the frame or more, {flips}")


def _box_augmentation(findings: Findings) -> Iterator[Choice]:
    sided = mirrored_classes(findings.class_names)
    flips = f"no flips, because of the class {sided[0]!r}" if sided else "flips; 0 where a mirror changes a class"
    augment = {
        **{"crop_side": [0.8, 1.0], "flip_probability": 0.0 if sided else 0.5},
        **{"rand_augment": None, "random_erasing": None},
    }
    yield Choice("data.augment", augment, f"crops of most of the short side, so that few boxes are cut off, {flips}")


def _learning(
    findings: Findings, machine: Machine, overrides: Mapping[str, Any], *, has_weights: bool
) -> Iterator[Choice]:
    """Yield how to learn, without what contradicts the user's settings."""
    num_train, epochs, batch = findings.num_train, 1, _number(overrides, "data.batch_size")
    for choice in learning(
        num_train=num_train,
        num_classes=len(findings.class_names) if findings.has_classes else 1,
        has_weights=has_weights,
        noun=findings.noun,
    ):
        if choice.key == "trainer.max_epochs":
            epochs = int(choice.value)
            if any(overrides.get(key) is not None for key in ENDS[1:]):
                continue
        if choice.key == "trainer.check_val_every_n_epoch" and any(overrides.get(key) is not None for key in ENDS):
            continue  # the last epoch may be one without validation
        if choice.key == "data.batch_size" and findings.num_objects:
            choice = replace(choice, value=min(choice.value, MOST_IN_BATCH))
        if choice.key == "data.batch_size":
            batch = batch or int(choice.value)
        if choice.key == "model.schedule.warmup_epochs":  # keeps its share of the user's epochs or steps
            steps = _number(overrides, "trainer.max_steps") or 0
            length = _number(overrides, "trainer.max_epochs") or steps * (batch or 1) / num_train or epochs
            choice = replace(choice, value=round(choice.value * length / epochs, 1))
        yield choice
    if num_train < 100:
        yield Choice("data.max_bad_fraction", 0.1, "a few broken files of a small set do not end the run")
    if machine.gpus > 1 and not machine.is_launched and num_train < GPU_FEEDS:
        yield Choice("trainer.devices", 1, f"{num_train} files do not feed {machine.gpus} GPUs")
