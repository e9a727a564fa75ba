"""The common part of datasets of clips and images: from a key to an item, and the handling of bad files."""

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvrec.class_paths import WHERE
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.batch import PADDING_ID, BadSample, Item, SampleKey
from mvrec.data.loading.step_times import stage
from mvrec.data.views.geometry import Geometry, choose_geometry
from mvrec.data.views.own_augment import apply_own, own_frames
from mvrec.data.views.targets import NoTarget, Target
from mvrec.data.views.transforms import Augment, pixel_seed, train_view
from mvrec.errors import DecodeError, PartError
from mvrec.machine import machine_fault
from mvrec.seeds import derive_seed

# Imported before loader processes are forked, each of which would import them otherwise.
LIBRARIES = ("torchvision.transforms.v2.functional",)
SUBSTITUTES = 10  # files tried in place of an unreadable one before training stops


class _Reading:
    """The receiver of announcements of the next file: in a reading process its guard; see `mvrec.data.loading.guard`.

    Attributes:
        announce: Called with row and path; raises `DecodeError` for a quarantined file.
    """

    announce: Callable[[int, str], None]


reading = _Reading()
reading.announce = lambda number, path: None


class FileViews(NamedTuple):
    """The views of a file, and the geometry of each.

    Attributes:
        pixels: uint8 (V, T, C, H, W), images without T.
        geometries: One per view.
    """

    pixels: Tensor
    geometries: tuple[Geometry, ...]


def broken_part(error: PartError, number: int, path: object) -> BadSample:
    """Return the entry that ends a run because a part of the user's raised an exception on a file."""
    message = str(error).removesuffix(WHERE)
    return BadSample(number, str(path), "", stop=f"{message}, file {path}{WHERE if message != str(error) else ''}")


class TrainSamples(Dataset[Item]):
    """Random views of an index, `repeats` of them per file from one decode.

    An item's key is a `SampleKey`; (seed, epoch, index) determine all that is random about it, so workers and restarts
    cannot change it. A file that cannot be read is replaced by another one, chosen the same way, and reported.
    """

    index: SampleIndex
    size: int
    augment: Augment
    repeats: int
    seed: int
    is_video: ClassVar[bool]
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES

    @abstractmethod
    def frames(self, sample: Sample, rng: random.Random) -> np.ndarray:
        """Return the frames of which all views are made: uint8 (T, H, W, C), of images T is 1.

        Args:
            sample: The file.
            rng: Source of the random choices.

        Raises:
            DecodeError: The file cannot be read.
        """

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Item:
        bad: list[BadSample] = []
        number = key.index
        for attempt in range(SUBSTITUTES):
            if attempt:
                number = derive_seed(self.seed, key.epoch, key.index, "substitute", attempt) % len(self.index)
            sample = self.index[number]
            try:
                reading.announce(number, str(sample.path))
                return self._item(sample, number, key)._replace(bad=tuple(bad))
            except PartError as error:
                return Item(None, (), PADDING_ID, bad=(broken_part(error, number, sample.path),))
            except DecodeError as error:
                bad.append(BadSample(number, str(sample.path), error.cause, stop=machine_fault(error) or ""))
                if bad[-1].stop:  # no other file would do better
                    return Item(None, (), PADDING_ID, bad=tuple(bad))
        bad[-1] = bad[-1]._replace(stop=f"{SUBSTITUTES} files in a row could not be read")
        return Item(None, (), PADDING_ID, bad=tuple(bad))

    def _item(self, sample: Sample, number: int, key: SampleKey) -> Item:
        repeats = range(self.repeats) if key.repeats is None else key.repeats
        seeds = tuple(derive_seed(self.seed, key.epoch, key.index, "view", repeat) for repeat in repeats)
        rng = random.Random(derive_seed(self.seed, key.epoch, key.index, "clip"))
        target, frames = self.index.target(number), self.frames(sample, rng)
        target = self.fitted(number, target, *frames.shape[1:3])
        with stage("transform"):
            views, targets = self.views(frames, target, [pixel_seed(seed) for seed in seeds])
        return Item(views, targets, number, seeds, view_ids=tuple(repeats))

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the target of a row for frames of this size: unchanged by default.

        Raises:
            DecodeError: It does not fit them.
        """
        return target

    def views(self, frames: np.ndarray, target: Target, seeds: Sequence[int]) -> tuple[Tensor, tuple[Target, ...]]:
        """Return a view and its target for every seed: uint8 (V, T, C, size, size), images without T."""
        augment, ways, views = self.augment, [], []
        for seed in seeds:
            whole = frames if augment.before_crop is None else own_frames(frames, augment.before_crop, seed=seed)
            way = choose_geometry(*whole.shape[1:3], size=self.size, augment=augment, seed=seed)
            view = train_view(whole, way, rand_augment=augment.rand_augment, seed=seed)
            if augment.after_crop is not None:
                view = apply_own(view, augment.after_crop, key="after_crop", seed=seed)
            ways.append(way)
            views.append(view)
        pixels = torch.stack(views) if self.is_video else torch.cat(views)  # an image has one frame
        return pixels, tuple(target.moved(way) for way in ways)


class EvalSamples(Dataset[Item]):
    """All views of each file of an index, from one decode. Nothing is random, nothing is replaced.

    A key whose `repeats` names some of the views gets only these, so that processes can share the views of a file.
    """

    index: SampleIndex
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES

    @abstractmethod
    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the protocol's views of row `number`.

        Args:
            sample: The file.
            number: Its row.
            only: Numbers of the requested views; `None` for all.

        Raises:
            DecodeError: The file cannot be read.
        """

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the target of a row for frames of this size: unchanged by default.

        Raises:
            DecodeError: It does not fit them.
        """
        return target

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Item:
        sample = self.index[key.index]
        target: Target = NoTarget()
        sample_id = key.index if key.counted else PADDING_ID
        try:
            target = self.index.target(key.index)
            reading.announce(key.index, str(sample.path))
            views, geometries = self.views(sample, key.index, only=key.repeats)
            if geometries:
                whole = geometries[0].box  # evaluation crops after scaling
                target = self.fitted(key.index, target, whole.height, whole.width)
        except PartError as error:
            return Item(None, (target,), sample_id, bad=(broken_part(error, key.index, sample.path),))
        except DecodeError as error:
            bad = BadSample(key.index, str(sample.path), error.cause, stop=machine_fault(error) or "", target=target)
            return Item(None, (target,), sample_id, bad=(bad,) if key.counted else ())
        numbers = tuple(range(len(views)) if key.repeats is None else key.repeats)
        targets = tuple(target.moved(geometry) for geometry in geometries)
        return Item(views, targets, sample_id, seeds=numbers, view_ids=numbers)
