"""Layouts of videos with boxes: where the lists of boxes of a split are."""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mvrec.data.listing.boxes.finding import WHOLE, find_lists
from mvrec.data.listing.boxes.media import are_ids, named_videos
from mvrec.data.listing.boxes.reading import FrameRule, read_boxes
from mvrec.data.listing.boxes.rows import BoxRow, FaultKind, Faults
from mvrec.data.listing.boxes.table import BoxTable, pack_boxes
from mvrec.data.listing.boxes.targets import KeyFrames
from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.class_names import ClassNames, class_names_of
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.folds import usual_val_fraction
from mvrec.data.listing.groups.splits import path_share
from mvrec.data.listing.layouts import PROBED, SPLITS, Layout, find_prefix
from mvrec.data.listing.lists import Row
from mvrec.errors import UserError


class BoxLayout(Layout):
    """Videos with boxes in key frames: a table of true boxes per split.

    Args:
        root: The folder to which names of videos are relative.
        faults: What happens to boxes without area, or outside the picture.
        rule: The way from frames of tracks to key frames.

    Attributes:
        key_frames: The key frames of the splits whose rows a data module has decided; by default those of the truth.
        left_out: The boxes with faults that were left out so far: their number and the first one's message, by kind.
    """

    def __init__(self, root: Path, faults: Faults, rule: FrameRule = FrameRule()) -> None:  # noqa: B008 - a tuple
        super().__init__(root, VIDEOS)
        self.faults, self.rule = faults, rule
        self.key_frames: dict[str, KeyFrames] = {}
        self._tables: dict[str, BoxTable] = {}
        self._videos: dict[str, str] | None = None
        self.left_out: dict[FaultKind, tuple[int, str]] = {}

    @abstractmethod
    def read(self, split: str) -> BoxTable:
        """Return the boxes of an existing split with the labels of its list."""

    def table(self, split: str) -> BoxTable:
        """Return the boxes of an existing split, read once.

        Raises:
            UserError: A malformed list.
        """
        if split not in self._tables:
            self._tables[split] = self.read(split)
            self._note_faults(split)
        return self._tables[split]

    def rows(self, split: str) -> Iterator[Row]:
        """Yield a row per key frame; see `KeyFrames.rows`."""
        key_frames = self.key_frames.get(split) or KeyFrames(self.table(split), training=split == "train")
        return key_frames.rows(split)

    def class_names(self) -> list[str]:
        """Return the names of `classes.txt`, else the labels of the training boxes."""
        if names := read_class_names(self.root / "classes.txt"):
            return names
        split = next(split for split in SPLITS if self.has(split))
        table = self.table(split)
        return class_names_of(dict(zip(table.labels, table.first_places, strict=True)), multi_label=True)

    def class_numbers(self, table: BoxTable, names: Sequence[str]) -> list[int]:
        """Return the class of each label of a table.

        Raises:
            UserError: A label that is no class, with its place.
        """
        classes = ClassNames(names)
        places = zip(table.labels, table.first_places, strict=True)
        return [classes.number(label, where=where) for label, where in places]

    def placed(self, table: BoxTable, split: str) -> BoxTable:
        """Return the boxes of a list with the videos' paths below the root; names without ending are those of files.

        Raises:
            UserError: The list is empty, or it has names, and no video below the root has one of them.
        """
        if not table.videos:
            raise UserError(f"{self.place(split or 'train')}: there are no boxes in it")
        probed, source = list(table.videos[:PROBED]), table.source
        prefix = find_prefix(self.root, split or "videos", [Row(video, "") for video in probed])
        if prefix is None and (are_ids(probed) or any(self.find_video(video) for video in probed)):
            return self._named(table, source, split)
        if prefix is None:
            text = f"{source}: none of the first {len(probed)} videos exists, such as {self.root / probed[0]}"
            self.notes.append((logging.WARNING, text))
        elif prefix:
            self.notes.append((logging.INFO, f"{source}: taking its paths as relative to {self.root / prefix}"))
            return table.renamed({name: f"{prefix}{name}" for name in table.videos if not name.startswith("/")})
        return table

    def find_video(self, name: str) -> str | None:
        """Return the path of a video with a name, below the root."""
        if self._videos is None:
            self._videos = self.find_videos()
        return self._videos.get(name) or self._videos.get(PurePosixPath(name).stem)

    def _named(self, table: BoxTable, source: str, split: str) -> BoxTable:
        """Return the boxes of a list with the paths of the videos that it names; training goes without the missing."""
        files = {name: file for name in table.videos if (file := self.find_video(name))}
        missing = [name for name in table.videos if name not in files]
        if not files:
            raise UserError(f"{source}: no video {missing[0]} is in {self.root}; expected {self.expected_videos()}")
        if missing:
            count = f"{len(missing)} of {len(table.videos)} videos are missing, such as {missing[0]}"
            verdict = "left out of training" if split == "train" else "their boxes count as missed"
            self.notes.append((logging.WARNING, f"{source}: {count}; {verdict}"))
        if split == "train":
            table = table.only_videos(files.__contains__)
        return table.renamed({**{name: f"{name}.mp4" for name in missing}, **files})

    def excluded(self, split: str) -> set[tuple[str, float]]:
        """Return the key frames that do not count in the score of a split, by paths of videos and seconds: none."""
        return set()

    def find_videos(self) -> dict[str, str]:
        """Return the paths of videos by the names that lists give them."""
        return named_videos(self.root)

    def expected_videos(self) -> str:
        """Return where the videos of a list of names should be."""
        return f"{self.root}/videos/<name>.mp4"

    def good_rows(self, path: Path) -> Iterator[BoxRow]:
        """Yield the rows of a list without those that have faults.

        Raises:
            UserError: A malformed list, or a fault that is not left out.
        """
        return (row for row in read_boxes(path, self.rule) if self.faults.accepts(row))

    def _note_faults(self, split: str) -> None:
        for kind, count in self.faults.counts.items():
            before, first = self.left_out.get(kind, (0, self.faults.firsts[kind]))
            self.left_out[kind] = before + count, first
            verdict = "cut at the border of the picture" if kind == "cut" else "left out"
            boxes = "1 box is" if count == 1 else f"{count} boxes are"
            text = f"{self.place(split)}: {boxes} {verdict}, such as {self.faults.firsts[kind]}"
            self.notes.append((logging.WARNING, text))
        self.faults.counts.clear()
        self.faults.firsts.clear()


