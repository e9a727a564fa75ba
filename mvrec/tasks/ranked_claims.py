"""Claims of detections on true boxes, from which average precision can be computed for any draw of files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mvrec.files import atomic_path
from mvrec.report.file_results import FileResults, Floats

CLAIMS = "claims.npz"
RECALLS = np.linspace(0, 1, 101)  # COCO's

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RankedClaims(FileResults):
    """The claims of all detections of a test, in the order that decides between equal scores.

    Attributes:
        files: int64 (D,), the row of each claim's file in `predictions.csv`.
        labels: int64 (D,), its class.
        scores_of: float64 (D,), its score.
        right: bool (D, T), whether it is right at each overlap.
        ignored: bool (D, T), whether it is neither right nor wrong.
        true: int64 (M, 3), file, class and number of the true boxes of a class in a file.
        num_rows: int64 (1,), N.
        at_recalls: bool (1,), whether precision is averaged at COCO's 101 recalls; else over all recalls, as in VOC.
    """

    files: Numbers
    labels: Numbers
    scores_of: Floats
    right: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    true: Numbers
    num_rows: Numbers
    at_recalls: npt.NDArray[np.bool_]

    @property
    def num_files(self) -> int:
        """Return N."""
        return int(self.num_rows[0])

    @property
    def numbers_per_draw(self) -> int:
        """Return how many numbers the score of a draw holds in memory."""
        return max(self.num_files, int(np.bincount(self.labels, minlength=1).max()) * 4, 1)

    def joined(self, other: Self) -> Self:
        """Return the files of both, those of `other` last."""
        moved = {"files": other.files + self.num_files, "true": other.true + np.array([self.num_files, 0, 0])}
        columns = {
            name: np.concatenate([value, moved.get(name, getattr(other, name))]) for name, value in self._items()
        }
        together = {"num_rows": self.num_rows + other.num_rows, "at_recalls": self.at_recalls}
        return type(self)(**columns | together)

    def _items(self) -> list[tuple[str, npt.NDArray[Any]]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def scores(self, counts: Floats) -> Floats:
        """Return the mean average precision of each draw, (R,), over classes with true boxes in the draw."""
        total, present = np.zeros(len(counts)), np.zeros(len(counts))
        for label in np.unique(self.true[:, 1]).tolist():
            rows = self.true[self.true[:, 1] == label]
            num_true = counts[:, rows[:, 0]] @ rows[:, 2].astype(np.float64)
            has_true = num_true > 0
            values = self._average_precision(label, counts, np.maximum(num_true, 1))
            total += np.where(has_true, values, 0)
            present += has_true
        return np.divide(total, present, out=np.full(len(counts), np.nan), where=present > 0)

    def _average_precision(self, label: int, counts: Floats, num_true: Floats) -> Floats:
        """Return the average precision of a class in each draw, (R,), the mean over overlaps."""
        places = np.flatnonzero(self.labels == label)
        places = places[np.argsort(-self.scores_of[places], kind="stable")]
        drawn = counts[:, self.files[places]]
        claims = np.cumsum(drawn, axis=1)
        values = np.zeros(len(counts))
        for column in range(self.right.shape[1]):
            ignored = self.ignored[places, column]
            counted = np.cumsum(drawn * ~ignored, axis=1) if ignored.any() else claims
            right = np.flatnonzero(self.right[places, column])  # only there can precision be the greatest
            if len(right):
                values += self._area(drawn[:, right], counted[:, right], num_true)
        return values / self.right.shape[1]

    def _area(self, drawn: Floats, counted: Floats, num_true: Floats) -> Floats:
        """Return the area under the greatest precision at each recall or above, (R,), from right claims (R, M)."""
        num_right = np.cumsum(drawn, axis=1)
        precision = np.divide(num_right, counted, out=np.zeros_like(num_right), where=counted > 0)
        greatest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = num_right / num_true[:, None]
        if not self.at_recalls[0]:
            return (greatest * np.diff(recall, axis=1, prepend=0)).sum(axis=1)
        reached = np.searchsorted(RECALLS, recall.ravel(), side="right").reshape(recall.shape)
        # A right claim that is not in the draw reaches recall 0 with precision 0; the next one has that recall too.
        reached = np.where(num_right > 0, reached, 0)
        return (greatest * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)

    def write(self, path: Path) -> None:
        """Write the claims as one file of arrays."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:  # savez adds an ending to a name
            np.savez_compressed(file, **dict(self._items()))  # type: ignore[arg-type]


def read_claims(path: Path) -> RankedClaims:
    """Return the claims of a file of arrays."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return RankedClaims(**{field.name: stored[field.name] for field in fields(RankedClaims)})


def claims_of(
    parts: Mapping[str, list[npt.NDArray[Any]]], *, num_files: int, num_overlaps: int, at_recalls: bool
) -> RankedClaims:
    """Return the claims of arrays in parts, by the names of `RankedClaims`, such as those of each file."""
    empty: dict[str, npt.NDArray[Any]] = {
        "files": np.zeros(0, np.int64),
        "labels": np.zeros(0, np.int64),
        "scores_of": np.zeros(0),
        "right": np.zeros((0, num_overlaps), bool),
        "ignored": np.zeros((0, num_overlaps), bool),
        "true": np.zeros((0, 3), np.int64),
    }
    columns = {name: np.concatenate([base, *parts.get(name, [])]) for name, base in empty.items()}
    return RankedClaims(**columns, num_rows=np.array([num_files]), at_recalls=np.array([at_recalls]))
