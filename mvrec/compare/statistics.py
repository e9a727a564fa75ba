"""Paired comparison of two runs on the same files: an exact test, and an interval of the difference."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.report.file_results import FileResults

REPEATS = 10_000
SCORE_REPEATS = 1_000  # where each draw needs a score of all files
_BLOCK = 2**22  # numbers drawn at a time
_MOST = 2**26  # numbers drawn in all; an interval of many files needs fewer draws

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Interval = tuple[float, float]


class McNemar(NamedTuple):
    """McNemar's exact test.

    Attributes:
        only_first: Files that only the first run has right.
        only_second: Files that only the second run has right.
        p: Probability of so uneven a split if both runs are equally good, two-sided.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> McNemar:
    """Test whether one of two runs is right more often (McNemar 1947, by the exact binomial distribution).

    Args:
        first: Whether each file is right in the first run, (N,).
        second: The same of the second run.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(only_first, only_second, _two_sided(min(only_first, only_second), only_first + only_second))


def _two_sided(fewer: int, total: int) -> float:
    """Return the probability of at most `fewer` heads or tails in `total` throws of a fair coin."""
    log_half = -total * math.log(2)
    terms = [
        math.exp(math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(terms))


def difference_interval(
    differences: Floats, groups: npt.NDArray[np.int64] | None = None, *, repeats: int = REPEATS, seed: int = 0
) -> Interval:
    """Return the 95 % interval of a mean difference, by a bootstrap of whole groups of files.

    Args:
        differences: The second run's value minus the first's of each file, (N,).
        groups: Number 0..G-1 of each file's group, (N,), such as the video that clips are cut from; each file is its
            own by default.
        repeats: Draws.
        seed: Of the draws: the same files give the same interval.

    Returns:
        The 2.5th and the 97.5th percentile of the mean over draws.
    """
    generator = np.random.default_rng(seed)
    groups = np.arange(len(differences)) if groups is None else groups
    sums, counts = np.bincount(groups, differences), np.bincount(groups)
    kinds, numbers = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    if kinds.shape[1] <= len(sums) // 4:  # such as right and wrong: how often each kind is drawn suffices
        drawn = generator.multinomial(len(sums), numbers / len(sums), repeats)
        return percentiles((drawn @ kinds[0]) / (drawn @ kinds[1]))
    means = []
    for places in _draws(len(sums), max(min(repeats, _MOST // len(sums)), min(repeats, 1000)), generator):
        means.append(sums[places].sum(axis=1) / counts[places].sum(axis=1))
    return percentiles(np.concatenate(means))


def _draws(count: int, repeats: int, generator: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Return `repeats` draws of `count` from `count`, a block of rows at a time."""
    rows = max(1, _BLOCK // count)
    return [generator.integers(count, size=(min(rows, repeats - begin), count)) for begin in range(0, repeats, rows)]


def percentiles(values: Floats) -> Interval:
    """Return the 95 % interval of values of draws, the 2.5th and the 97.5th percentile of the defined ones."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def drawn_scores(
    results: FileResults, rows: Numbers, groups: Numbers, *, repeats: int = SCORE_REPEATS, seed: int = 0
) -> Floats:
    """Return the score of draws of whole groups of files, (R,): equal draws for all runs over the same files.

    Args:
        results: The files of a run.
        rows: (N,), the row of each file there.
        groups: Number 0..G-1 of each file's group, (N,).
        repeats: R.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    number = int(groups.max()) + 1
    scores = []
    for size in _blocks(repeats, results.numbers_per_draw):
        drawn = generator.multinomial(number, np.full(number, 1 / number), size)
        scores.append(results.scores(_counts(results, [(rows, drawn[:, groups])])))
    return np.concatenate(scores)


def swap_test(
    first: tuple[FileResults, Numbers],
    second: tuple[FileResults, Numbers],
    groups: Numbers,
    *,
    repeats: int = SCORE_REPEATS,
    seed: int = 0,
) -> float:
    """Return the probability of so great a difference of scores if both runs are equally good, two-sided.

    By approximate randomization (Noreen 1989): the two runs' results of random groups of files are swapped.

    Args:
        first: A run's files, and the row of each, (N,).
        second: The same of the other run, in the same order.
        groups: Number 0..G-1 of each file's group, (N,).
        repeats: Random swaps.
        seed: Of these.
    """
    generator = np.random.default_rng(seed)
    both = first[0].joined(second[0])
    sides = (first[1], second[1] + first[0].num_files)

    def differences(swapped: Numbers) -> Floats:
        of_two = [
            both.scores(_counts(both, list(zip(sides, weights, strict=True))))
            for weights in ((1 - swapped, swapped), (swapped, 1 - swapped))
        ]
        return of_two[1] - of_two[0]

    least = abs(differences(np.zeros((1, len(groups)), np.int64))[0]) * (1 - 1e-9)
    reached = 0
    for size in _blocks(repeats, both.numbers_per_draw):
        swapped = generator.integers(2, size=(size, int(groups.max()) + 1))[:, groups]
        reached += int((np.abs(differences(swapped)) >= least).sum())
    return (1 + reached) / (1 + repeats)


def _counts(results: FileResults, parts: list[tuple[Numbers, Numbers]]) -> Floats:
    counts = np.zeros((len(parts[0][1]), results.num_files))
    for rows, values in parts:
        counts[:, rows] = values
    return counts


def _blocks(repeats: int, numbers: int) -> Iterator[int]:
    """Yield numbers of draws at a time, `repeats` in all."""
    rows = max(1, _BLOCK // numbers)
    for begin in range(0, repeats, rows):
        yield min(rows, repeats - begin)
