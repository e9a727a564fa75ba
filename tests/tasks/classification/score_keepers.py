"""Scores of samples that a keeper has seen."""

import torch

from mvrec.tasks.classification.scores import ClassScores, ClassTally
from mvrec.tasks.scores import ScoreKeeper


def scores_of(logits, labels, *, ids=None, views=1, failed=(), **options) -> ClassScores:
    """Scores of samples that are seen on as many equal views each, and of those that failed."""
    tally = ClassTally(logits.shape[1], multi_label=labels.ndim == 2)
    keeper = ScoreKeeper(tally, **{"num_views": views, "expected": len(logits) + len(failed)} | options)
    for _ in range(views):
        keeper.add(logits, labels, torch.arange(len(logits)) if ids is None else torch.tensor(ids))
    keeper.fail(tuple(failed))
    return keeper.gather()
