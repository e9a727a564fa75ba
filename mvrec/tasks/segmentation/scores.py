"""Scores of segmentation: counts of pixels by true and predicted class, summed over all images.

Counts are integers, so a score depends neither on the number of processes nor on the batch. Intersection over union is
that of mmsegmentation: over all images, and averaged over the classes that occur or are predicted.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.views.targets import NOT_LABELLED, MaskMap, Target
from mvrec.tasks.scores import Scores, Tally

METRICS = ("miou", "mean_accuracy", "pixel_accuracy")
KEPT = 24  # images with the lowest pixel accuracy whose maps are kept for the report

Counts = npt.NDArray[np.int64]
Map = npt.NDArray[np.uint8]


def confusions(predicted: Map, true: Map, num_classes: int) -> Counts:
    """Return the pixels of each true (down) and predicted class (across), int64 (K, K), without unlabelled ones."""
    labelled = true != NOT_LABELLED
    pairs = num_classes * true[labelled].astype(np.int64) + predicted[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class ImageCounts:
    """The counts of one image, without the zeros.

    Attributes:
        cells: int64 (N,), places in the flat (K, K) counts.
        pixels: int64 (N,), their pixels.
    """

    cells: Counts
    pixels: Counts

    @classmethod
    def of(cls, counts: Counts) -> "ImageCounts":
        """Return the non-zero counts of (K, K)."""
        cells = np.flatnonzero(counts)
        return cls(cells, counts.ravel()[cells])

    def whole(self, num_classes: int) -> Counts:
        """Return the counts (K, K)."""
        counts = np.zeros(num_classes**2, np.int64)
        counts[self.cells] = self.pixels
        return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class KeptMaps:
    """The maps of an image, compressed.

    Attributes:
        height: Pixels.
        width: Pixels.
        packed: Predicted over true classes, uint8 (2, H, W).
    """

    height: int
    width: int
    packed: bytes

    @classmethod
    def of(cls, predicted: Map, true: Map) -> "KeptMaps":
        """Return two maps (H, W) compressed."""
        height, width = true.shape
        return cls(height, width, zlib.compress(np.stack([predicted, true]).tobytes(), 1))

    def maps(self) -> Map:
        """Return uint8 (2, H, W)."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(2, self.height, self.width)


