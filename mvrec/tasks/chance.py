"""Chance and certainty of a score: what guessing would give, and how well so few files determine a share."""

import math
from collections.abc import Sequence


def chance(class_counts: Sequence[int], *, num_files: int | None = None, multi_label: bool = False) -> dict[str, float]:
    """Return what the best constant answer scores: a network that gives every file the same classes.

    With classes of equal size that is one in K for top-1. With others it is the share of the most frequent class, which
    a network can reach without a look at the files. The chance of the loss is the entropy of the classes in nats.

    Args:
        class_counts: Number of scored files of each of the K classes.
        num_files: Number of scored files; in multi-label data it is not the sum of the counts.
        multi_label: Whether a file may have several classes, or none.

    Returns:
        The chance of each metric by its name; empty without files.
    """
    counts = sorted((int(count) for count in class_counts), reverse=True)
    files = sum(counts) if num_files is None else num_files
    if not files:
        return {}
    occurring = [count / files for count in counts if count]
    if multi_label:
        return {
            "map": math.fsum(occurring) / max(len(occurring), 1),  # precision is the class's share at every threshold
            "micro_f1": _constant_f1(counts, files),
            "loss": math.fsum(_entropy(share) + _entropy(1 - share) for share in occurring) / max(len(counts), 1),
        }
    return {
        **{name: sum(counts[: int(name[3:])]) / files for name in top_names(len(counts))},
        "mean_class": 1 / len(occurring),
        "loss": math.fsum(map(_entropy, occurring)),
    }


def top_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of top-k accuracies: top-5 of five classes or fewer would always be 1."""
    return ("top1", "top5") if num_classes > 5 else ("top1",)


def _entropy(share: float) -> float:
    return -share * math.log(share) if share > 0 else 0.0


def _constant_f1(counts: Sequence[int], files: int) -> float:
    """Return the F1 of all decisions if every file gets the most frequent classes, of their best number."""
    total = sum(counts)
    return max((2 * sum(counts[:most]) / (most * files + total) for most in range(1, len(counts) + 1)), default=0.0)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent samples (Wilson 1927)."""
    z = 1.959964
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    low, high = (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)
    return max(low, 0.0), min(high, 1.0)


def uncertainty(count: int) -> float:
    """Return half the width of the 95 % interval of a share of `count` samples, where it is widest: 0..0.5."""
    low, high = wilson(0.5, count)
    return (high - low) / 2


def luck(right: int, count: int, guess: float) -> float:
    """Return the probability that guessing gets at least so many of `count` samples right (binomial tail, exact).

    Args:
        right: Samples that were right.
        count: All samples.
        guess: Probability that a guess is right, 0..1.
    """
    if right <= 0 or guess >= 1:
        return 1.0
    if guess <= 0:
        return 0.0
    sides = math.log(guess), math.log1p(-guess)
    whole = math.lgamma(count + 1)
    logs = (
        whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * sides[0] + (count - k) * sides[1]
        for k in range(right, count + 1)
    )
    return min(math.fsum(map(math.exp, logs)), 1.0)


def above_chance(history: Sequence[float], *, count: int, guess: float) -> bool:
    """Return whether a run's validations are above guessing with 95 % certainty.

    The last one alone has to be, or the best one in view of how many there were: of many tries some are lucky
    (Bonferroni).

    Args:
        history: The top-1 of each validation, 0..1; at least one.
        count: The files of each validation.
        guess: The top-1 of chance.
    """
    last, best = (luck(round(share * count), count, guess) for share in (history[-1], max(history)))
    return last <= 0.05 or best <= 0.05 / len(history)
