"""The checkpoints of a run: best.ckpt is the best of all validations, last.ckpt is of the last epoch."""

import logging
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mvrec.errors import UserError
from mvrec.runs.checkpoint_files import BEST, LAST, PREVIOUS
from mvrec.runs.monitors import Mode, mode_of, placeholders

LOSS = "val/loss"

log = logging.getLogger(__name__)


class CheckpointSettings(ModelCheckpoint):
    """What is kept of a run: best.ckpt and last.ckpt, and more files with names of their own where they are asked for.

    Args:
        mode: Whether less or more of the monitored score is better; by default as its name says, less of a loss.
        filename: Name of the further files, for `save_top_k` other than 1 or an interval of one's own; with
            placeholders such as `{epoch}`, `{step}`, `{val/top1}`.
        save_top_k: How many of the best are kept; -1 for all, 0 for none, also no best.ckpt.
        save_last: Whether last.ckpt is written.
        knobs: See `ModelCheckpoint`.
    """

    def __init__(
        self,
        mode: Mode | None = None,
        filename: str | None = None,
        save_top_k: int = 1,
        save_last: bool | Literal["link"] | None = True,
        **knobs: Any,
    ) -> None:
        filename = None if filename == "best" else filename  # what earlier versions wrote for the default
        placeholders(filename or "")
        intervals = [knobs.get(name) for name in ("every_n_train_steps", "every_n_epochs", "train_time_interval")]
        self.keeps_best, self.keeps_last = save_top_k != 0, bool(save_last)
        self.keeps_more = save_top_k not in (0, 1) or filename is not None or any(intervals)
        if self.keeps_more:
            filename = _own_name(filename, many=save_top_k != 1)
        mode = mode or mode_of(knobs.get("monitor") or "")
        super().__init__(mode=mode, filename=filename, save_top_k=save_top_k, save_last=save_last, **knobs)


def _own_name(filename: str | None, *, many: bool) -> str:
    if filename is None:
        return "epoch{epoch}-step{step}"
    if filename in (Path(LAST).stem, Path(PREVIOUS).stem):
        raise UserError(f"checkpoint.filename {filename!r}: the run itself has a file of this name, choose another one")
    return f"{filename}-step{{step}}" if many and "{" not in filename else filename


def run_checkpoints(settings: CheckpointSettings, folder: Path, callbacks: list[Any]) -> list[ModelCheckpoint]:
    """Return the callbacks that write a run's checkpoints.

    Args:
        settings: `checkpoint` of the configuration.
        folder: Where they go.
        callbacks: Those of the user; their `ModelCheckpoint`s get this folder too, and leave last.ckpt to ours.

    Raises:
        UserError: Two of them cannot be told apart, or one would write a file that is ours.
    """
    theirs = [one for one in callbacks if isinstance(one, ModelCheckpoint)]
    for one in theirs:
        one.dirpath = one.dirpath or str(folder)
        one.save_last = None
        if one.filename in (Path(BEST).stem, Path(LAST).stem, Path(PREVIOUS).stem):
            raise UserError(f"ModelCheckpoint.filename {one.filename!r}: the run itself has a file of this name")
    watched = BestAndLast(settings, folder)
    if settings.keeps_more:
        settings.dirpath, settings.save_last = str(folder), None
        if settings.save_top_k == -1:
            settings.monitor = None  # all are kept: none has to wait for a score
        theirs.append(settings)
    if len({one.state_key for one in theirs}) < len(theirs):
        raise UserError(
            "two ModelCheckpoints have the same monitor, mode and interval: a checkpoint could not tell them apart; "
            "best.ckpt and last.ckpt come without any"
        )
    return [*([settings] if settings.keeps_more else []), watched]


class Rank(NamedTuple):
    """What makes a checkpoint better than another: the score, then the lower loss; of equals the later one wins."""

    score: float
    loss: float


