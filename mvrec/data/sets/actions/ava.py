"""AVA: atomic visual actions of people in films."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mvrec.data.listing.boxes.ava import read_ava, read_key_frame_list, read_label_map
from mvrec.data.listing.boxes.layouts import BoxLayout
from mvrec.data.listing.boxes.media import FOLDERS_OF_FRAMES, named_frame_folders, named_videos
from mvrec.data.listing.boxes.rows import Faults
from mvrec.data.listing.boxes.table import NO_CLASS, BoxTable, pack_boxes
from mvrec.data.listing.layouts import first_folder
from mvrec.data.loading.key_frames import ListTimes
from mvrec.data.sets.actions.box_data import BoxData
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.ranges import check_ranges

SCORED = 60  # classes of published figures; the lists have 80
CUT_SECONDS = 900.0  # from which on the annotated 15 minutes of each film are cut out
_FOLDERS = ("annotations", "ava", "ava/annotations", "")


class AVA(BoxData):
    """Clips of AVA (Gu et al. 2018): people in films, with what each does in every second.

    The files are those of the release, in `root/annotations` or in `root`: `ava_train_v2.2.csv` and `ava_val_v2.2.csv`,
    the label map `ava_action_list_v2.2_for_activitynet_2019.pbtxt`, which makes the 60 classes that are scored, and
    `ava_val_excluded_timestamps_v2.2.csv`. Rows of other classes are left out. `test` and `predict` read val, because
    the boxes of test are not public.

    Frames are read by time from the videos `<id>.mp4` (or .mkv, .webm and others) anywhere below the root: whole films,
    or the 15 minutes from minute 15 on with `offset` 900. `frames` reads folders `frames/<id>/` of images instead, 30
    per second, as other frameworks extract them.

    Published figures are scored with a detector's boxes (`detections`) and without antialiasing.

    Args:
        root: The data set.
        version: The release of the lists.
        annotations: The folder of the lists, if it is elsewhere.
        offset: Second of the film at which the files begin: 0 for whole films, 900 for the usual cut.
        frames: Whether to read folders of images in place of videos.
        min_score: See `BoxData`.
        bad_boxes: See `BoxData`.
        **knobs: See `BoxData`.

    Raises:
        UserError: From `setup`: a missing or malformed list, or no video at all.
    """

    antialias: ClassVar[bool] = False

    def __init__(
        self,
        root: str,
        *,
        version: Literal["2.1", "2.2"] = "2.2",
        annotations: str | None = None,
        offset: float = 0.0,
        frames: bool = False,
        min_score: float = 0.8,
        bad_boxes: Literal["refuse", "drop"] = "drop",
        **knobs: Any,
    ) -> None:
        super().__init__(root, min_score=min_score, bad_boxes=bad_boxes, **knobs)
        check_ranges("data.", {"offset": offset})
        self.version, self.offset, self.frames = version, offset, frames
        self._annotations = None if annotations is None else at_home(annotations)

    def find_boxes(self) -> "AVALists":
        """Return the lists of the release."""
        folder = self._annotations or first_folder(self.root, _FOLDERS[:-1])
        return AVALists(self.root, self.faults, folder=folder, version=self.version, frames=self.frames)

    @property
    def action_ids(self) -> tuple[int, ...]:
        """The number of each action in AVA's files, from 1 on."""
        assert isinstance(self.files, AVALists)
        ids = {name: int(number) for number, name in self.files.label_map.items()}
        return tuple(ids[name] for name in self.class_names)

    @property
    def times(self) -> ListTimes:
        """The meaning of the list's times: seconds of the film."""
        offset = CUT_SECONDS if self.frames else self.offset
        return ListTimes(offset, CUT_SECONDS)


class AVALists(BoxLayout):
    """The lists of AVA's release; see `AVA`."""

    title = "the lists of AVA"

    def __init__(self, root: Path, faults: Faults, *, folder: Path, version: str, frames: bool) -> None:
        super().__init__(root, faults)
        self.folder, self.version, self.frames = folder, version, frames

    def _list(self, split: str) -> Path:
        return self.folder / f"ava_{split}_v{self.version}.csv"

    def has(self, split: str) -> bool:
        """Return whether the split's list exists; that of test is not public."""
        return split != "test" and self._list(split).is_file()

    def place(self, split: str) -> str:
        """Return the path of the split's list."""
        return str(self._list(split))

    def expected(self) -> str:
        """Return the expected lists."""
        return f"{self._list('train')} and {self._list('val')}"

    def missing(self, split: str) -> str:
        """Return the path of the missing list."""
        return f"no {self._list(split)}"

    @cached_property
    def label_map(self) -> dict[str, str]:
        """The names of actions by their ids.

        Raises:
            UserError: There is no such file, or a malformed one.
        """
        stem = f"ava_action_list_v{self.version}"
        paths = sorted(self.folder.glob(f"{stem}_for_activitynet_*.pbtxt")) or sorted(
            self.folder.glob(f"{stem}*.pbtxt")
        )
        if not paths:
            raise UserError(f"{self.folder}: there is no {stem}_for_activitynet_2019.pbtxt, which names the classes")
        names = read_label_map(paths[-1])
        if len(names) != SCORED:
            other = f"published figures are means of the {SCORED} of {stem}_for_activitynet"
            text = f"{paths[-1]}: {len(names)} classes; {other}"
            self.notes.append((logging.WARNING, text))
        return names

    def class_names(self) -> list[str]:
        """Return the names of the label map."""
        return list(self.label_map.values())

    def class_numbers(self, table: BoxTable, names: Sequence[str]) -> list[int]:
        """Return the class of each label of a table; labels that the label map lacks are no class."""
        places = {name: number for number, name in enumerate(names)}
        numbers = [places.get(self.label_map.get(label, ""), NO_CLASS) for label in table.labels]
        if strange := [label for label in table.labels if not label.isdecimal()]:
            place = table.first_places[table.labels.index(strange[0])]
            raise UserError(f"{place}: the action {strange[0]!r} is not a number")
        others = int((np.array([*numbers, 0])[table.sets.values] == NO_CLASS).sum())
        if others:
            count = f"{others} rows of {numbers.count(NO_CLASS)} actions"
            text = f"{table.source}: {count} that the label map does not name are left out"
            self.notes.append((logging.INFO, text))
        return numbers

    def read(self, split: str) -> BoxTable:
        """Return the boxes of a split, in evaluation without the excluded key frames."""
        path = self._list(split)
        table = pack_boxes(row for row in read_ava(path) if self.faults.accepts(row))
        return self.placed(table, split)

    def excluded(self, split: str) -> set[tuple[str, float]]:
        """Return the key frames that do not count in the score of a split, by paths of videos and seconds."""
        path = self.folder / f"ava_{split}_excluded_timestamps_v{self.version}.csv"
        if split == "train" or not path.is_file():
            return set()
        files = self._videos or {}
        return {(files.get(video, f"{video}.mp4"), second) for video, second in read_key_frame_list(path)}

    def find_videos(self) -> dict[str, str]:
        """Return the paths of films, or of folders of their frames, by their ids."""
        return named_frame_folders(self.root) if self.frames else named_videos(self.root)

    def expected_videos(self) -> str:
        """Return where the films should be."""
        kind = "/<id>/<id>_000001.jpg" if self.frames else "/<id>.mp4"
        return f"{self.root}/{FOLDERS_OF_FRAMES[0] if self.frames else 'videos'}{kind}"