class MaskTally(Tally):
    """Counts of pixels per image.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: dict[int, ImageCounts] = {}
        self._worst: dict[int, KeptMaps] = {}

    def usable(self, outputs: Sequence[Tensor | None]) -> list[bool]:
        """Return whether the logits of each image are finite; the task gives no map otherwise."""
        return [output is not None for output in outputs]

    def add(
        self, outputs: Sequence[Tensor | None], targets: Any, sample_ids: Sequence[int], places: Sequence[int]
    ) -> None:
        """Count the pixels of images: maps (H, W) of predicted classes and of true ones."""
        for place in places:
            output = outputs[place]
            if output is None:
                continue
            predicted = output.cpu().numpy().astype(np.uint8)
            true = targets[place].cpu().numpy().astype(np.uint8)
            sample = sample_ids[place]
            self._counts[sample] = ImageCounts.of(confusions(predicted, true, self.num_classes))
            accuracy = self._accuracy(sample)
            if len(self._worst) < KEPT or accuracy < max(map(self._accuracy, self._worst)):
                self._keep(sample, KeptMaps.of(predicted, true))

    def _keep(self, sample: int, maps: KeptMaps) -> None:
        """Keep the maps of an image, and forget those of the best one if there are too many."""
        self._worst[sample] = maps
        if len(self._worst) > KEPT:
            best = max(self._worst, key=lambda sample: (self._accuracy(sample), sample))
            del self._worst[best]

    def _accuracy(self, sample: int) -> float:
        accuracy = pixel_accuracy(self._counts[sample].whole(self.num_classes))
        return 1.0 if math.isnan(accuracy) else accuracy

    def drop(self, sample: int) -> None:
        """Forget an image."""
        self._counts.pop(sample, None)
        self._worst.pop(sample, None)

    def merge(self, other: Self) -> None:
        """Add the images of another process."""
        self._counts |= other._counts
        for sample, maps in other._worst.items():
            self._keep(sample, maps)

    def target(self, row: Tensor) -> Target:
        """Return the true classes of an image."""
        return MaskMap(row.cpu().numpy().astype(np.uint8))

    def scores(self, **extent: Any) -> "MaskScores":
        """Return the scores of all images."""
        samples = sorted(self._counts)
        return MaskScores(
            sample_ids=torch.tensor(samples, dtype=torch.int64),
            images=tuple(self._counts[sample] for sample in samples),
            num_classes=self.num_classes,
            worst=dict(sorted(self._worst.items())),
            **extent,
        )


@dataclass(frozen=True, kw_only=True)
class MaskScores(Scores):
    """The result of an evaluation of segmentation.

    The labelled pixels of an image that could not be read are missed by all classes.

    Attributes:
        images: The counts of each image.
        num_classes: K.
        worst: The maps of the images with the lowest accuracy, by sample id.
    """

    images: tuple[ImageCounts, ...]
    num_classes: int
    worst: dict[int, KeptMaps]

    def counts_of(self, place: int) -> Counts:
        """Return the counts (K, K) of the image at a place of `sample_ids`."""
        return self.images[place].whole(self.num_classes)

    def confusion(self) -> Counts:
        """Return the pixels of each true (down) and predicted class (across), int64 (K, K)."""
        total = np.zeros(self.num_classes**2, np.int64)
        for image in self.images:
            total[image.cells] += image.pixels
        return total.reshape(self.num_classes, self.num_classes)

    def missed(self) -> Counts:
        """Return the labelled pixels of each class in images that failed, int64 (K,)."""
        missed = np.zeros(self.num_classes, np.int64)
        for bad in self.failed if self.failed_are_wrong else ():
            if isinstance(bad.target, MaskMap):
                missed += np.bincount(bad.target.classes.ravel(), minlength=256)[: self.num_classes]
        return missed

    def ious(self) -> npt.NDArray[np.float64]:
        """Return the intersection over union of each class, (K,); nan for one that neither occurs nor is predicted."""
        return ious(self.confusion(), self.missed())

    def accuracies(self) -> npt.NDArray[np.float64]:
        """Return the share of each class's pixels that are found, (K,); nan for a class that does not occur."""
        confusion = self.confusion()
        with np.errstate(invalid="ignore"):
            return np.diag(confusion) / (confusion.sum(axis=1) + self.missed())

    def metrics(self) -> dict[str, float]:
        """Return the mean IoU, the mean accuracy of the classes and the accuracy of all pixels, 0..1."""
        values = (mean_of(self.ious()), mean_of(self.accuracies()), pixel_accuracy(self.confusion(), self.missed()))
        return dict(zip(METRICS, values, strict=True))

    def chance(self) -> dict[str, float]:
        """Return the scores of the most frequent class for every pixel."""
        labelled = self.confusion().sum(axis=1) + self.missed()
        if not labelled.sum():
            return {}
        share, present = float(labelled.max() / labelled.sum()), int((labelled > 0).sum())
        return {"miou": share / present, "mean_accuracy": 1 / present, "pixel_accuracy": share}

    def text_of(self, name: str, value: float) -> str:
        """Return a share in percent."""
        return f"{100 * value:.2f} %"


def ious(confusion: Counts, missed: Counts) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each class, (K,); nan for an empty union."""
    intersection = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        return intersection / (confusion.sum(axis=1) + missed + confusion.sum(axis=0) - intersection)


def mean_of(values: npt.NDArray[np.float64]) -> float:
    """Return the mean without nan; nan of nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def pixel_accuracy(confusion: Counts, missed: Counts | None = None) -> float:
    """Return the share of labelled pixels with the right class; nan without labelled pixels."""
    total = int(confusion.sum()) + (0 if missed is None else int(missed.sum()))
    return int(np.trace(confusion)) / total if total else math.nan
