"""The checkpoints of a run: best.ckpt from its best validation, last.ckpt from its last epoch."""

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
    """Settings of a run's checkpoints: best.ckpt, last.ckpt, and further files with names of their own.

    Args:
        mode: Whether a lower or higher score is better; by default the score's name decides, lower for a loss.
        filename: Name of the further files, for `save_top_k` other than 1 or an interval of one's own; with
            placeholders such as `{epoch}`, `{step}`, `{val/top1}`.
        save_top_k: The number of best checkpoints to keep; -1 for all, 0 for none, not even best.ckpt.
        save_last: Whether to write last.ckpt.
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
        filename = None if filename == "best" else filename  # the default in earlier versions
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
        folder: The folder of the checkpoints.
        callbacks: The user's callbacks; their `ModelCheckpoint`s get this folder too, and leave last.ckpt to the run.

    Raises:
        UserError: Two of them write under one state key, or one would write a file of the run.
    """
    further = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    for checkpoint in further:
        checkpoint.dirpath = checkpoint.dirpath or str(folder)
        checkpoint.save_last = None
        if checkpoint.filename in (Path(BEST).stem, Path(LAST).stem, Path(PREVIOUS).stem):
            raise UserError(f"ModelCheckpoint.filename {checkpoint.filename!r}: the run itself has a file of this name")
    watched = BestAndLast(settings, folder)
    if settings.keeps_more:
        settings.dirpath, settings.save_last = str(folder), None
        if settings.save_top_k == -1:
            settings.monitor = None  # all are kept, so no score is needed
        further.append(settings)
    if len({checkpoint.state_key for checkpoint in further}) < len(further):
        raise UserError(
            "two ModelCheckpoints have the same monitor, mode and interval: a checkpoint could not tell them apart; "
            "best.ckpt and last.ckpt come without any"
        )
    return [*([settings] if settings.keeps_more else []), watched]


class Rank(NamedTuple):
    """The rank of a checkpoint: a better score, then a lower loss wins; of equals the later one."""

    score: float
    loss: float


class BestAndLast(ModelCheckpoint):
    """Writes best.ckpt after the best validation so far, and last.ckpt after every epoch and validation.

    best.ckpt itself holds its score, so a run that has moved, or that resumes from another of its checkpoints, still
    knows it.

    Args:
        settings: The monitored score, and which of the two files to write.
        folder: The folder of the checkpoints.
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
        """The same for every monitored score, and different from other callbacks' keys."""
        return "ModelCheckpoint of the run"

    # -- when ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the score of an existing best.ckpt when a run resumes."""
        if trainer.ckpt_path is not None:
            rank = rank_of(self.folder / BEST, self.monitor) if trainer.is_global_zero else None
            self._best = trainer.strategy.broadcast(rank)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: steps have no score."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless the epoch ends now and saves itself."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        interval = getattr(trainer, "val_check_interval", None)  # Lightning sets none for a time
        if trainer.check_val_every_n_epoch != 1 or interval != 1.0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the checkpoints of the epoch."""
        self._save(trainer)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `FinalCheckpoint` saves."""

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `FinalCheckpoint` saves."""

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
                f"checkpoint.monitor {self.monitor!r}: the validation has not logged it; available: {logged}"
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
        """Return the best score so far; no path, since a run may move."""
        best = None if self._best is None else {"score": self._best.score, "loss": self._best.loss}
        score = None if self._best is None else torch.tensor(self._best.score)
        return {"monitor": self.monitor, "mode": self.mode, "best": best, "best_model_score": score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the saved score unless best.ckpt holds weights alone: best.ckpt itself has its score."""
        best = state_dict.get("best")
        if best and state_dict.get("monitor") == self.monitor and self.settings.save_weights_only:
            self._best = Rank(**best) if (self.folder / BEST).is_file() else None

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct the file paths of other `ModelCheckpoint`s if the run has moved."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and callback is not self and state and "dirpath" in state:
                checkpoint["callbacks"][callback.state_key] = moved(state, callback)


def rank_of(path: Path, monitor: str | None) -> Rank | None:
    """Return a best.ckpt's rank by the monitored score; `None` without a file, or for one by another score."""
    if not path.is_file():
        return None
    try:
        callbacks = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("callbacks", {})
    except Exception:  # a damaged file may raise any error
        log.warning("%s is damaged: the next validation replaces it", path)
        return None
    for name, state in callbacks.items():
        if not name.startswith("ModelCheckpoint") or state.get("monitor") != monitor:
            continue
        if state.get("best"):
            return Rank(**state["best"])
        if Path(str(state.get("best_model_path"))).name == BEST and state.get("current_score") is not None:
            return Rank(float(state["current_score"]), math.inf)  # earlier versions kept no loss
    if monitor is not None and callbacks:
        log.info("%s was chosen by another score: the next validation replaces it", path)
    return None


def moved(state: dict[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """Return the state of a `ModelCheckpoint` for its present folder, with the files that exist there."""
    folder = Path(str(callback.dirpath))

    def present(path: Any) -> str:
        return str(folder / Path(path).name) if path and (folder / Path(path).name).is_file() else ""

    files = {present(path): score for path, score in state.get("best_k_models", {}).items() if present(path)}
    best = max if callback.mode == "max" else min
    worst = min if callback.mode == "max" else max
    best_path = best(files, key=lambda path: float(files[path])) if files else present(state.get("best_model_path"))
    kth = worst(files, key=lambda path: float(files[path])) if files else ""
    return {
        **state,
        "dirpath": callback.dirpath,
        "best_k_models": files,
        "best_model_path": best_path,
        "best_model_score": files.get(best_path),
        "kth_best_model_path": kth,
        "kth_value": files.get(kth, callback.kth_value),
        "last_model_path": present(state.get("last_model_path")),
    }
