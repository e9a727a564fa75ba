"""Charades: everyday actions at home, several at once."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvrec.data.listing.class_names import unique_names
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import Layout, files_below, first_folder
from mvrec.data.listing.lists import LABEL_SEPARATOR, Row, csv_lines, open_text, read_seconds
from mvrec.data.sets.video_data import VideoData
from mvrec.errors import UserError, nearest
from mvrec.files import at_home

_VIDEO_FOLDERS = ("Charades_v1_480", "Charades_v1", "videos", "")
_LIST_FOLDERS = ("Charades", "annotations", "")


class Charades(VideoData):
    """Clips of Charades (Sigurdsson et al. 2016): 9,848 videos of 157 actions, about seven per video.

    The lists `Charades_v1_train.csv`, `Charades_v1_test.csv` and `Charades_v1_classes.txt` are in `root/Charades`, as
    they are packed, in `root/annotations` or in `root`; the videos `<id>.mp4` in `root/Charades_v1_480`,
    `root/Charades_v1`, `root/videos` or `root`. There is no validation split: val reads the test list, as results on
    this data set are commonly reported. Missing videos are counted and skipped.

    The classes of a video are all in its column `actions`, whenever they happen, and every clip of it has all of
    them. SlowFast scores videos in this way; in training it takes only the actions of the clip's own frames.

    Args:
        root: The data set.
        annotations: The folder of the lists, if it is elsewhere.
        **knobs: See `VideoData`.

    Raises:
        UserError: From `setup`: missing or malformed lists.
    """

    def __init__(self, root: str, *, annotations: str | None = None, **knobs: Any) -> None:
        super().__init__(root, **knobs)
        self._annotations = annotations

    def find_layout(self) -> Layout:
        """Return the lists."""
        lists = at_home(self._annotations) if self._annotations is not None else None
        return CharadesLists(self.root, annotations=lists)


class CharadesLists(Layout):
    """`Charades_v1_train.csv` and `Charades_v1_test.csv` with the columns `id` and `actions`; see `Charades`."""

    title = "the lists of Charades"

    def __init__(self, root: Path, *, annotations: Path | None = None) -> None:
        super().__init__(first_folder(root, _VIDEO_FOLDERS), VIDEOS)
        self._folder = annotations or next(
            (root / name for name in _LIST_FOLDERS if (root / name / "Charades_v1_train.csv").is_file()),
            first_folder(root, _LIST_FOLDERS),
        )

    def _list(self, split: str) -> Path:
        return self._folder / f"Charades_v1_{'train' if split == 'train' else 'test'}.csv"

    @property
    def _classes(self) -> Path:
        return self._folder / "Charades_v1_classes.txt"

    def has(self, split: str) -> bool:
        """Return whether the split's list exists."""
        return self._list(split).is_file()

    def place(self, split: str) -> str:
        """Return the list's path."""
        return str(self._list(split))

    def expected(self) -> str:
        """Return the paths of the lists."""
        return f"{self._list('train')}, {self._list('test').name} and {self._classes.name}"

    def missing(self, split: str) -> str:
        """Return the path of the missing list."""
        return f"no {self._list(split)}"

    def class_names(self) -> list[str]:
        """Return the names in the videos' `classes.txt`, else in `Charades_v1_classes.txt`, in its order."""
        return super().class_names() or list(self._actions().values())

    def _actions(self) -> dict[str, str]:
        """Return the names of the actions by their codes, "c000" and so on."""
        codes: dict[str, int] = {}
        names = []
        with open_text(self._classes) as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                code, _, name = text.strip().partition(" ")
                if not _is_code(code) or not name.strip():
                    raise UserError(f"{self._classes}:{line}: expected `c000 <class name>`, got {text.strip()[:80]!r}")
                if codes.setdefault(code, line) != line:
                    raise UserError(f"{self._classes}:{line}: {code} is already listed, in line {codes[code]}")
                names.append(name.strip())
        return dict(zip(codes, unique_names(names), strict=True))

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the existing videos of the list, with the names of their actions."""
        listed, names = self._list(split), self._actions()
        files = {file.rpartition(".")[0]: file for file in files_below(str(self.root), VIDEOS)}
        expected = available = 0
        absent = ""
        for line, video, actions in _annotations(listed):
            expected += 1
            where = f"{listed}:{line}"
            labels = LABEL_SEPARATOR.join(dict.fromkeys(_action(text, names, where) for text in actions))
            if video not in files:
                absent = absent or f"{video}.mp4"
                continue
            available += 1
            yield Row(files[video], labels, source=str(listed), line=line, multi_label=True)
        if expected and not available:
            example = f"there is {next(iter(files.values()))}" if files else "there are no videos"
            raise UserError(f"{listed}: none of its {expected} videos is in {self.root} ({absent} is not; {example})")
        missing = f"{expected - available} missing{f', such as {absent}' if absent else ''}"
        self.notes.append((logging.INFO, f"{listed}: {expected} videos expected, {available} found, {missing}"))


def _annotations(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line, id and actions of every video of a list."""
    with open_text(path) as file:
        lines = csv_lines(path, file, delimiter=",")
        columns = next(lines, (1, [""]))[1]
        if not {"id", "actions"} <= set(columns):
            raise UserError(f"{path}:1: expected a header with the columns id and actions")
        video, actions = columns.index("id"), columns.index("actions")
        for line, fields in lines:
            if len(fields) != len(columns):
                raise UserError(f"{path}:{line}: {len(fields)} fields, the header has {len(columns)}")
            if not fields[video]:
                raise UserError(f"{path}:{line}: id must not be empty")
            yield line, fields[video], fields[actions].split(";") if fields[actions] else []


def _action(text: str, names: dict[str, str], where: str) -> str:
    """Return the name of an action such as `c092 11.90 21.20`."""
    parts = text.split()
    if len(parts) != 3 or not _is_code(parts[0]):
        raise UserError(f"{where}: expected actions as in `c092 11.90 21.20;c147 0.00 12.60`, got {text[:80]!r}")
    for second in parts[1:]:
        read_seconds(second, where)
    if parts[0] not in names:
        raise UserError(f"{where}: {parts[0]} is not one of the {len(names)} actions{nearest(parts[0], names)}")
    return names[parts[0]]


def _is_code(text: str) -> bool:
    return text.startswith("c") and text[1:].isdecimal()
