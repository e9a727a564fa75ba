"""Results of single files from which a score of all files can be computed again, for any draw of files."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class FileResults(ABC):
    """The results of the files of a test, in the order of `predictions.csv`; files that failed included.

    A score such as mean intersection over union is no mean over files, so a bootstrap computes it for every draw.
    """

    @property
    @abstractmethod
    def num_files(self) -> int:
        """Return N."""

    @property
    @abstractmethod
    def numbers_per_draw(self) -> int:
        """Return how many numbers the score of a draw holds in memory."""

    @abstractmethod
    def scores(self, counts: Floats) -> Floats:
        """Return the score of each draw of files, (R,); nan where it is undefined.

        Args:
            counts: (R, N), how often each file is in each draw; ones give the score of the test.
        """

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """Return the files of both, those of `other` last: 2N files as one test."""
