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
from mvrec.data.loading.images import EvalImages, TrainImages, is_pillow, pillow_pixels, read_image
from mvrec.data.sets.image_data import ImageData
from mvrec.data.sets.recognition_data import RecognitionData, Split
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


def source_of(dataset: Any, path: Path, axes: str) -> Path | np.ndarray:
    """Return the file of a row, or the array of an item whose row has its number.

    Args:
        dataset: The dataset.
        path: The row's file, or its split and number.
        axes: Axes of an array before the colours: "T, H, W" or "H, W".

    Raises:
        PartError: The dataset raises an exception, or gives something else.
    """
    split, name = path.parent.name, path.name
    if not name.isdecimal():
        return path
    source, _ = item_of(dataset, split, int(name))
    if isinstance(source, str | Path):
        return Path(source)
    array = pillow_pixels(source) if is_pillow(source) else np.asarray(source)
    if array.ndim != axes.count(",") + 2 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        hint = "; multiply by 255" if array.dtype.kind == "f" and array.size and array.max() <= 1 else ""
        raise PartError(
            f"data.{split}: item {name} is {array.dtype} {array.shape}, expected uint8 ({axes}, 3) RGB{hint}"
        )
    return array


def video_of(dataset: Any, path: Path, decoder: Decoder) -> Video:
    """Open the item of a row.

    Raises:
        DecodeError: The file cannot be read.
        PartError: See `source_of`.
    """
    source = source_of(dataset, path, "T, H, W")
    if isinstance(source, Path):
        return open_video(source, decoder=decoder)
    return ArrayVideo(f"data.{path.parent.name} item {path.name}", source)


def image_of(dataset: Any, path: Path, *, upright: bool) -> np.ndarray:
    """Return the image of a row: uint8 (H, W, 3); errors as of `video_of`."""
    source = source_of(dataset, path, "H, W")
    return read_image(source, upright=upright) if isinstance(source, Path) else source


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


@dataclass(frozen=True)
class OwnTrainImages(TrainImages):
    """Random views of a dataset's items; see `TrainImages`."""

    dataset: Any = field(default=None, kw_only=True)

    def read(self, path: Any) -> np.ndarray:
        """Read a row's file or array."""
        return image_of(self.dataset, path, upright=self.upright)


@dataclass(frozen=True)
class OwnEvalImages(EvalImages):
    """The view of each of a dataset's items; see `EvalImages`."""

    dataset: Any = field(default=None, kw_only=True)

    def read(self, path: Any) -> np.ndarray:
        """Read a row's file or array."""
        return image_of(self.dataset, path, upright=self.protocol.upright)


class OwnItems(RecognitionData):
    """The part that data modules of datasets of one's own share."""

    datasets: dict[str, Dataset | None]

    def find_layout(self) -> Layout:
        """Return the datasets' items."""
        return Items(self.root, self.kind, self.datasets)

    def dataset_of(self, split: Split) -> Dataset | None:
        """Return the dataset that a split reads."""
        return self.datasets[self.test_split if split == "test" else split]


# Both data modules list their arguments: jsonargparse does not follow `super()` of a mixin to the class after it.
class VideoDataset(OwnItems, VideoData):
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

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainClips:
        """Return random clips of the training set's items."""
        return OwnTrainClips(**vars(super().train_dataset(index, seed=seed)), dataset=self.datasets["train"])

    def eval_dataset(self, split: Split) -> EvalClips:
        """Return the views of a split's items."""
        return OwnEvalClips(**vars(super().eval_dataset(split)), dataset=self.dataset_of(split))


class ImageDataset(OwnItems, ImageData):
    """Images from datasets of one's own, each item `(path or uint8 array (H, W, 3), label)`.

    Images of Pillow will do too, so datasets of torchvision do. Labels are those of `VideoDataset`. Images are turned
    as their EXIF block says.

    Args:
        train: The training set: the class path of a `torch.utils.data.Dataset` with its arguments.
        val: The validation set.
        test: The test set; by default `test` and `predict` read the validation set.
        root: The folder to which relative paths refer.
        knobs: See `ImageData`.
    """

    upright = True

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

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainImages:
        """Return random views of the training set's items."""
        return OwnTrainImages(**vars(super().train_dataset(index, seed=seed)), dataset=self.datasets["train"])

    def eval_dataset(self, split: Split) -> EvalImages:
        """Return the view of each of a split's items."""
        return OwnEvalImages(**vars(super().eval_dataset(split)), dataset=self.dataset_of(split))
