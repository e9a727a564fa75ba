"""HMDB51 in its official splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import Layout, first_folder
from mvrec.data.listing.lists import Row, open_text
from mvrec.data.sets.video_data import VideoData
from mvrec.errors import UserError
from mvrec.files import at_home

OfficialSplit = Literal[1, 2, 3]


class HMDB51(VideoData):
    """Clips of HMDB51 (Kuehne et al. 2011): 51 classes, three splits with 70 training and 30 test videos each.

    The lists `<class name>_test_split<N>.txt` are in `root/testTrainMulti_7030_splits` or in `root`, the videos
    `<class name>/<video>.avi` in `root/hmdb51_org`, `root/videos` or `root`. There is no validation split: val reads
    the test videos, as results on this data set are commonly reported. The official result is the mean of the three.

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
        return HMDB51Lists(self.root, split=self.split, annotations=lists)


class HMDB51Lists(Layout):
    """`<class name>_test_split<N>.txt` with lines `<video> 1` (train), `2` (test) and `0` (neither); see `HMDB51`."""

    title = "the lists of HMDB51"

    def __init__(self, root: Path, *, split: int, annotations: Path | None = None) -> None:
        super().__init__(first_folder(root, ("hmdb51_org", "HMDB51", "hmdb51", "videos", "")), VIDEOS)
        folders = ("testTrainMulti_7030_splits", "test_train_splits", "annotations", "splits", "")
        self._folder = annotations or first_folder(root, folders)
        self._ending = f"_test_split{split}.txt"

    def _lists(self) -> list[Path]:
        return sorted(self._folder.glob(f"[!.]*{self._ending}"))

    def has(self, split: str) -> bool:
        """Return whether the lists exist."""
        return bool(self._lists())

    def place(self, split: str) -> str:
        """Return the paths of the lists."""
        return f"{self._folder}/*{self._ending}"

    def expected(self) -> str:
        """Return the expected lists."""
        return f"{self._folder}/<class name>{self._ending}"

    def class_names(self) -> list[str]:
        """Return the names of the lists, sorted."""
        return super().class_names() or [path.name.removesuffix(self._ending) for path in self._lists()]

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the videos that the lists mark for a split."""
        mark = "1" if split == "train" else "2"
        for listed in self._lists():
            name = listed.name.removesuffix(self._ending)
            with open_text(listed) as file:
                for line, text in enumerate(file, start=1):
                    if not text.strip():
                        continue
                    video, _, marked = text.strip().rpartition(" ")
                    if not video or marked not in ("0", "1", "2"):
                        raise UserError(f"{listed}:{line}: expected `<video> 0`, `1` or `2`, got {text.strip()[:80]!r}")
                    if marked == mark:
                        yield Row(f"{name}/{video.strip()}", name, source=str(listed), line=line)
