"""The text of an evaluation: its score, the scored files, and the failed ones."""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.files import json_text, write_atomically

if TYPE_CHECKING:
    from mvrec.tasks.scores import Scores


def score_line(scores: "Scores", stage: str, *, noun: str, protocol: Any, split: str) -> str:
    """Return the line with the score, chance next to each value (unless it is 1) and its context.

    `predict` has no score: its data need not have the right classes.

    Args:
        scores: The result of an evaluation.
        stage: "val", "test" or "predict".
        noun: The name of samples, in the plural.
        protocol: The protocol by which files became views.
        split: See `split_text`.
    """
    chance = scores.chance()
    values = []
    for name, value in scores.headline().items():
        guess = f" (chance {scores.text_of(name, chance[name])})" if chance.get(name, 1) != 1 else ""
        values.append(f"{name} {scores.text_of(name, value)}{guess}")
    score = "" if stage == "predict" else f"{', '.join(values)} "
    return f"{stage}: {score}({scores.counts(noun)}; {protocol}){split and f' {split}'}"


def split_text(split: str, *, chosen_on: bool) -> str:
    """Return the caveat of a score that is not of a split of its own; "" for a test split.

    Args:
        split: The scored split.
        chosen_on: Whether the checkpoint was chosen by its score on the same files.
    """
    if split == "test":
        return "of the files on which best.ckpt was chosen" if chosen_on else ""
    return "of the validation split" + (", on which best.ckpt was chosen" if chosen_on else "")


def failures(scores: "Scores", *, noun: str) -> Iterator[str]:
    """Yield a line for each failed sample; one for all whose logits are not finite, which is the network's fault.

    Args:
        scores: The result of an evaluation.
        noun: The name of samples, in the plural.
    """
    yield from (f"{bad.path}: {bad.cause}" for bad in scores.unreadable)
    if scores.not_finite:
        named = ", ".join(bad.path for bad in scores.not_finite[:3])
        more = f" and {len(scores.not_finite) - 3} more" if len(scores.not_finite) > 3 else ""
        yield f"{scores.not_finite[0].cause} for {len(scores.not_finite)} of {scores.expected} {noun}: {named}{more}"


def write_metrics(path: Path, scores: "Scores", *, stage: str, protocol: Any, noun: str, facts: dict[str, Any]) -> None:
    """Write a score with its context as JSON.

    `of` is the number of samples in the whole split, of which `expected` were to be scored. A value that is not finite
    is null. `chance` is what the same answer for all files would score.

    Args:
        path: The file.
        scores: The result of an evaluation.
        stage: "test" and so on.
        protocol: The protocol by which files became views.
        noun: The name of samples, in the plural.
        facts: Further entries.
    """
    content = {
        "stage": stage,
        "metrics": {name: value if isfinite(value) else None for name, value in scores.metrics().items()},
        "chance": scores.chance(),
        "scored": len(scores.sample_ids),
        "expected": scores.expected,
        "of": scores.total,
        "partial": scores.partial,
        "failed": len(scores.failed),
        "not_finite": len(scores.not_finite),
        "failed_are_wrong": scores.failed_are_wrong,
        "noun": noun,
        "num_views": scores.num_views,
        "protocol": protocol.as_dict(),
        "protocol_text": str(protocol),
        **scores.facts(),
        **facts,
    }
    write_atomically(path, json_text(content, indent=2) + "\n")
