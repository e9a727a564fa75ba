"""Files that belong together, such as clips of one recording, so that a split never tears them apart."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from mvrec.errors import UserError
from mvrec.messages import counted

AUTO, NONE = "auto", "none"
# The last counter of a stem: "_c03", "-part2", " (2)", or the two seconds of a span, "_000010_000020".
COUNTER = re.compile(
    r"(?P<stem>.*?[^ _.\-])"
    r"(?:_\d{6}_\d{6}|[ _.\-]*\(\d+\)|[ _.\-]+(?:part|clip|scene|shot|frame|take|seg|[a-z])?[ _\-]?\d+)",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"(?P<stem>.*?)[ _.\-]*\d+")  # the stem of a frame: "frame_0001", "0001"
MOST_OF_CLASS = 0.5  # a guessed group with more of a class's files says nothing about recordings


class Grouping(NamedTuple):
    """The groups of files.

    Attributes:
        of: The group of each path, in their order; a file without others in its group has its path.
        note: One line about a guess, with an example and how to turn it off; "" without one.
    """

    of: list[str]
    note: str = ""

    @property
    def repeats(self) -> bool:
        """Whether a group has several files."""
        return len(set(self.of)) < len(self.of)


def groups(
    paths: Sequence[str],
    rule: str = AUTO,
    *,
    columns: Sequence[dict[str, str]] | None = None,
    labels: Sequence[str] | None = None,
) -> Grouping:
    """Return which of the files belong together.

    Args:
        paths: Files, each once, relative to the data set: `class/.../name.mp4`.
        rule: "auto" guesses. Folders below those of classes are groups if they hold numbered files, as frames of
            videos do (`Punch/video_7/frame_0001.jpg`), and most classes have several. Else files are groups whose
            stems differ in their last counter (`v_Punch_g01_c03`, `game12_0003`, `name-part2`), unless one group had
            over half the files of a folder of several. "none" leaves each file alone. "folder:N" takes the first N
            folders of a path, "column:NAME" a column of the list. Anything else is a regular expression on the path:
            its first capture group, else the whole match; files that it does not match stay alone.
        columns: The columns of each file's row, for "column:NAME".
        labels: The class of each file; by default the first folder of its path.

    Raises:
        UserError: The rule is malformed, or fits none of the files.
    """
    if rule == NONE or not paths:
        return Grouping(list(paths))
    if rule == AUTO:
        return _frames_of_folders(paths, labels) or _guessed(paths)
    kind, _, value = rule.partition(":")
    if kind == "folder" and value:
        return _by_folder(paths, rule, value)
    if kind == "column" and value:
        return _by_column(paths, rule, value, columns)
    return _by_pattern(paths, rule)


def check_rule(rule: str) -> str:
    """Return a rule after a check of its form.

    Raises:
        UserError: It is no level, or no regular expression.
    """
    kind, _, value = rule.partition(":")
    if kind == "folder" and value:
        _level(rule, value)
    elif kind != "column":
        _compiled(rule)
    return rule


def _frames_of_folders(paths: Sequence[str], labels: Sequence[str] | None) -> Grouping | None:
    """Return the folders of numbered files below folders of classes as groups; `None` if files do not lie so."""
    folders = [PurePosixPath(path).parent for path in paths]
    stems: dict[PurePosixPath, set[str]] = {}
    counts, labels_of = Counter(folders), labels or [folder.parts[0] if folder.parts else "" for folder in folders]
    for path, folder in zip(paths, folders, strict=True):
        match = NUMBERED.fullmatch(PurePosixPath(path).stem)
        stems.setdefault(folder, set()).add(match["stem"] if match else path)
    numbered = {f for f, of_folder in stems.items() if len(f.parts) > 1 and len(of_folder) == 1 and counts[f] > 1}
    # Side by side: train/grow and val/grow are folders of a class in two splits.
    neighbours: dict[tuple[str, PurePosixPath], set[PurePosixPath]] = {}
    for folder, label in zip(folders, labels_of, strict=True):
        if folder in numbered:
            neighbours.setdefault((label, folder.parent), set()).add(folder)
    several = {label for (label, _), of_label in neighbours.items() if len(of_label) > 1}
    is_numbered = sum(counts[folder] for folder in numbered) > MOST_OF_CLASS * len(paths)
    if not is_numbered or 2 * len(several) <= len(set(labels_of)):
        return None
    of = [str(folder) if folder in numbered else path for folder, path in zip(folders, paths, strict=True)]
    example = next(folder for folder in folders if folder in numbered)
    return Grouping(
        of,
        f"{counted(len(numbered), 'folders')} of numbered files, such as {example}, stay together in a split, each as "
        "frames of one video; if they are unrelated: --data.group none",
    )


def _guessed(paths: Sequence[str]) -> Grouping:
    stems = [_without_counter(path) for path in paths]
    counts = Counter(stem for stem in stems if stem)
    of = [stem if stem and counts[stem] > 1 else path for stem, path in zip(stems, paths, strict=True)]
    folders = [str(PurePosixPath(path).parent) for path in paths]
    of_folder, parts = Counter(folders), Counter(zip(folders, of, strict=True))
    if len(set(of)) == len(paths) or max(Counter(of).values()) > MOST_OF_CLASS * len(paths):
        return Grouping(list(paths))
    if any(count > MOST_OF_CLASS * of_folder[folder] for (folder, _), count in parts.items() if of_folder[folder] > 1):
        return Grouping(list(paths))
    sizes = Counter(of)
    number = sum(1 for size in sizes.values() if size > 1)
    example = next(group for group in of if sizes[group] > 1)
    first = [PurePosixPath(path).name for path, group in zip(paths, of, strict=True) if group == example][:2]
    return Grouping(
        of,
        f"{counted(number, 'groups')} of files with a common stem stay together in a split, such as {first[0]} and "
        f"{first[1]} ({example}); if they are unrelated: --data.group none",
    )


def _without_counter(path: str) -> str:
    match = COUNTER.fullmatch(PurePosixPath(path).stem)
    return match["stem"] if match else ""


def _by_folder(paths: Sequence[str], rule: str, value: str) -> Grouping:
    level = _level(rule, value)
    parents = [PurePosixPath(path).parts[:-1] for path in paths]
    of = [
        "/".join(folders[:level]) if len(folders) >= level else path
        for folders, path in zip(parents, paths, strict=True)
    ]
    if of == list(paths):
        raise UserError(
            f"data.group {rule!r}: no file lies {level} folders deep, such as {paths[0]}: take a lower level"
        )
    return Grouping(of)


def _by_column(paths: Sequence[str], rule: str, name: str, columns: Sequence[dict[str, str]] | None) -> Grouping:
    names = sorted({column for row in columns or () for column in row})
    if name not in names:
        has = f"the list has {', '.join(names)}" if names else "there is no list with columns of its own"
        raise UserError(f"data.group {rule!r}: no column {name!r}; {has}")
    return Grouping([row.get(name) or path for row, path in zip(columns or (), paths, strict=True)])


def _by_pattern(paths: Sequence[str], rule: str) -> Grouping:
    pattern = _compiled(rule)
    matches = [pattern.search(path) for path in paths]
    if not any(matches):
        raise UserError(f"data.group {rule!r}: matches no path, such as {paths[0]!r}")
    parts = [None if match is None else match[1 if pattern.groups else 0] for match in matches]
    return Grouping([path if group is None else group for group, path in zip(parts, paths, strict=True)])


def _level(rule: str, value: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", value):
        raise UserError(f"data.group {rule!r}: give the number of folders, such as folder:2 for class/recording/file")
    return int(value)


def _compiled(rule: str) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise UserError(f"data.group {rule!r}: no regular expression: {error}") from None