class BoxLists(BoxLayout):
    """Lists of boxes, `train.csv`, `val.csv` and `test.csv`, or one list `boxes.csv` whose videos are split.

    Args:
        root: The folder of the videos and lists.
        faults: See `BoxLayout`.
        lists: The list of each split, or one for all with the key "".
        val_fraction: The share of the videos of one list for val, those with the lowest hashes of their paths; `None`
            for that of `usual_val_fraction`, after the list is read.
        rule: See `BoxLayout`.
    """

    title = "lists of boxes"

    def __init__(
        self,
        root: Path,
        faults: Faults,
        lists: Mapping[str, Path],
        *,
        val_fraction: float | None,
        rule: FrameRule = FrameRule(),  # noqa: B008 - a tuple
    ) -> None:
        super().__init__(root, faults, rule)
        self.lists, self.val_fraction = lists, val_fraction
        self.splits_files = "" in lists  # type: ignore[misc]  # of this object
        self._whole: BoxTable | None = None

    def has(self, split: str) -> bool:
        """Return whether the split has a list, or gets a share of the videos."""
        if "" in self.lists:
            return split == "train" or (split == "val" and self.val_fraction != 0)
        return split in self.lists

    def place(self, split: str) -> str:
        """Return the path of the split's list."""
        return str(self.lists["" if "" in self.lists else split])

    def expected(self) -> str:
        """Return the expected lists."""
        return f"lists of boxes {self.root}/train.csv and {self.root}/val.csv, or {self.root}/{WHOLE[0]}.csv"

    def missing(self, split: str) -> str:
        """Return why the split is missing."""
        return "data.val_fraction is 0" if split == "val" and "" in self.lists else super().missing(split)

    def read(self, split: str) -> BoxTable:
        """Return the boxes of a split.

        Raises:
            UserError: A malformed list, or one with a single video, of which none is left for validation.
        """
        if "" not in self.lists:
            return self.placed(pack_boxes(self.good_rows(self.lists[split])), split)
        if self._whole is None:
            self._whole = self.placed(pack_boxes(self.good_rows(self.lists[""])), "")
        table = self._whole
        if self.val_fraction is None:
            self.val_fraction = usual_val_fraction(len(table.videos))
        if not self.val_fraction:
            return table
        if len(table.videos) < 2:
            raise UserError(
                f"{self.place(split)}: it has a single video, none is left for validation: add some, or set "
                "data.val_fraction 0"
            )
        number = min(max(round(self.val_fraction * len(table.videos)), 1), len(table.videos) - 1)
        ordered = sorted(table.videos, key=lambda video: (path_share(video), video))
        validated = set(ordered[:number])
        return table.only_videos(lambda video: (video in validated) == (split == "val"))


def find_box_lists(
    root: Path,
    faults: Faults,
    *,
    val_fraction: float | None,
    boxes: Path | None = None,
    rule: FrameRule = FrameRule(),  # noqa: B008 - a tuple
) -> BoxLists:
    """Return the lists of boxes of a root, those of splits before the one for all.

    Args:
        root: The folder of the videos and lists.
        faults: See `BoxLayout`.
        val_fraction: See `BoxLists`.
        boxes: The one list for all videos, in place of those in the root.
        rule: See `BoxLayout`.

    Raises:
        UserError: Two lists of a split, or none at all.
    """
    lists = find_lists(root) if boxes is None else {"": boxes}
    layout = BoxLists(root, faults, lists, val_fraction=val_fraction, rule=rule)
    if not lists:
        raise UserError(f"{root}: there are no boxes in it; expected {layout.expected()}")
    return layout
