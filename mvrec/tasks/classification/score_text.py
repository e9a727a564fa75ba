"""What an evaluation says of itself: its score, of which files, and which of them failed."""

from collections.abc import Iterator
from typing import Any

from mvrec.tasks.scores import NOT_FINITE, Scores


def score_line(scores: Scores, stage: str, *, noun: str, protocol: Any, split: str) -> str:
    """The line with the score and its small print.

    `predict` has no score: its data need not have the right classes.

    Args:
        scores: What an evaluation found.
        stage: "val", "test" or "predict".
        noun: What a sample is called, in the plural.
        protocol: How files became views.
        split: See `split_text`.
    """
    values = ", ".join(
        f"{name} {value:.4f}" if name == "loss" else f"{name} {100 * value:.2f} %"
        for name, value in scores.metrics().items()
    )
    score = "" if stage == "predict" else f"{values} "
    return f"{stage}: {score}({scores.counts(noun)}; {protocol}){split and f' {split}'}"


def split_text(split: str, *, chosen_on: bool) -> str:
    """What a score must not be read without, when it is not of a split of its own: "" for a test split.

    Args:
        split: The split that was read.
        chosen_on: Whether the checkpoint was chosen by its score on the same files.
    """
    if split == "test":
        return "of the files on which best.ckpt was chosen" if chosen_on else ""
    return "of the validation split" + (", on which best.ckpt was chosen" if chosen_on else "")


def failures(scores: Scores, *, noun: str) -> Iterator[str]:
    """A line for each sample that failed; one for all whose logits are not finite, which is the network's doing.

    Args:
        scores: What an evaluation found.
        noun: What a sample is called, in the plural.
    """
    yield from (f"{bad.path}: {bad.cause}" for bad in scores.failed if bad.cause != NOT_FINITE)
    if scores.not_finite:
        named = ", ".join(bad.path for bad in scores.not_finite[:3])
        more = f" and {len(scores.not_finite) - 3} more" if len(scores.not_finite) > 3 else ""
        yield f"{NOT_FINITE} for {len(scores.not_finite)} of {scores.expected} {noun}: {named}{more}"
