"""Faults of a data set, each as a line that says what to do."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.class_names import mirrored_classes
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.looking.audit.copies import Copy
from mvrec.looking.audit.labels import Doubt
from mvrec.looking.audit.reading import Seen
from mvrec.messages import counted

FEW = 10  # training files of a class, below which it is hardly learned
UNEVEN = 20  # times as many files in the largest class as in the smallest
SHORTER = 0.25  # of the usual length
FAR = 8  # times the interquartile range
SCALED_UP = 0.5  # short side as a share of the network's input


@dataclass(frozen=True)
class File:
    """A row of a data set: its split, path, class names and part."""

    split: str
    path: str
    labels: tuple[str, ...]
    span: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        kind: A name for programs, such as "copies across splits".
        text: One line: what it is and what to do.
        files: Rows at fault, in groups that belong together, such as a file and its copy.
        remarks: A text per group.
    """

    kind: str
    text: str
    files: tuple[tuple[int, ...], ...] = ()
    remarks: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Settings:
    """Settings: what a configuration will do with files; `None` where it is not known.

    Attributes:
        flip_probability: Chance of a horizontal flip in training.
        side: Short side of the network's input in pixels.
        clip: Frames of a training clip; `None` for images, and for clips around key frames.
    """

    flip_probability: float | None = None
    side: int | None = None
    clip: ClipSpec | None = None


def counts_of(files: Sequence[File]) -> dict[str, Counter[str]]:
    """Return the number of rows of each class in each split."""
    counts: dict[str, Counter[str]] = {}
    for file in files:
        counts.setdefault(file.split, Counter()).update(file.labels)
    return counts


def findings(
    files: Sequence[File],
    reads: Sequence[Seen],
    pairs: Sequence[Copy],
    *,
    class_names: Sequence[str],
    settings: Settings,
    doubted: Sequence[Doubt] = (),
) -> list[Finding]:
    """Return all faults of a data set, those that spoil a score first."""
    return [
        *_copies(files, pairs, set(mirrored_classes(class_names))),
        *_unreadable(reads),
        *_doubted(files, doubted, class_names),
        *_classes(files, class_names),
        *_flips(class_names, settings),
        *_spans(files, reads),
        *_odd(reads, settings),
    ]


def far_values(names: Sequence[str], values: npt.NDArray[np.float64]) -> Iterator[Finding]:
    """Yield the numbers to predict that lie far from all others, such as those without their decimal point.

    Args:
        names: Names of the numbers.
        values: Those of each row, (N, D).
    """
    for name, column in zip(names, values.T, strict=True):
        low, middle, high = np.percentile(column, (25, 50, 75))
        far = np.flatnonzero((high > low) & (np.abs(column - middle) > FAR * (high - low)))
        if len(far):
            text = (
                f"{counted(len(far), 'values')} of {name} are more than {FAR} times the middle half's width from the "
                f"median {middle:.4g} (middle half {low:.4g} to {high:.4g}): look at them"
            )
            remarks = tuple(f"{name} {column[number]:.6g}" for number in far)
            yield Finding("far values", text, tuple((int(number),) for number in far), remarks)


def leaks(files: Sequence[File], group_of: Sequence[str]) -> list[Finding]:
    """Return the groups of files, such as clips of one recording, that are in several splits.

    Args:
        files: All rows.
        group_of: The group of each, as a split would keep it together.
    """
    numbers: dict[str, list[int]] = {}
    for number, group in enumerate(group_of):
        numbers.setdefault(group, []).append(number)
    torn = {
        group: rows for group, rows in numbers.items()
        if len({files[row].path for row in rows}) > 1 and len({files[row].split for row in rows}) > 1
    }  # fmt: skip
    if not torn:
        return []
    text = (
        f"{counted(len(torn), 'groups')} of files that look like one recording are in several splits, so scores may be "
        "too good: move each to one split (--data.group names them by another rule, or none)"
    )
    return [Finding("groups across splits", text, tuple(map(tuple, torn.values())), tuple(torn))]


def _copies(files: Sequence[File], pairs: Sequence[Copy], directions: set[str]) -> Iterator[Finding]:
    """Yield findings about copies; a mirrored one has another class where a mirror exchanges classes."""
    labels = [{*files[copy.first].labels, *files[copy.second].labels} for copy in pairs]
    turned = ["mirrored" in copy.kind and names <= directions for copy, names in zip(pairs, labels, strict=True)]
    is_other = [set(files[copy.first].labels) != set(files[copy.second].labels) for copy in pairs]
    across = [copy for copy in pairs if files[copy.first].split != files[copy.second].split]
    torn = [copy for copy, mirrors, differs in zip(pairs, turned, is_other, strict=True) if differs and not mirrors]
    same_label = [
        copy for copy, mirrors, differs in zip(pairs, turned, is_other, strict=True) if mirrors and not differs
    ]
    doubled = {copy for copy, mirrors, differs in zip(pairs, turned, is_other, strict=True) if mirrors and differs}
    outside = {*across, *torn, *same_label, *doubled}
    within = [copy for copy in pairs if copy not in outside]
    texts: Mapping[str, tuple[list[Copy], str]] = {
        "copies across splits": (across, "are in two splits, so scores are too good: delete one of each pair"),
        "copies with other labels": (torn, "have different labels: look which one is right, delete the other file"),
        "mirrored copies with one label": (
            same_label,
            "mirror each other in a class that a mirror changes: correct a label",
        ),
        "copies": (within, "show the same within a split: delete one of each pair, or keep them as weight"),
    }
    for kind, (alike, text) in texts.items():
        if alike:
            remarks = tuple(f"{copy.kind}, likeness {copy.likeness:.3f}" for copy in alike)
            numbers = tuple((copy.first, copy.second) for copy in alike)
            yield Finding(kind, f"{counted(len(alike), 'pairs')} of files {text}", numbers, remarks)


