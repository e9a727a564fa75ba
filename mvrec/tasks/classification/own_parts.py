"""Loss and metrics of the user's own."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mvrec.class_paths import calling, path_of
from mvrec.errors import PartError, UserError
from mvrec.tasks.classification.scores import ClassScores, MultiLabelScores, SingleLabelScores

Metrics = dict[str, Callable]


def check_own(loss: nn.Module | None, metrics: Metrics | None, *, class_weights: Any) -> None:
    """Check that a loss has its own class weights, and that metrics have names of their own.

    Raises:
        UserError: They do not.
    """
    if loss is not None and class_weights is not None:
        raise UserError("model.class_weights is for the cross-entropy: give model.loss weights of its own")
    reserved = {*SingleLabelScores.names(6), *MultiLabelScores.names(6)}
    for name in metrics or {}:
        if name in reserved or not name.replace("-", "_").isidentifier():
            raise UserError(f"model.metrics: the name {name!r} is taken or not a word: choose another one")


def own_loss(loss: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the scalar of a user's loss.

    Args:
        loss: The loss.
        logits: Float (B, K).
        targets: Classes int64 (B,), or probabilities float (B, K).

    Raises:
        PartError: It raises an exception, or returns no scalar.
    """
    kinds = f"logits {tuple(logits.shape)}, targets {targets.dtype} {tuple(targets.shape)}"
    with calling("model.loss", loss, note=f"on {kinds}"):
        value = loss(logits, targets)
    if not isinstance(value, Tensor) or value.ndim:
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise PartError(
            f"model.loss: {path_of(loss)} returned {kind}, expected a scalar, such as the mean over the batch"
        )
    return value


def own_scores(metrics: Metrics, scores: ClassScores) -> dict[str, float]:
    """Return the values of a user's metrics on all scored samples, the same on every process.

    Args:
        metrics: By name: metrics of torchmetrics, or functions of probabilities float (N, K) and classes int64 (N,), or
            bool (N, K) if a file may have several.
        scores: The gathered scores.

    Raises:
        PartError: A metric raises an exception, or returns no number.
    """
    values = {}
    for name, metric in metrics.items():
        key = f"model.metrics.{name}"
        with calling(key, metric, note=f"on {len(scores.labels)} files of {scores.num_classes} classes"):
            value = _value(metric, scores.probabilities.float(), scores.labels)
        try:
            values[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise PartError(f"{key}: {path_of(metric)} returned {type(value).__name__}, expected one number") from None
    return values


def _value(metric: Callable, probabilities: Tensor, labels: Tensor) -> Any:
    if not hasattr(metric, "update"):
        return metric(probabilities, labels)
    fresh: Any = copy.deepcopy(metric)
    fresh.sync_on_compute = False  # every process has all samples
    fresh.update(probabilities, labels)
    return fresh.compute()
