"""Settings to learn from few or many files, each with its reason.

With many files the settings are those of the recipe `finetune`; with fewer they change smoothly in their number.
docs/small_sets.md has the measurements.
"""

import math
from dataclasses import dataclass
from typing import Any

RECIPE_EPOCHS, RECIPE_BATCH, RECIPE_SMOOTHING, RECIPE_DECAY = 30, 8, 0.1, 0.75  # configs/finetune.yaml
RECIPE_RATE, REFERENCE_BATCH = 1e-3, 64
EXTRA_VIEWS, EXTRA_UNTRAINED = 1_500, 5_000  # of the files, with weights and without, besides the recipe's epochs
MOST_EPOCHS = 200
VALIDATIONS = 25  # of a run at least
SMALL_BATCH, FILES_FOR_RECIPE_BATCH = 4, 200
SMALL_RATE, SMALL_DECAY = 5e-4, 0.9  # rate of a step, and its decay by layer
FEW_FILES, MANY_FILES = 100, 10_000  # from few to many, rate and decay fall to the recipe's
WARMUP_SHARE = 1 / 15  # 2 of 30 epochs


@dataclass(frozen=True)
class Choice:
    """A setting with its reason.

    Attributes:
        key: The key as on the command line, such as "trainer.max_epochs".
        value: Its value.
        reason: Why, in a few words.
    """

    key: str
    value: Any
    reason: str


def learning(*, num_train: int, num_classes: int, has_weights: bool, noun: str) -> list[Choice]:
    """Choose how to learn.

    Args:
        num_train: Training files, at least 1.
        num_classes: Classes of these files, at least 1.
        has_weights: Whether the network starts from a file of weights.
        noun: The name of a file, such as "video".

    Returns:
        The choices, by keys of the command line; none is twice.
    """
    noun = f"{noun}s"
    files = f"{num_train} {noun}"
    batch = SMALL_BATCH if num_train < FILES_FOR_RECIPE_BATCH else RECIPE_BATCH
    steps = max(1, num_train // batch)
    epochs = min(MOST_EPOCHS, RECIPE_EPOCHS + round((EXTRA_VIEWS if has_weights else EXTRA_UNTRAINED) / num_train))
    every = max(1, epochs // VALIDATIONS)
    epochs = math.ceil(epochs / every) * every  # the last epoch is validated
    epochs_reason = f"the fewer {noun}, the more epochs" + ("" if has_weights else ", and more without weights")
    smoothing = _smoothing(num_train / max(num_classes, 1))
    rate = _rate(num_train)
    rate_reason = "an untrained head has few steps here" if num_train < MANY_FILES else "there are steps enough"
    reference_rate = float(f"{rate * REFERENCE_BATCH / batch:.3g}")
    adamw = {"lr": reference_rate, "betas": [0.9, 0.999], "weight_decay": 0.05}
    return [
        Choice("data.batch_size", batch, f"{files} make {_steps(steps)} per epoch"),
        Choice("trainer.max_epochs", epochs, f"{_steps(steps * epochs)} in all: {epochs_reason}"),
        Choice(
            "model.optimizer",
            {"class_path": "torch.optim.AdamW", "init_args": adamw},
            rate_reason,
        ),
        Choice(
            "model.lr_reference_batch",
            REFERENCE_BATCH,
            f"the rate is meant for {REFERENCE_BATCH} {noun} per step, which makes {rate:.3g} for {batch}",
        ),
        _layer_decay(num_train, has_weights=has_weights),
        Choice("model.schedule.warmup_epochs", round(epochs * WARMUP_SHARE, 1), "a gentle start: a 15th of the epochs"),
        Choice(
            "model.label_smoothing",
            smoothing,
            f"the fewer {noun} per class ({num_train / max(num_classes, 1):.3g} here), the less",
        ),
        Choice("model.mixing", None, "blends of two files need many more steps"),
        Choice("model.freeze", 0, "the layer decay keeps early layers" if has_weights else "nothing is learned yet"),
        Choice("trainer.gradient_clip_val", 1.0, "one bad step does not throw the run off"),
        Choice("trainer.check_val_every_n_epoch", every, "epochs of few steps change little"),
    ]


def _rate(num_train: int) -> float:
    """Return the head's peak rate: that of few files, that of the recipe with many, and between them in proportion."""
    recipe = RECIPE_RATE * RECIPE_BATCH / REFERENCE_BATCH
    return SMALL_RATE * (recipe / SMALL_RATE) ** _share_of_many(num_train)


def _layer_decay(num_train: int, *, has_weights: bool) -> Choice:
    if not has_weights:
        return Choice("model.layer_decay", 1.0, "without weights every layer has to learn at the full rate")
    decay = SMALL_DECAY * (RECIPE_DECAY / SMALL_DECAY) ** _share_of_many(num_train)
    reason = "early layers keep more of what the weights know"
    if num_train < MANY_FILES:
        reason += ", but few steps have to change them too"
    return Choice("model.layer_decay", round(decay, 2), reason)


def _share_of_many(num_train: int) -> float:
    """Return 0 for few files, 1 for many, and the share of the way between them, in factors."""
    share = math.log(num_train / FEW_FILES) / math.log(MANY_FILES / FEW_FILES)
    return min(max(share, 0.0), 1.0)


def _smoothing(files_per_class: float) -> float:
    """Return the recipe's smoothing from 100 files per class on, and less in proportion with fewer."""
    return round(RECIPE_SMOOTHING * min(1.0, files_per_class / 100), 3)


def _steps(number: int) -> str:
    return f"{number:,} step" if number == 1 else f"{number:,} steps"
