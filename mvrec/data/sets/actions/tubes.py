"""UCF101-24 and JHMDB: a box around each person of an action, in every frame."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from mvrec.data.listing.boxes.layouts import BoxLayout
from mvrec.data.listing.boxes.media import FOLDERS_OF_FRAMES, named_videos
from mvrec.data.listing.boxes.rows import Faults
from mvrec.data.listing.boxes.table import BoxTable, pack_boxes
from mvrec.data.listing.boxes.tubes import Tubes, read_tubes, tube_rows
from mvrec.data.loading.key_frames import ListTimes
from mvrec.data.sets.actions.box_data import BoxData
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.ranges import check_ranges


class TubeData(BoxData):
    """Videos with tubes in a pickle. It is read without running code that it may hold.

    Annotated frames are key frames, and `val`, `test` and `predict` read the test videos, as results are commonly
    reported. Frames are read from the videos anywhere below the root, or with `frames` from folders of images
    `frames/<action>/<video>/00001.jpg`, which may also be called `rgb-images`, `Frames` or `rawframes`.

    Args:
        root: The data set.
        split: The number of the official split.
        annotations: The pickle, if it is elsewhere than in the root.
        frames: Whether to read folders of images in place of videos.
        key_frame_step: Every which annotated frame is a key frame, from the first frame of the video on.
        protocol: See `BoxData`; frames without a box are not annotated, and so not scored.
        bad_boxes: See `BoxData`.
        **knobs: See `BoxData`.

    Raises:
        UserError: From `setup`: a missing or malformed pickle, or no video at all.
    """

    pickles: ClassVar[tuple[str, ...]]  # names of the pickle
    fps: ClassVar[float]  # by which numbers of frames become times, for messages and files

    def __init__(
        self,
        root: str,
        *,
        split: Literal[1, 2, 3] = 1,
        annotations: str | None = None,
        frames: bool = False,
        key_frame_step: int = 1,
        protocol: str = "ava-gt-frames",
        bad_boxes: Literal["refuse", "drop"] = "drop",
        **knobs: Any,
    ) -> None:
        super().__init__(root, protocol=protocol, bad_boxes=bad_boxes, **knobs)
        check_ranges("data.", {"key_frame_step": key_frame_step})
        self.split, self.frames, self.step = split, frames, key_frame_step
        self._annotations = None if annotations is None else at_home(annotations)

    def find_boxes(self) -> "TubeLayout":
        """Return the tubes of the pickle."""
        names = [self.root / name for name in self.pickles]
        path = self._annotations or next((name for name in names if name.is_file()), names[0])
        return TubeLayout(self.root, self.faults, path, data=self)

    @property
    def times(self) -> ListTimes:
        """The meaning of times: numbers of frames."""
        return ListTimes(fps=self.fps)


class UCF101_24(TubeData):  # noqa: N801 - the data set's name
    """Videos of 24 classes of UCF101 (Soomro et al. 2012) with the corrected tubes of Singh et al. 2017.

    The pickle `UCF101v2-GT.pkl` is in the root, the videos `<action>/<video>.avi` anywhere below it.

    Args:
        root: The data set.
        **knobs: See `TubeData`.

    Raises:
        UserError: See `TubeData`.
    """

    pickles: ClassVar[tuple[str, ...]] = ("UCF101v2-GT.pkl", "UCF101-GT.pkl")
    fps: ClassVar[float] = 25.0

    def __init__(self, root: str, **knobs: Any) -> None:
        super().__init__(root, **knobs)


class JHMDB(TubeData):
    """Videos of 21 classes of HMDB51 with a box per frame (Jhuang et al. 2013), in three splits.

    The pickle `JHMDB-GT.pkl` is in the root, the videos `<action>/<video>.avi` anywhere below it.

    Args:
        root: The data set.
        **knobs: See `TubeData`.

    Raises:
        UserError: See `TubeData`.
    """

    pickles: ClassVar[tuple[str, ...]] = ("JHMDB-GT.pkl",)
    fps: ClassVar[float] = 30.0

    def __init__(self, root: str, **knobs: Any) -> None:
        super().__init__(root, **knobs)


class TubeLayout(BoxLayout):
    """The official splits of a pickle of tubes; see `TubeData`."""

    title = "tubes"

    def __init__(self, root: Path, faults: Faults, path: Path, *, data: TubeData) -> None:
        super().__init__(root, faults)
        self.path, self.number, self.step, self.fps = path, data.split, data.step, data.fps
        self.frames = data.frames

    @cached_property
    def tubes(self) -> Tubes:
        """The contents of the pickle."""
        tubes = read_tubes(self.path)
        splits = min(len(tubes.train), len(tubes.test))
        if self.number > splits:
            raise UserError(f"{self.path}: data.split {self.number} does not exist, it has {splits}")
        return tubes

    def has(self, split: str) -> bool:
        """Return whether the pickle exists; val are the test videos."""
        return split != "test" and self.path.is_file()

    def place(self, split: str) -> str:
        """Return the path of the pickle."""
        return str(self.path)

    def expected(self) -> str:
        """Return the expected pickle."""
        return f"{self.path}"

    def class_names(self) -> list[str]:
        """Return the names of the pickle."""
        return self.tubes.labels

    def read(self, split: str) -> BoxTable:
        """Return the boxes of a split."""
        tubes = self.tubes
        videos = (tubes.train if split == "train" else tubes.test)[self.number - 1]
        rows = tube_rows(tubes, videos, fps=self.fps, step=self.step, source=str(self.path))
        return self.placed(pack_boxes(row for row in rows if self.faults.accepts(row)), split)

    def find_videos(self) -> dict[str, str]:
        """Return the paths of videos, or of folders of their frames, by their names in the pickle."""
        if not self.frames:
            stems = named_videos(self.root)
            names = ((name, name.rpartition("/")[2]) for name in self.tubes.boxes)
            return {name: stems[stem] for name, stem in names if stem in stems}
        parent = next((name for name in FOLDERS_OF_FRAMES if (self.root / name).is_dir()), FOLDERS_OF_FRAMES[0])
        return {name: f"{parent}/{name}" for name in self.tubes.boxes if (self.root / parent / name).is_dir()}

    def expected_videos(self) -> str:
        """Return where the videos should be."""
        kind = "frames/<action>/<video>/00001.jpg" if self.frames else "videos/<action>/<video>.avi"
        return f"{self.root}/{kind}"
