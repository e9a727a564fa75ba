"""The common layouts of Kinetics, and the annotation CSVs of DeepMind and CVDF."""

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from mvrec.data.listing.class_names import class_names_of
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import SPLITS, Layout, ListsAndFolders, visible
from mvrec.data.listing.lists import YOUTUBE_COLUMNS, Row, csv_lines, is_youtube_csv, open_text
from mvrec.errors import UserError

KineticsLayout = Literal["auto", "lists", "folders", "cvdf", "opendatalab"]

_SYNONYMS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}


def find_kinetics_layout(root: Path, *, layout: KineticsLayout = "auto", annotations: Path | None = None) -> Layout:
    """Return the layout of a folder of videos.

    "auto" takes the first of these that exists: lists of mvrec, of SlowFast or of mmaction2, with class folders for
    splits without one; annotation CSVs; class folders in `root`; those in `root/videos` or in
    `root/Kinetics-400/videos`, as OpenDataLab packs them.

    Args:
        root: The data set.
        layout: The layout to read if there are several.
        annotations: The folder of lists or CSVs, if it is neither `root` nor `root/annotations`.

    Raises:
        UserError: The requested layout does not exist.
    """
    if annotations is not None and not annotations.is_dir():
        raise UserError(f"data.annotations={str(annotations)!r} is not a directory")
    if layout != "auto":
        candidates = _candidates(root, annotations)[layout]
        if (first := _first(candidates)) is None:
            raise UserError(f"data.layout={layout}: nothing of the kind in {root}; expected {candidates[0].expected()}")
        return first
    lists = [ListsAndFolders(root, VIDEOS, annotations=folder) for folder in _list_folders(root, annotations)]
    listed = next((layout for layout in lists if any(layout.list_of(split) is not None for split in SPLITS)), None)
    layout_found = listed or _first(chain.from_iterable(_candidates(root, annotations).values()))
    return layout_found if layout_found is not None else lists[0]  # its messages name what is expected


def _candidates(root: Path, annotations: Path | None) -> dict[str, list[Layout]]:
    """Return the possible readers of a root by layout, in the order of "auto"."""
    packed = sorted(path for path in root.glob("[Kk]inetics[-_]*") if path.is_dir())
    bases = [root, *packed]
    lists = _list_folders(root, annotations)
    return {
        "lists": [ListsAndFolders(root, VIDEOS, annotations=folder, folders=None) for folder in lists],
        "cvdf": [AnnotatedVideos(base, annotations=annotations) for base in bases],
        "folders": [ListsAndFolders(root, VIDEOS, lists=False)],
        "opendatalab": [
            *(ListsAndFolders(base, VIDEOS, lists=False, folders="videos") for base in bases),
            *(ListsAndFolders(base, VIDEOS, lists=False) for base in packed),
        ],
    }


def _list_folders(root: Path, annotations: Path | None) -> list[Path]:
    return [annotations] if annotations is not None else [root, root / "annotations"]


def _first(candidates: Iterable[Layout]) -> Layout | None:
    return next((layout for layout in candidates if any(layout.has(split) for split in SPLITS)), None)


