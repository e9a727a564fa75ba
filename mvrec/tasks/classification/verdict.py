"""The verdict on a run: above chance or not, and the likeliest causes in its settings if not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mvrec.data.listing.class_names import mirrored_classes
from mvrec.tasks.chance import above_chance, luck, uncertainty, wilson

LEAST_STEPS = 20  # a run of fewer steps is not expected to be above chance
FEW_STEPS, FEW_STEPS_FROM_WEIGHTS = 300, 100  # fewer are a likely cause
FEW_FILES = 500  # of training, for random weights
WIDE = 0.1  # half an interval from which on files are too few to tell classes apart


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings and losses of a run.

    Attributes:
        steps: Optimiser steps.
        num_files: Training files.
        has_weights: Whether it started from weights.
        freeze: Frozen layers, or "backbone".
        layer_decay: See `Task`.
        peak_rate: The head's highest learning rate.
        label_smoothing: See `Classification`.
        mixes: Whether batches are mixed.
        flip_probability: Share of mirrored clips.
        class_names: Names in label order.
        losses: Logged training losses, in order.
    """

    steps: int
    num_files: int
    has_weights: bool
    freeze: int | str
    layer_decay: float
    peak_rate: float
    label_smoothing: float
    mixes: bool
    flip_probability: float
    class_names: Sequence[str]
    losses: Sequence[float] = ()


def verdict(
    history: Sequence[float], training: Training, *, count: int, guess: float, loss: float, noun: str
) -> list[str]:
    """Return lines about a run that is not above chance: the score, then the three likeliest causes. Else none.

    Args:
        history: Top-1 of each validation, 0..1.
        training: How it was trained.
        count: Files of each validation.
        guess: Top-1 of chance.
        loss: Validation loss of chance.
        noun: The name of files, in the plural.
    """
    if not history or not count or training.steps < LEAST_STEPS or above_chance(history, count=count, guess=guess):
        return []
    chance = f"chance, the most frequent class, is {100 * guess:.2f} %"
    if luck(count, count, guess) > 0.05:
        files = f"{count} validation {noun if count != 1 else noun.removesuffix('s')}"
        return [f"{files} cannot show whether this run is above chance: {chance}, and even a perfect score may be luck"]
    low, high = wilson(max(history), count)
    times = f" of {len(history)} validations" if len(history) > 1 else ""
    score = f"the best{times} has top-1 {100 * max(history):.2f} % of {count} {noun}"
    interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    causes = islice(_causes(training, loss), 3)
    return [
        f"this run is not above chance: {score} ({interval}), and {chance}",
        *(f"likely cause {number}: {cause}" for number, cause in enumerate(causes, 1)),
    ]


def _causes(training: Training, loss: float) -> Iterator[str]:
    """Yield causes that the settings allow, the likeliest first."""
    if training.freeze == "backbone" and not training.has_weights:
        yield "the frozen backbone has random weights: leave model.freeze out, or start from --model.weights"
    if training.layer_decay < 1 and not training.has_weights:
        yield (
            f"layer decay {training.layer_decay:g} on random weights keeps the first layers as they are: "
            "--model.layer_decay 1"
        )
    yield from _mirrored(training)
    memorised = _memorised(training, loss)
    if memorised:
        yield memorised
    elif training.steps < (FEW_STEPS_FROM_WEIGHTS if training.has_weights else FEW_STEPS):
        yield f"{training.steps} steps are few: raise --trainer.max_epochs, or lower --data.batch_size"
    yield from _not_fallen(training)
    if not training.has_weights and training.num_files < FEW_FILES:
        yield f"random weights need more than {training.num_files} training files: --model.weights FILE_OR_RUN"
    if training.freeze == "backbone":
        yield "the backbone is frozen: train it too (--model.freeze 0)"
    if training.mixes:
        yield "mixing hides most of a small set's classes: --model.mixing null"
    if training.label_smoothing >= 0.1:
        yield f"label smoothing {training.label_smoothing:g} is much for few steps: --model.label_smoothing 0"
    yield "labels may not fit the files: look at some files of each class"
    yield "the network may not see what makes the classes: more frames, a longer stride or more pixels"


def _mirrored(training: Training) -> Iterator[str]:
    sides = mirrored_classes(training.class_names)
    if sides and training.flip_probability > 0:
        yield (
            f"a mirror changes classes ({', '.join(map(repr, sides[:2]))}) and training mirrors "
            f"{100 * training.flip_probability:.0f} % of the files: --data.augment.flip_probability 0"
        )


def _memorised(training: Training, loss: float) -> str:
    first, last = _ends(training.losses)
    if last >= 0.6 * min(first, loss):
        return ""
    return (
        f"the training loss fell from {first:.2f} to {last:.2f}, so the training files are learned by heart: "
        "check that labels fit the files, add files, or augment more (mvrec fit --help data.augment)"
    )


def _not_fallen(training: Training) -> Iterator[str]:
    first, last = _ends(training.losses)
    if last > 0.97 * first:
        yield (
            f"the training loss did not fall ({first:.2f} to {last:.2f}): the peak learning rate "
            f"{training.peak_rate:.3g} may be too low, or far too high: --model.optimizer.lr"
        )


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the first and of the last quarter; (0, 0) for few losses, which tell nothing."""
    part = len(losses) // 4
    if not part:
        return 0.0, 0.0
    return sum(losses[:part]) / part, sum(losses[-part:]) / part


def few_files_note(count: int, *, noun: str, fold: object, most_folds: int, total: int) -> str:
    """Return a line if so few validation files hardly tell classes apart, with a way out; else "".

    Args:
        count: Validation files.
        noun: The name of files, in the plural.
        fold: The fold of a run of cross-validation, or `None`.
        most_folds: The folds into which the data can be split; below 2 not at all.
        total: Files of training and validation.
    """
    if not count or uncertainty(count) < WIDE:
        return ""
    files = f"{count} validation {noun if count != 1 else noun.removesuffix('s')}"
    text = f"{files}: top-1 is known to +-{100 * uncertainty(count):.0f} points"
    together = f"to +-{100 * uncertainty(total):.0f}"
    if fold is not None:
        return f"{text}, and {together} of all folds together (mvrec report with all their run directories)"
    if most_folds < 2:
        return f"{text}; more of them make scores comparable"
    folds = min(most_folds, 5)
    return f"{text}; cross-validation knows it {together}: --data.fold 1/{folds} to {folds}/{folds}, a run each"
