"""The contents of a folder of images with objects, and the settings that follow from them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.data.listing.class_names import mirrored_classes
from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.objects.layouts import ObjectLayout, find_object_layout
from mvrec.data.loading.images import image_size
from mvrec.data.views.targets import NoTarget
from mvrec.errors import UserError
from mvrec.messages import counted
from mvrec.plan.findings import SAMPLE, Findings, copies, described, spread
from mvrec.plan.learning import Choice
from mvrec.plan.machine import Machine
from mvrec.plan.media import probed
from mvrec.runs.weights_origin import StartingPoint
from mvrec.tasks.detection.head import HeadParts

HEAD_KEYS = ("detector", "style", "channels")  # of a detector's weights
SMALL_NECK = 64  # channels
STEP, SMALLEST = 16, 64  # pixels
SCALES = (0.75, 0.875, 1.0)  # of the short side in training
LONGEST = 5 / 3  # of the short side, as 1333 of 800
MOST_IN_BATCH = 4


def look_at_objects(
    root: Path, *, val_fraction: float | None = None, fold: str | None = None, **arguments: Any
) -> Findings:
    """Look at a folder of images with objects, or a file of annotations: read them, and open some images.

    Args:
        root: The folder or file.
        val_fraction: Share of the images that validate in a folder without splits; by default it follows from their
            number.
        fold: `data.fold`, which splits the images in place of `val_fraction`.
        arguments: Those of `find_object_layout`, such as `bad_boxes`.

    Raises:
        UserError: Annotations are malformed, or there is nothing to train on.
    """
    objects = find_object_layout(root, image_size, val_fraction=0.0 if fold else val_fraction, **arguments)
    layout: Layout = objects
    if fold is not None:
        layout = Folds(objects, Fold.parse(fold), target_of=lambda row: NoTarget())
    rows = {split: list(layout.rows(split)) for split in SPLITS if layout.has(split)}
    if not rows.get("train"):
        raise UserError(f"data.root: {str(root)!r} has no training images: expected {objects.expected()}")
    every = [row for split_rows in rows.values() for row in split_rows]
    media = probed([objects.root / row.path for row in spread(every, SAMPLE)], is_video=False)
    remarks = [*copies(objects.root, rows, IMAGES, has_classes=False), *_remarks(objects)]
    if media.unreadable:
        count = f"{len(media.unreadable)} of {len(media.unreadable) + media.num_read}"
        remarks.append(f"{count} images looked at cannot be read: {media.unreadable[0]}")
    is_split_here = objects.splits_files and fold is None
    tables = [objects.table(split) for split in SPLITS if objects.has(split)]
    return Findings(
        root,
        IMAGES,
        described(layout, objects.root),
        not is_split_here,
        objects.val_fraction or 0.0 if is_split_here else 0.0,
        {split: _classes(objects, split) for split in rows},
        {split: len(split_rows) for split, split_rows in rows.items()},
        multi_label=False,
        has_classes=False,
        media=media,
        remarks=tuple(remarks),
        num_objects=sum(table.num_objects for table in tables),
        has_shapes=objects.table("train").has_shapes,
    )


def _classes(layout: ObjectLayout, split: str) -> Counter[str]:
    """Return the number of objects of each class in a split; of folds those of all images count."""
    table = layout.table(split if layout.has(split) else "train")
    return Counter(dict(zip(table.class_names, table.class_counts().tolist(), strict=True)))


def _remarks(layout: ObjectLayout) -> Iterator[str]:
    table = layout.table("train")
    if empty := int((table.learned_counts == 0).sum()):  # crowds are not learned
        yield f"{counted(empty, 'images to train on')} without objects: learned as background"
    bare = np.flatnonzero(~table.shapes.present)
    if 0 < len(bare) < table.num_objects:
        count = f"{len(bare)} of {counted(table.num_objects, 'objects')}"
        yield f"{count} have no outline, such as {table.where(int(bare[0]))}: masks need all"
    if missing := [name for name, count in _classes(layout, "train").items() if not count]:
        yield f"no object to train on for {counted(len(missing), 'classes')}, such as {missing[0]!r}"
    if layout.has("val") and not layout.table("val").num_objects:
        yield "no validation image has an object: there will be no score"
    yield from (text for _, text in layout.notes)
    layout.notes.clear()


def object_settings(findings: Findings, machine: Machine, start: StartingPoint | None) -> Iterator[Choice]:
    """Yield the input and the detector for images with objects."""
    short_side = findings.media.short_side or 224
    most = (800 if start is not None or findings.num_train >= 3000 else 512) if machine.gpu else 256
    short = max(SMALLEST, min(most, _stepped(short_side)))
    longest = _stepped(short * LONGEST)
    sides = sorted({max(SMALLEST, _stepped(short * scale)) for scale in SCALES})
    sided = mirrored_classes(findings.class_names)
    flips = f"no flips, because of the class {sided[0]!r}" if sided else "flips; 0 where a mirror changes a class"
    augment = {"short_sides": sides, "longest": longest, "flip_probability": 0.0 if sided else 0.5}
    yield Choice("data.augment", augment, f"views of several sizes, {flips}")
    reason = f"fit for this machine and for images of {short_side} pixels"
    yield Choice("data.protocol", f"mmdetection-{longest}x{short}", reason)
    head = {} if start is None else start.details.get("head") or {}
    if "detector" in head:
        yield from (Choice(f"model.{key}", head[key], "as the weights have it") for key in HEAD_KEYS if key in head)
        usual = asdict(HeadParts())
        if parts := {name: head[name] for name, value in usual.items() if head.get(name, value) != value}:
            yield Choice("model.head", parts, "as the weights have it")
        return
    name, reason = ("mask_rcnn", "outlines") if findings.has_shapes else ("faster_rcnn", "boxes without outlines")
    yield Choice(
        "model.detector", name, f"the objects are {reason}" if not findings.has_shapes else f"there are {reason}"
    )
    if start is None and not machine.gpu:
        yield Choice("model.channels", SMALL_NECK, "a detector as small as the network")


def _stepped(side: float) -> int:
    return int(side) // STEP * STEP
