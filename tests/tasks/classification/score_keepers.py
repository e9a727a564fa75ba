"""Scores of samples that a keeper has seen."""

import torch

from mvrec.tasks.classification.scores import ClassScores, ClassTally
from mvrec.tasks.scores import ScoreKeeper


def keeper_of(logits, labels, *, ids=None, views=1, failed=(), **options) -> ScoreKeeper:
    """A keeper that has seen these samples, each with as many equal views, and those that failed."""
    tally = ClassTally(logits.shape[1], multi_label=labels.ndim == 2)
    keeper = ScoreKeeper(tally, num_views=views, **{"expected": len(logits) + len(failed)} | options)
    for _ in range(views):
        keeper.add(logits, labels, torch.arange(len(logits)) if ids is None else torch.tensor(ids))
    keeper.fail(tuple(failed))
    return keeper


def scores_of(logits, labels, **options) -> ClassScores:
    return keeper_of(logits, labels, **options).gather()
