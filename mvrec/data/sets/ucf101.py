"""UCF101 in its official splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.class_names import ClassNames, class_names_of
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import Layout, first_folder
from mvrec.data.listing.lists import Row, open_text
from mvrec.data.sets.video_data import VideoData
from mvrec.errors import UserError
from mvrec.files import at_home

OfficialSplit = Literal[1, 2, 3]


class UCF101(VideoData):
    """Clips of UCF101 (Soomro et al. 2012): 101 classes in three splits into train and test.

    The lists `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt` are in `root/ucfTrainTestlist` or in `root`, the
    videos `<class name>/<video>.avi` in `root/UCF-101`, `root/videos` or `root`. There is no validation split: val
    reads the test list, as results on this data set are commonly reported. The official result is the mean of the
    three splits.

    Args:
        root: The data set.
        split: The number of the official split.
        annotations: The folder of the lists, if it is elsewhere.
        **knobs: See `VideoData`.

    Raises:
        UserError: From `setup`: missing or malformed lists.
    """

    def __init__(
        self,
        root: str,
        *,
        split: OfficialSplit = 1,
        annotations: str | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self.split, self._annotations = split, annotations

    def find_layout(self) -> Layout:
        """Return the lists of one of the three splits."""
        lists = at_home(self._annotations) if self._annotations is not None else None
        return UCF101Lists(self.root, split=self.split, annotations=lists)


class UCF101Lists(Layout):
    """`classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`; see `UCF101`."""

    title = "the lists of UCF101"

    def __init__(self, root: Path, *, split: int, annotations: Path | None = None) -> None:
        super().__init__(first_folder(root, ("UCF-101", "UCF101", "videos", "")), VIDEOS)
        self._lists = annotations or first_folder(root, ("ucfTrainTestlist", "annotations", "splits", ""))
        self._number = split

    def _list(self, split: str) -> Path:
        return self._lists / f"{'train' if split == 'train' else 'test'}list{self._number:02d}.txt"

    def has(self, split: str) -> bool:
        """Return whether the split's list exists."""
        return self._list(split).is_file()

    def place(self, split: str) -> str:
        """Return the list's path."""
        return str(self._list(split))

    def expected(self) -> str:
        """Return the expected lists."""
        return f"{self._list('train')} and {self._list('test')}"

    def class_names(self) -> list[str]:
        """Return the names in `classInd.txt`; without it, the sorted folders in the training list."""
        if names := read_class_names(self._lists / "classInd.txt"):
            return names
        return class_names_of({row.label: row.where for row in self.rows("train")}) if self.has("train") else []

    def rows(self, split: str) -> Iterator[Row]:
        """Yield lines `<class name>/<video>`, in the training list with the class number, from 1 on."""
        listed = self._list(split)
        classes = ClassNames(read_class_names(self._lists / "classInd.txt"))
        with open_text(listed) as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                name, blank, number = text.strip().rpartition(" ")
                name = name if blank and number.isdecimal() else text.strip()
                label, slash, video = name.partition("/")
                if not slash or not video:
                    raise UserError(f"{listed}:{line}: expected `<class name>/<video>`, got {name[:80]!r}")
                row = Row(name, label, source=str(listed), line=line)
                if (
                    number.isdecimal()
                    and blank
                    and classes.names
                    and classes.number(label, where=row.where) != int(number) - 1
                ):
                    raise UserError(f"{row.where}: class {label!r} is not number {number} of classInd.txt")
                yield row