def _unreadable(reads: Sequence[Seen]) -> Iterator[Finding]:
    bad = [number for number, each in enumerate(reads) if each.look is None]
    if bad:
        text = f"{counted(len(bad), 'files')} cannot be read: replace them or take them off the list"
        yield Finding("unreadable", text, tuple((number,) for number in bad), tuple(reads[n].fault for n in bad))


def _doubted(files: Sequence[File], doubted: Sequence[Doubt], class_names: Sequence[str]) -> Iterator[Finding]:
    if doubted:
        fitted = sum(files[doubt.number].split == "train" for doubt in doubted)
        text = (
            f"the network contradicts {counted(len(doubted), 'labels')}, the surest first: look at them. {fitted} are "
            "of training files, whose wrong labels the network may have learned: folds (data.fold) judge them better"
        )
        remarks = tuple(
            f"labelled {class_names[doubt.label]}, looks like {class_names[doubt.other]} (by {doubt.margin:.2f})"
            for doubt in doubted
        )
        yield Finding("doubtful labels", text, tuple((doubt.number,) for doubt in doubted), remarks)


def _classes(files: Sequence[File], class_names: Sequence[str]) -> Iterator[Finding]:
    counts = counts_of(files)
    train = counts.get("train", Counter())
    few = [name for name in class_names if train[name] < FEW]
    if few:
        named = ", ".join(f"{name} ({train[name]})" for name in few[:5])
        yield Finding("few files", f"{counted(len(few), 'classes')} with fewer than {FEW} training files: add some to "
                      f"{named}{' and others' if len(few) > 5 else ''}")  # fmt: skip
    sizes = [train[name] for name in class_names if train[name]]
    if sizes and max(sizes) > UNEVEN * min(sizes):
        text = f"classes have {min(sizes)} to {max(sizes)} training files: try --data.class_balance, compare per class"
        yield Finding("uneven classes", text)
    for split, of_split in counts.items():
        if split != "train" and (missing := [name for name in class_names if train[name] and not of_split[name]]):
            text = f"no file in {split} of {counted(len(missing), 'classes')}, such as {missing[0]}: no score for them"
            yield Finding("classes without score", text)


def _flips(class_names: Sequence[str], settings: Settings) -> Iterator[Finding]:
    if settings.flip_probability and (names := mirrored_classes(class_names)):
        text = (
            f"flips are on (probability {settings.flip_probability:g}) and a mirror changes {', '.join(names[:5])}: "
            "--data.augment.flip_probability 0"
        )
        yield Finding("flipped directions", text)


def _spans(files: Sequence[File], reads: Sequence[Seen]) -> Iterator[Finding]:
    outside, remarks = [], []
    for number, (file, each) in enumerate(zip(files, reads, strict=True)):
        if each.look is None or file.span == (None, None):
            continue
        start, end = file.span[0] or 0.0, file.span[1]
        if start >= each.look.seconds or (end is not None and end > each.look.seconds + 0.5):
            outside.append((number,))
            remarks.append(f"{start:g} to {'its end' if end is None else f'{end:g}'} s of {each.look.seconds:.1f} s")
    if outside:
        text = f"{counted(len(outside), 'rows')} name a part beyond the end of the video: correct start and end"
        yield Finding("parts beyond the end", text, tuple(outside), tuple(remarks))


def _odd(reads: Sequence[Seen], settings: Settings) -> Iterator[Finding]:
    looks = {number: each.look for number, each in enumerate(reads) if each.look is not None}
    plain = [number for number, look in looks.items() if not look.hashes[0].any()]
    if plain:
        text = f"{counted(len(plain), 'files')} show nothing but one colour: look at them"
        yield Finding("plain", text, tuple((number,) for number in plain), ("",) * len(plain))
    if settings.side:
        small = [number for number, look in looks.items() if min(look.size) < SCALED_UP * settings.side]
        if small:
            text = (
                f"{counted(len(small), 'files')} have under half the {settings.side} pixels of the network's input, "
                "so scaling makes most of what it sees: take a smaller data.size or larger originals"
            )
            remarks = tuple(f"{looks[n].size[1]} x {looks[n].size[0]}" for n in small)
            yield Finding("small pictures", text, tuple((number,) for number in small), remarks)
    lengths = {number: look.seconds for number, look in looks.items() if look.seconds}
    if not lengths:
        return
    usual = float(np.median(list(lengths.values())))
    short = [number for number, seconds in lengths.items() if seconds < SHORTER * usual]
    if short:
        text = f"{counted(len(short), 'videos')} are under a quarter of the usual {usual:.1f} s: are they cut off?"
        yield Finding("short videos", text, tuple((n,) for n in short), tuple(f"{lengths[n]:.2f} s" for n in short))


def as_json(files: Sequence[File], every: Sequence[Finding]) -> dict[str, Any]:
    """Return the audit for programs."""
    return {
        "files": len(files),
        "counts": {split: dict(sorted(counts.items())) for split, counts in counts_of(files).items()},
        "findings": [
            {
                "kind": finding.kind,
                "text": finding.text,
                "files": [
                    {"paths": [files[n].path for n in group], "splits": [files[n].split for n in group],
                     "labels": [list(files[n].labels) for n in group], "remark": remark}
                    for group, remark in zip(finding.files, finding.remarks, strict=True)
                ],
            }
            for finding in every
        ],
    }  # fmt: skip