class BestAndLast(ModelCheckpoint):
    """Writes best.ckpt where a validation is the best so far, and last.ckpt after every epoch and validation.

    How good best.ckpt is stands in best.ckpt itself: a run that has moved, or that goes on from another of its
    checkpoints, does not forget it.

    Args:
        settings: What is monitored, and which of the two are wanted.
        folder: Where they go.
    """

    monitor_key = "checkpoint.monitor"

    def __init__(self, settings: CheckpointSettings, folder: Path) -> None:
        super().__init__(dirpath=str(folder), monitor=settings.monitor, mode=settings.mode, save_top_k=0)
        self.settings, self.folder = settings, folder
        self.last_step = -1
        self._best: Rank | None = None
        self._validated = False

    @property
    def state_key(self) -> str:
        """The same whatever is monitored, and unlike any other's."""
        return "ModelCheckpoint of the run"

    # -- when ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See how good the best.ckpt is that lies there, when a run goes on."""
        if trainer.ckpt_path is not None:
            found = rank_of(self.folder / BEST, self.monitor) if trainer.is_global_zero else None
            self._best = trainer.strategy.broadcast(found)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: steps have no score."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless that is better done at the end of the epoch, which is now."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        if trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see `FinalCheckpoint`."""

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see `FinalCheckpoint`."""

    # -- what ---------------------------------------------------------------------------------------------------

    def _save(self, trainer: L.Trainer) -> None:
        missing = self._validated and self.monitor is not None and self.monitor not in trainer.callback_metrics
        if self.settings.keeps_best and not missing and (self._validated or self.monitor is None):
            rank = self._rank(trainer.callback_metrics)
            better = self._is_better(rank)
            if trainer.strategy.reduce_boolean_decision(better):
                self._best, self.best_model_path = rank, str(self.folder / BEST)
                trainer.save_checkpoint(self.folder / BEST, weights_only=self.settings.save_weights_only)
            elif not math.isfinite(rank.score):
                log.warning("%s is %s: best.ckpt stays as it was", self.monitor, rank.score)
        self._validated = False
        if self.settings.keeps_last and self.last_step != trainer.global_step:
            self.save_last_now(trainer)
        if missing:
            logged = ", ".join(trainer.callback_metrics)
            raise UserError(
                f"checkpoint.monitor {self.monitor!r}: the validation has not logged it; there are {logged}"
            )

    def save_last_now(self, trainer: L.Trainer) -> None:
        """Write last.ckpt; all processes take part."""
        trainer.save_checkpoint(self.folder / LAST)
        self.last_step = trainer.global_step

    def _rank(self, metrics: dict[str, Tensor]) -> Rank:
        loss = float(metrics.get(LOSS, math.inf))
        score = 0.0 if self.monitor is None else float(metrics[self.monitor])
        return Rank(score, 0.0 if self.monitor is None else loss if math.isfinite(loss) else math.inf)

    def _is_better(self, rank: Rank) -> bool:
        if not math.isfinite(rank.score):
            return False
        if self._best is None or self.monitor is None:
            return True
        sign = 1 if self.mode == "max" else -1
        return (sign * rank.score, -rank.loss) >= (sign * self._best.score, -self._best.loss)

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far; no path, since a run may move."""
        best = None if self._best is None else {"score": self._best.score, "loss": self._best.loss}
        score = None if self._best is None else torch.tensor(self._best.score)
        return {"monitor": self.monitor, "mode": self.mode, "best": best, "best_model_score": score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing, since best.ckpt says how good it is; where it is weights alone, this checkpoint does."""
        best = state_dict.get("best")
        if best and state_dict.get("monitor") == self.monitor and self.settings.save_weights_only:
            self._best = Rank(**best) if (self.folder / BEST).is_file() else None

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell other `ModelCheckpoint`s where their files are now, if the run has moved."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and callback is not self and state and "dirpath" in state:
                checkpoint["callbacks"][callback.state_key] = moved(state, callback)


def rank_of(path: Path, monitor: str | None) -> Rank | None:
    """How good a best.ckpt is by the score that is monitored; `None` where there is none, or one by another score."""
    if not path.is_file():
        return None
    try:
        callbacks = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("callbacks", {})
    except Exception:  # a damaged file shows itself as anything
        log.warning("%s is damaged: the next validation replaces it", path)
        return None
    for name, state in callbacks.items():
        if not name.startswith("ModelCheckpoint") or state.get("monitor") != monitor:
            continue
        if state.get("best"):
            return Rank(**state["best"])
        if Path(str(state.get("best_model_path"))).name == BEST and state.get("current_score") is not None:
            return Rank(float(state["current_score"]), math.inf)  # of an earlier version, which kept no loss
    if monitor is not None and callbacks:
        log.info("%s was chosen by another score: the next validation replaces it", path)
    return None


def moved(state: dict[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """Return the state of a `ModelCheckpoint` for the folder that it has now: of its files those that are there."""
    folder = Path(str(callback.dirpath))

    def here(path: Any) -> str:
        return str(folder / Path(path).name) if path and (folder / Path(path).name).is_file() else ""

    kept = {here(path): score for path, score in state.get("best_k_models", {}).items() if here(path)}
    best = max if callback.mode == "max" else min
    worst = min if callback.mode == "max" else max
    best_path = best(kept, key=lambda path: float(kept[path])) if kept else here(state.get("best_model_path"))
    kth = worst(kept, key=lambda path: float(kept[path])) if kept else ""
    return {
        **state,
        "dirpath": callback.dirpath,
        "best_k_models": kept,
        "best_model_path": best_path,
        "best_model_score": kept.get(best_path),
        "kth_best_model_path": kth,
        "kth_value": kept.get(kth, callback.kth_value),
        "last_model_path": here(state.get("last_model_path")),
    }