class AnnotatedVideos(Layout):
    """Videos named `<youtube id>_<start>_<end>.mp4`, with their classes in the CSVs of DeepMind and CVDF.

    The CSVs, `label,youtube_id,time_start,time_end,split`, are in `root/annotations` or in the root. The videos of a
    split are in the folder with its name, flat or in class folders, or all in `root/videos`. A video in
    `root/replacement` replaces the one of the same name, as CVDF's `replacement_for_corrupted_k400` intends. Missing
    videos are counted and skipped.

    Args:
        root: The data set.
        annotations: The folder of the CSVs.
    """

    title = "annotation CSVs"

    def __init__(self, root: Path, *, annotations: Path | None = None) -> None:
        super().__init__(root, VIDEOS)
        self._annotations = annotations

    def csv_of(self, split: str) -> Path | None:
        """Return the CSV of a split.

        Raises:
            UserError: The split has several CSVs.
        """
        for folder in [self._annotations] if self._annotations is not None else [self.root / "annotations", self.root]:
            patterns = [f"{pattern}.csv" for name in _SYNONYMS[split] for pattern in (name, f"[Kk]inetics*[_-]{name}")]
            for below in ("", "[Kk]inetics*/"):
                paths = sorted({path for pattern in patterns for path in folder.glob(below + pattern)})
                paths = [path for path in paths if path.is_file() and is_youtube_csv(path)]
                if len(paths) > 1:
                    raise UserError(
                        f"{paths[0]} and {paths[1]} both annotate {split}: name the folder of one with data.annotations"
                    )
                if paths:
                    return paths[0]
        return None

    def has(self, split: str) -> bool:
        """Return whether the split has a CSV."""
        return self.csv_of(split) is not None

    def place(self, split: str) -> str:
        """Return the CSV's path."""
        return str(self.csv_of(split))

    def expected(self) -> str:
        """Return the expected CSVs."""
        folder = self._annotations or self.root / "annotations"
        return f"{folder}/train.csv, val.csv and test.csv with the columns label,{','.join(YOUTUBE_COLUMNS)}"

    def missing(self, split: str) -> str:
        """Return the name of the missing CSV."""
        return f"no annotation CSV {split}.csv"

    def class_names(self) -> list[str]:
        """Return the names in `root/classes.txt`, else those of the first CSV with labels, sorted like DeepMind's."""
        if names := super().class_names():
            return names
        for split in SPLITS:
            listed = self.csv_of(split)
            if listed is not None and split != "test":
                return class_names_of({label: f"{listed}:{line}" for line, label, _ in _annotations(listed)})
        return []

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the existing videos of the CSV."""
        listed = self.csv_of(split)
        assert listed is not None
        folder = self._folder_of(split)
        files = _by_stem(folder, self.root)
        for replacement in sorted(self.root.glob("replacement*")):
            if replacement.is_dir():
                files.update(_by_stem(replacement, self.root))
        source, expected, available, example = str(listed), 0, 0, ""
        for line, label, stem in _annotations(listed):
            expected += 1
            name = files.get(stem)
            if name is None:
                example = example or stem
                continue
            available += 1
            yield Row(name, label, source=source, line=line)
        if expected and not available:
            other = f"there is {next(iter(files.values()))}" if files else "there are no videos"
            raise UserError(
                f"{listed}: none of its {expected} videos is in {folder} ({example}.mp4 is not; {other}); to read "
                "class folders alone, set data.layout=folders"
            )
        self.notes.append(
            (logging.INFO, f"{listed}: {expected} videos expected, {available} found, {expected - available} missing")
        )

    def _folder_of(self, split: str) -> Path:
        names = _SYNONYMS[split]
        for folder in [self.root / below / name for below in ("", "videos") for name in names]:
            if folder.is_dir():
                return folder
        videos = self.root / "videos"
        return videos if videos.is_dir() else self.root


def _annotations(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, label and file name without its extension of every row of an annotation CSV."""
    with open_text(path) as file:
        lines = csv_lines(path, file, delimiter=",")
        columns = [column.lower() for column in next(lines)[1]]
        if "label" not in columns:
            raise UserError(f"{path}: no column 'label': the videos of this split cannot be scored")
        label, video, start, end = (columns.index(name) for name in ("label", *YOUTUBE_COLUMNS))
        for line, fields in lines:
            if len(fields) != len(columns):
                raise UserError(f"{path}:{line}: {len(fields)} fields, the header has {len(columns)}")
            if not fields[label] or not fields[video]:
                raise UserError(f"{path}:{line}: label and youtube_id must not be empty")
            try:
                span = int(float(fields[start])), int(float(fields[end]))
            except (ValueError, OverflowError):
                raise UserError(f"{path}:{line}: {fields[start]!r}..{fields[end]!r} are not seconds") from None
            yield line, fields[label], f"{fields[video]}_{span[0]:06d}_{span[1]:06d}"


def _by_stem(folder: Path, root: Path) -> dict[str, str]:
    """Return the paths, relative to the root, of the videos below a folder, by names without extension."""
    videos: dict[str, str] = {}
    folders = [folder.relative_to(root).as_posix()]
    while folders:
        below = folders.pop()
        prefix = "" if below == "." else f"{below}/"
        for entry in visible(root / below):
            stem, extension = os.path.splitext(entry.name)  # noqa: PTH122 - a Path each costs seconds
            if extension.lower() in VIDEOS.extensions:
                videos[stem] = f"{prefix}{entry.name}"
            elif entry.is_dir():
                folders.append(f"{prefix}{entry.name}")
    return videos
