"""Data sets of the user's own: any map-style dataset of files or arrays with labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mvrec.class_paths import calling, path_of
from mvrec.data.listing.file_kinds import Kind
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.lists import Row
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.sets.recognition_data import Split
from mvrec.data.sets.video_data import VideoData
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Clock, Decoder, Video
from mvrec.errors import PartError, UserError

FPS = 30  # of arrays, whose rate is unknown


class ArrayVideo(Video):
    """The frames of an array as a video.

    Args:
        path: Its name in messages.
        array: uint8 (T, H, W, 3).
    """

    decoder = "array"

    def __init__(self, path: str, array: np.ndarray) -> None:
        clock = Clock(np.arange(len(array)), Fraction(1, FPS), last=1)
        super().__init__(path, num_frames=len(array), fps=FPS, clock=clock)
        self.array = array

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.array.shape[1], self.array.shape[2]

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        return self.array[indices]

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Items(Layout):
    """The items of datasets: `(path or array, label)`."""

    title = "a data set of one's own"

    def __init__(self, root: Path, kind: Kind, datasets: Mapping[str, Any]) -> None:
        super().__init__(root, kind)
        self.datasets = datasets

    def has(self, split: str) -> bool:
        """Return whether there is a dataset for the split."""
        return self.datasets.get(split) is not None

    def expected(self) -> str:
        """Return the argument that gives a split."""
        return "the arguments data.train, data.val and data.test, each a dataset"

    def missing(self, split: str) -> str:
        """Return the argument that gives a split."""
        return f"give data.{split}, a dataset like data.train"

    def place(self, split: str) -> str:
        """Return the class of a split's dataset."""
        return f"data.{split} ({path_of(self.datasets[split])})"

    def class_names(self) -> list[str]:
        """Return the attribute `classes` of the training set, or of another one; empty if none has it."""
        for dataset in self.datasets.values():
            if names := getattr(dataset, "classes", None) or getattr(dataset, "class_names", None):
                return [str(name) for name in names]
        return []

    def rows(self, split: str) -> Iterator[Row]:
        """Yield file or number, and label, of each item; those with an attribute `targets` are not read for it."""
        dataset, names = self.datasets[split], self.class_names()
        labels = getattr(dataset, "targets", None)
        for number in range(len(dataset)):
            item = None if labels is not None else item_of(dataset, split, number)
            label = labels[number] if labels is not None else item[1]  # type: ignore[index]
            source = None if item is None else item[0]
            path = str(Path(source).absolute()) if isinstance(source, str | Path) else f"{split}/{number}"
            is_number = not isinstance(label, str)
            if is_number and names and not 0 <= int(label) < len(names):
                raise UserError(
                    f"data.{split}: item {number} has the label {int(label)}, there are {len(names)} classes"
                )
            yield Row(path, names[int(label)] if is_number and names else str(int(label) if is_number else label))


def item_of(dataset: Any, split: str, number: int) -> tuple[Any, Any]:
    """Return an item: path or array, and label.

    Raises:
        PartError: The dataset raises an exception, or its item is something else.
    """
    with calling(f"data.{split}", dataset, note=f"item {number}"):
        item = dataset[number]
    if not isinstance(item, tuple | list) or len(item) != 2:
        kind = f"{len(item)} values" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise PartError(f"data.{split}: item {number} is {kind}, expected (path or uint8 array, label)")
    return item[0], item[1]


def video_of(dataset: Any, path: Path, decoder: Decoder) -> Video:
    """Open the item of a row: a file, or the array of an item whose row has its number.

    Raises:
        DecodeError: The file cannot be read.
        PartError: The dataset raises an exception, or gives something else.
    """
    split, name = path.parent.name, path.name
    if not name.isdecimal():
        return open_video(path, decoder=decoder)
    source, _ = item_of(dataset, split, int(name))
    if isinstance(source, str | Path):
        return open_video(Path(source), decoder=decoder)
    array = np.asarray(source)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        hint = "; multiply by 255" if array.dtype.kind == "f" and array.size and array.max() <= 1 else ""
        raise PartError(
            f"data.{split}: item {name} is {array.dtype} {array.shape}, expected uint8 (T, H, W, 3) RGB{hint}"
        )
    return ArrayVideo(f"data.{split} item {name}", array)


@dataclass(frozen=True)
class OwnTrainClips(TrainClips):
    """Random clips of a dataset's items; see `TrainClips`."""

    dataset: Any = field(default=None, kw_only=True)

    def open(self, path: Any, *, decoder: Decoder) -> Video:
        """Open a row's file or array."""
        return video_of(self.dataset, path, decoder)


@dataclass(frozen=True)
class OwnEvalClips(EvalClips):
    """The views of a dataset's items; see `EvalClips`."""

    dataset: Any = field(default=None, kw_only=True)

    def open(self, path: Any, *, decoder: Decoder) -> Video:
        """Open a row's file or array."""
        return video_of(self.dataset, path, decoder)


class VideoDataset(VideoData):
    """Videos from datasets of one's own, each item `(path or uint8 array (T, H, W, 3), label)`.

    A label is a class name, or its number if the dataset has a list `classes`. If it has a list `targets` with all
    labels, no item is read before it is used. Arrays count as 30 frames per second.

    Args:
        train: The training set: the class path of a `torch.utils.data.Dataset` with its arguments.
        val: The validation set.
        test: The test set; by default `test` and `predict` read the validation set.
        root: The folder to which relative paths refer.
        knobs: See `VideoData`.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        val: Dataset | None = None,
        test: Dataset | None = None,
        root: str = ".",
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self.datasets = {"train": train, "val": val, "test": test}

    @property
    def test_split(self) -> Split:
        """The split of `test` and `predict`."""
        return "test" if self.datasets["test"] is not None else "val"

    def find_layout(self) -> Layout:
        """Return the datasets' items."""
        return Items(self.root, self.kind, self.datasets)

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainClips:
        """Return random clips of the training set's items."""
        clips = super().train_dataset(index, seed=seed)
        return OwnTrainClips(**vars(clips), dataset=self.datasets["train"])

    def eval_dataset(self, split: Split) -> EvalClips:
        """Return the views of a split's items."""
        name = self.test_split if split == "test" else split
        return OwnEvalClips(**vars(super().eval_dataset(split)), dataset=self.datasets[name])
