"""Ranges of numbers for keys of configurations and arguments of classes: one table, one check, one message."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mvrec.errors import UserError

LARGEST = 2**31 - 1  # of a count: counters of batches, pixels and steps hold no more


class Range(NamedTuple):
    """The range of numbers that a key accepts.

    `above` leaves `least` out, `below` leaves `greatest` out.
    """

    least: float = 1
    greatest: float = LARGEST
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number lies in the range; NaN does not."""
        return self.least <= value <= self.greatest and not (
            (self.above and value == self.least) or (self.below and value == self.greatest)
        )

    def wanted(self, value: float | None = None) -> str:
        """Return the condition that a value breaks, such as "be at least 1"."""
        if self.greatest == LARGEST and self.least > -1 and not (value is not None and value > LARGEST):
            return f"be above {self.least:g}" if self.above else f"be at least {self.least:g}"
        text = f"lie in {self.least:.10g}..{self.greatest:.10g}"
        if self.above and value in (None, self.least):
            text += f" and not be {self.least:g}"
        return f"{text} and be below {self.greatest:g}" if self.below and value in (None, self.greatest) else text


COUNT, COUNT_OR_NONE, COUNT_OR_ALL = Range(), Range(0), Range(-1)
POSITIVE = Range(0, above=True)
SHARE, SHARE_ABOVE_0, SHARE_BELOW_1 = Range(0, 1), Range(0, 1, above=True), Range(0, 1, below=True)
PIXELS = Range(1, 16384)
SEED = Range(0, 2**32 - 1)  # NumPy's seeds

# By the last part of the key: a name means the same in all our classes, in torch's optimisers and in the trainer.
RANGES: Mapping[str, Range] = {
    # networks
    "num_classes": Range(0, 10_000_000),
    "num_frames": Range(1, 10_000),
    "image_size": PIXELS,
    "in_channels": Range(1, 1024),
    "embed_dim": Range(1, 65_536),
    "num_heads": Range(1, 4096),
    "depth": Range(1, 1000),
    "kv_stride": Range(1, 1024),
    "mlp_ratio": Range(0, 1000, above=True),
    "drop_path_rate": SHARE_BELOW_1,
    "head_dropout": SHARE_BELOW_1,
    "norm_eps": SHARE,
    "dropout": SHARE_BELOW_1,
    "channels": Range(1, 65_536),
    # training
    "freeze": COUNT_OR_NONE,
    "layer_decay": SHARE_ABOVE_0,
    "lr_reference_batch": COUNT,
    "label_smoothing": SHARE_BELOW_1,
    "auxiliary_weight": Range(0, 100),
    "head_rate_factor": Range(0, 1000, above=True),
    "score_threshold": SHARE,
    "nms_threshold": SHARE,
    "max_detections": Range(1, 100_000),
    "views_per_forward": COUNT,
    "lr": Range(0, 1_000_000, above=True),
    "weight_decay": Range(0, 1_000_000),
    "momentum": SHARE,
    "eps": SHARE,
    "warmup_epochs": COUNT_OR_NONE,
    "cooldown_epochs": COUNT_OR_NONE,
    "start_factor": SHARE,
    "end_factor": SHARE,
    "mixup_alpha": Range(0, 1_000_000),
    "cutmix_alpha": Range(0, 1_000_000),
    "probability": SHARE,
    "switch_probability": SHARE,
    # data
    "size": PIXELS,
    "short_side": PIXELS,
    "longest": PIXELS,
    "side": PIXELS,
    "rotation": Range(0, 180),
    "repeats": Range(1, 10_000),
    "batch_size": COUNT,
    "eval_batch_size": COUNT,
    "num_workers": Range(0, 4096),
    "max_bad_fraction": SHARE,
    "decode_timeout": POSITIVE,
    "decode_memory": POSITIVE,
    "class_balance": SHARE,
    "min_score": SHARE,
    "offset": Range(0, 1_000_000),
    "every": POSITIVE,
    "key_frame_step": COUNT,
    "crop_fraction": SHARE_ABOVE_0,
    "val_fraction": SHARE_BELOW_1,
    "seed": SEED,
    "stride_frames": Range(1, 1_000_000),
    "target_fps": Range(0, 1_000_000, above=True),
    "num_clips": Range(1, 10_000),
    "num_crops": Range(1, 3),
    "flip_probability": SHARE,
    "num_ops": Range(0, 100),
    "magnitude": Range(0, 10),
    "magnitude_std": Range(0, 1000),
    "aspect": SHARE_ABOVE_0,
    # the run
    "seed_everything": SEED,
    "save_every_minutes": COUNT_OR_NONE,
    "hang_timeout_minutes": COUNT_OR_NONE,
    "max_epochs": COUNT_OR_ALL,
    "min_epochs": COUNT_OR_NONE,
    "max_steps": COUNT_OR_ALL,
    "min_steps": COUNT_OR_NONE,
    "limit_train_batches": COUNT_OR_NONE,
    "limit_val_batches": COUNT_OR_NONE,
    "limit_test_batches": COUNT_OR_NONE,
    "limit_predict_batches": COUNT_OR_NONE,
    "overfit_batches": COUNT_OR_NONE,
    "val_check_interval": POSITIVE,
    "check_val_every_n_epoch": COUNT,
    "reload_dataloaders_every_n_epochs": COUNT_OR_NONE,
    "fast_dev_run": COUNT_OR_NONE,
    "num_sanity_val_steps": COUNT_OR_ALL,
    "log_every_n_steps": COUNT_OR_NONE,
    "accumulate_grad_batches": COUNT,
    "gradient_clip_val": COUNT_OR_NONE,
    "devices": Range(-1, 4096),
    "num_nodes": Range(1, 1_000_000),
    "save_top_k": COUNT_OR_ALL,
    "every_n_epochs": COUNT_OR_NONE,
    "every_n_train_steps": COUNT_OR_NONE,
}


def check_range(name: str, value: float | None, limits: Range = COUNT) -> None:
    """Check that a number lies in a range; `None`, where a type allows it, always does.

    Args:
        name: The number's name in messages, such as "--samples".
        value: The number.
        limits: The range; by default 1 or more.

    Raises:
        UserError: "--samples must be at least 1, got 0".
    """
    if value is not None and not limits.holds(value):
        raise UserError(f"{name} must {limits.wanted(value)}, got {value:.10g}")


def check_ranges(owner: str, values: Mapping[str, Any]) -> None:
    """Check all values that are numbers and have a range in `RANGES`.

    Args:
        owner: Prefix of the names in messages, such as "data.".
        values: Values by name.

    Raises:
        UserError: "data.batch_size must be at least 1, got 0".
    """
    for name, value in values.items():
        if name in RANGES and isinstance(value, int | float):
            check_range(f"{owner}{name}", value, RANGES[name])
