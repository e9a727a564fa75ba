"""The result of a probe: scores with intervals, the learning curve, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvrec.messages import counted
from mvrec.probe.curve import Point
from mvrec.probe.heads import Labels, Probe, score_of
from mvrec.tasks.chance import chance, wilson

GAIN = 0.01  # of twice the labels; a smaller one is not worth labelling for

RULES = """\
Fine-tune, if the best probe is no better than chance. Else a probe is enough, if the best one reaches --enough. Else
more labels, if the last doubling of labels gained a point or more, and more than the draws of labels differ. Else
fine-tune, because neither labels nor another probe add to these features."""


@dataclass(frozen=True)
class Result:
    """The scores of probes of a network's features.

    Attributes:
        network: What was probed.
        has_weights: Whether it was trained before.
        protocol: How files became views.
        split: The scored split.
        width: Numbers of a feature vector.
        files: Files that the probes learned from.
        groups: Groups that folds kept together.
        truth: Classes of the scored files, (M,) or (M, K).
        chance: The score of the best constant answer; see `mvrec.tasks.chance`.
        probes: The probes, in the order they were asked for.
        points: The learning curve; empty without the linear probe.
        enough: The score that is enough.
        left_out: Files that could not be read.
    """

    network: str
    has_weights: bool
    protocol: str
    split: str
    width: int
    files: int
    groups: int
    truth: Labels
    chance: float
    probes: Sequence[Probe]
    points: Sequence[Point]
    enough: float
    left_out: int

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "top1" if self.truth.ndim == 1 else "mAP"

    def score(self, probe: Probe) -> float:
        """Return a probe's score on the scored files, 0..1."""
        return score_of(self.truth, probe.answers)

    def interval(self, probe: Probe) -> tuple[float, float] | None:
        """Return the 95 % interval of a share of right files (Wilson's); a mean average precision has none."""
        return wilson(self.score(probe), len(self.truth)) if self.truth.ndim == 1 else None

    @property
    def best(self) -> Probe:
        """The probe with the highest score, the first of equal ones."""
        return max(self.probes, key=self.score)

    @property
    def last_doubling(self) -> tuple[Point, Point] | None:
        """The curve's points of at most half of the labels and of all; `None` if there are none."""
        halves = [point for point in self.points[:-1] if 2 * point.per_class <= self.points[-1].per_class]
        return (halves[-1], self.points[-1]) if halves else None


def chance_of(truth: Labels) -> float:
    """Return the score of the best constant answer for files of classes (M,) or (M, K)."""
    counts = np.bincount(truth) if truth.ndim == 1 else truth.sum(0)
    constant = chance(counts.tolist(), num_files=len(truth), multi_label=truth.ndim == 2)
    return constant["top1" if truth.ndim == 1 else "map"]


def advice(result: Result) -> str:
    """Return one line by the rules of `RULES`."""
    best = result.best
    score = result.score(best)
    interval = result.interval(best)
    if (interval[0] if interval else score) <= result.chance:
        return (
            f"fine-tune: {best.name} reaches {_percent(score)} of {len(result.truth)} files and chance "
            f"{_percent(result.chance)}, so the features tell nothing sure of these classes; `mvrec data audit` finds "
            "wrong labels"
        )
    if score >= result.enough:
        return f"a probe is enough: {best.name} reaches {_percent(score)} (--enough {result.enough:g})"
    doubling = result.last_doubling
    if doubling is not None:
        half, full = doubling
        gain = full.score - half.score
        if gain >= GAIN and full.score > half.high:
            return (
                f"more labels: from {half.per_class} to {full.per_class} files per class the linear probe gained "
                f"{100 * gain:.1f} points, and it still rises; fine-tuning may add to that"
            )
    if not result.points:
        return f"fine-tune: {best.name} stays at {_percent(score)} (the linear probe would tell what labels add)"
    flat = "with more labels the linear probe hardly rises" if doubling else "there are too few labels for a curve"
    return f"fine-tune: {best.name} stays at {_percent(score)}, and {flat}"


def as_json(result: Result) -> dict[str, Any]:
    """Return everything as fields."""
    return {
        "network": result.network,
        "has_weights": result.has_weights,
        "protocol": result.protocol,
        "split": result.split,
        "metric": result.metric,
        "vector": result.width,
        "files": {
            "train": result.files,
            "groups": result.groups,
            "scored": len(result.truth),
            "left out": result.left_out,
        },
        "chance": result.chance,
        "probes": [
            {
                "probe": probe.name,
                "setting": probe.setting,
                result.metric: result.score(probe),
                "interval": result.interval(probe),
                "train": probe.fit,
                "cross-validation": probe.scores,
            }
            for probe in result.probes
        ],
        "curve": [vars(point) for point in result.points],
        "advice": advice(result),
    }


def lines(result: Result) -> list[str]:
    """Return the result as lines for a terminal."""
    noun = f"{len(result.truth)} files of {result.split}"
    first = f"{result.network}: vectors of {result.width}; {result.files} files of train"
    if result.groups < result.files:
        first += f" in {result.groups} groups, which folds keep together"
    texts = [f"{first}; {noun}", f"  {result.protocol}"]
    if result.left_out:
        texts.append(f"  left out because unreadable: {counted(result.left_out, 'files')}")
    if not result.has_weights:
        texts.append("  the network has no weights: these are the features of random ones")
    texts.append(f"  chance     {_percent(result.chance):>8}")
    for probe in result.probes:
        interval = result.interval(probe)
        extent = f" (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
        fit = "" if probe.fit is None else f", {_percent(probe.fit)} in training"
        text = (
            f"  {probe.name:<10} {_percent(result.score(probe)):>8}{extent}{fit}, {probe.setting} by cross-validation"
        )
        texts.append(text)
    if result.points:
        texts.append("  linear with fewer labels (95 % interval of the mean over draws):")
    for point in result.points:
        extent = f"{100 * point.low:.1f} to {100 * point.high:.1f}" if point.draws > 1 else "all labels"
        texts.append(f"    {point.per_class:>5} per class  {_percent(point.score):>8}  {extent}")
    return [*texts, advice(result)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
