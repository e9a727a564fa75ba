"""Pixels of each image by class, from which mean intersection over union can be computed for any draw of images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mvrec.data.views.targets import MaskMap
from mvrec.files import atomic_path
from mvrec.report.file_results import FileResults, Floats
from mvrec.tasks.segmentation.scores import MaskScores

IMAGES = "images.npz"

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PixelCounts(FileResults):
    """Pixels of each image and class; each int64 (N, K).

    Attributes:
        right: Labelled pixels of the class that are predicted as such.
        true: Labelled pixels of the class.
        predicted: Labelled pixels that are predicted as the class.
    """

    right: Counts
    true: Counts
    predicted: Counts

    @classmethod
    def of(cls, scores: MaskScores) -> Self:
        """Return the counts of an evaluation, in the order of sample ids; those of failed images are missed pixels."""
        place_of = {sample: place for place, sample in enumerate(scores.all_ids())}
        right, true, predicted = (np.zeros((len(place_of), scores.num_classes), np.int64) for _ in range(3))
        for place, sample in enumerate(scores.sample_ids.tolist()):
            counts, row = scores.counts_of(place), place_of[sample]
            right[row], true[row], predicted[row] = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        for bad in scores.failed if scores.failed_are_wrong else ():
            if isinstance(bad.target, MaskMap):
                pixels = np.bincount(bad.target.classes.ravel(), minlength=256)
                true[place_of[bad.index]] = pixels[: scores.num_classes]
        return cls(right, true, predicted)

    @property
    def num_files(self) -> int:
        """Return N."""
        return len(self.right)

    @property
    def numbers_per_draw(self) -> int:
        """Return how many numbers the score of a draw holds in memory."""
        return max(self.right.shape)

    def scores(self, counts: Floats) -> Floats:
        """Return the mean intersection over union of each draw, (R,)."""
        right, true, predicted = (
            counts @ values.astype(np.float64) for values in (self.right, self.true, self.predicted)
        )
        union = true + predicted - right
        shares = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
        present = (union > 0).sum(axis=1)
        return np.divide(shares.sum(axis=1), present, out=np.full(len(counts), np.nan), where=present > 0)

    def joined(self, other: Self) -> Self:
        """Return the images of both, those of `other` last."""
        pairs = ((self.right, other.right), (self.true, other.true), (self.predicted, other.predicted))
        return type(self)(*(np.concatenate(pair) for pair in pairs))

    def write(self, path: Path) -> None:
        """Write the counts as one file of arrays."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:  # savez adds an ending to a name
            np.savez_compressed(file, right=self.right, true=self.true, predicted=self.predicted)


def read_counts(path: Path) -> PixelCounts:
    """Return the counts of a file of arrays."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return PixelCounts(*(stored[name] for name in ("right", "true", "predicted")))
