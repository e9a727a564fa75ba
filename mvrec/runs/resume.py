"""Changes between a checkpoint and the run that resumes from it: applied and recorded, or refused.

The user's present settings win over the checkpoint's. Every setting that differs applies from the next step on, is
logged in one line and recorded in `resumes.json`; a setting that must not change within a run is refused beforehand.
"""

import copy
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mvrec import __version__
from mvrec.class_paths import renewed
from mvrec.errors import UserError
from mvrec.files import write_atomically
from mvrec.models.checkpoints.files import StoredWeights
from mvrec.run_data import data_of
from mvrec.runs.forms import changed_forms

RESUMES = "resumes.json"
# Settings of a run's place, output and reading speed: no step depends on them.
WITHOUT_EFFECT = (
    *("config", "run_dir", "resume", "ckpt_path", "weights_only", "protocol", "checkpoint.dirpath"),
    *("save_every_minutes", "hang_timeout_minutes", "model.weights", "model.new_head", "model.views_per_forward"),
    *("data.root", "data.num_workers", "data.test_views", "data.decode_timeout", "data.decode_memory"),
    *("trainer.default_root_dir", "trainer.logger", "trainer.log_every_n_steps", "trainer.profiler"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.num_sanity_val_steps"),
    *("trainer.limit_test_batches", "trainer.limit_predict_batches"),
)
REFUSED = {
    "seed_everything": "the order of the files depends on it",
    "data.seed": "the order of the files depends on it",
    "data.class_path": "the position in the files belongs to the other data module",
    "model.optimizer.class_path": "the optimiser's state belongs to the other optimiser",
    "model.lr_scheduler": "the schedule's state belongs to the other schedule",
    "model.lr_scheduler.class_path": "the schedule's state belongs to the other schedule",
    "model.freeze": "the optimiser's state belongs to other parameters",
    "model.backbone.class_path": "the weights belong to another network",
}
LONGEST = 40  # characters of a value in a log line

log = logging.getLogger(__name__)


class Change(NamedTuple):
    """A setting whose value has changed."""

    setting: str
    before: Any
    now: Any

    def __str__(self) -> str:
        before, now = (json.dumps(value, default=str, ensure_ascii=False) for value in self[1:])
        return self.setting if max(len(before), len(now)) > LONGEST else f"{self.setting} {before} -> {now}"


def check_resume(config: dict[str, Any], resumed: StoredWeights | None) -> None:
    """Refuse a resume that cannot work, before anything is written.

    Args:
        config: The present settings.
        resumed: The checkpoint, if the run resumes.

    Raises:
        UserError: A setting that must not change within a run, or fewer epochs than already trained.
    """
    if resumed is None:
        return
    path = resumed.source
    if "optimizer_states" not in resumed.content:
        raise UserError(f"{path} has only weights (checkpoint.save_weights_only). {anew(path)}")
    changes_since(resumed.content, config, path=path)


def changes_since(saved: dict[str, Any], config: dict[str, Any], *, path: str) -> list[Change]:
    """Return the settings that have changed since a checkpoint was saved.

    Args:
        saved: The checkpoint.
        config: The present settings.
        path: The checkpoint's file, for messages.

    Raises:
        UserError: See `check_resume`.
    """
    record = saved.get("mvrec", {})
    before = renewed(record.get("config", {}))
    same_version = record.get("version") == __version__
    changes = list(_differences(before, config, new_keys=same_version)) if before else []
    for change in changes:
        reason = REFUSED.get(change.setting)
        if change.setting == "model.layer_decay" and 1 in (change.before, change.now):
            reason = "the optimiser's state belongs to other groups of parameters"
        if change.setting == "model.optimizer.lr" and config.get("model", {}).get("lr_scheduler"):
            reason = "the rate follows from the state of model.lr_scheduler"
        if change.setting.startswith("model.backbone") and change.setting.endswith("class_path"):
            reason = REFUSED["model.backbone.class_path"]
        if reason is not None:
            raise UserError(f"{change} cannot be changed in the middle of a run: {reason}. {anew(path)}")
    epochs = saved.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {}).get("processed", 0)
    longest = config.get("trainer", {}).get("max_epochs")
    if longest is not None and 0 <= longest < epochs:
        raise UserError(
            f"trainer.max_epochs={longest}, and {path} has trained {epochs} epochs: nothing is left to train; "
            f"give more than {epochs} to train longer"
        )
    return changes


def anew(path: Any) -> str:
    """Return the advice how to start a run with a checkpoint's weights and nothing else of it."""
    return f"To start anew from its weights: --model.weights {path} with a new --run_dir, without --resume"


def _differences(before: Any, now: Any, *, new_keys: bool, path: str = "") -> Iterator[Change]:
    """Yield the leaves in which two configurations differ, by the names of their flags."""
    if path in WITHOUT_EFFECT or path.endswith(".weights"):
        return
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield Change(path, before, now)
        return
    if before.get("class_path") != now.get("class_path"):
        yield Change(f"{path}.class_path", before.get("class_path"), now.get("class_path"))
        return
    for name in [*before, *(name for name in now if name not in before and new_keys)]:
        below = path if name == "init_args" else f"{path}.{name}" if path else name
        yield from _differences(before.get(name), now.get(name), new_keys=new_keys, path=below)


def check_weights(module: nn.Module, checkpoint: dict[str, Any], path: Any) -> None:
    """Refuse the weights of another network with one line.

    Raises:
        UserError: The first parameter that differs.
    """
    present = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    name = next((name for name in [*saved, *present] if present.get(name) != saved.get(name)), None)
    if name is not None:
        before, now = (str(shapes.get(name, "missing")) for shapes in (saved, present))
        raise UserError(
            f"{name} is {before} in {path} and {now} in the present network: a run must resume with its own "
            f"network. {anew(path)}"
        )


class Resume(L.Callback):
    """Applies the present settings to a resumed run, and records from which step on.

    Optimiser options and rates are the present ones; Lightning would restore the checkpoint's. If the number of steps
    per epoch has changed, the schedule continues at the same part of the epoch, so that it reaches its end.

    Args:
        run_dir: The run directory, for `resumes.json`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._checkpoint: dict[str, Any] | None = None
        self._entry: dict[str, Any] | None = None
        self._history: list[dict[str, Any]] = []
        self._begun = False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the present settings.

        Raises:
            UserError: A setting that must not change.
        """
        task: Any = pl_module
        path = str(trainer.ckpt_path)
        changes = changes_since(checkpoint, task.run_record.get("config", {}), path=path)
        saved = checkpoint.get("mvrec", {})
        changes += _changes_of_data(saved.get("data", {}), data_of(trainer).record())
        changes += _changes_of_code(saved.get("parts", {}), task.run_record.get("parts", {}))
        averaged = any(isinstance(c, WeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averaged:  # Lightning has loaded the averages; train the weights
            pl_module.load_state_dict(checkpoint["current_model_state"])
        self._checkpoint = checkpoint
        self._entry = {"step": checkpoint["global_step"], "epoch": checkpoint["epoch"], "checkpoint": path}
        self._entry["changed"] = [change._asdict() for change in changes]
        self._history = saved.get("resumes", [])
        if trainer.optimizers:  # some strategies restore them later
            self._use_present_options(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the present optimiser options into the checkpoint before Lightning restores them."""
        self._use_present_options(trainer)
        task: Any = pl_module
        facts = {"steps_per_epoch": _steps_per_epoch(trainer), "precision": str(trainer.precision)}
        task.run_record["facts"] = facts | {"forms": task.run_record.get("forms")}

    def _use_present_options(self, trainer: L.Trainer) -> None:
        checkpoint = self._checkpoint
        if checkpoint is None or self._entry is None:
            return
        facts = checkpoint.get("mvrec", {}).get("facts", {})
        if (precision := facts.get("precision", str(trainer.precision))) != str(trainer.precision):
            self._entry["changed"].append(Change("precision in use", precision, str(trainer.precision))._asdict())
        forms = changed_forms(facts.get("forms"), trainer.lightning_module.run_record.get("forms"))  # type: ignore
        self._entry["changed"] += [Change(*change)._asdict() for change in forms]
        states = zip(trainer.optimizers, checkpoint.get("optimizer_states", ()), strict=False)
        schedulers: list[Any] = [entry.scheduler for entry in trainer.lr_scheduler_configs]
        for (optimizer, state), scheduler, saved in zip(states, schedulers, checkpoint["lr_schedulers"], strict=False):
            self._check_groups(optimizer, state, trainer.ckpt_path)
            if not isinstance(scheduler, LambdaLR):  # of the user: it goes on from its own state and the saved rates
                rates = [group["lr"] for group in state["param_groups"]]
                _take_options(state, optimizer, rates, but_for=("params", "initial_lr"))
                continue
            saved["base_lrs"] = list(scheduler.base_lrs)
            saved["last_epoch"] = _place_in_schedule(trainer, checkpoint, facts, saved["last_epoch"])
            rates = [
                base * factor(saved["last_epoch"])
                for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            ]
            saved["_last_lr"] = rates
            _take_options(state, optimizer, rates)

    def _check_groups(self, optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Any) -> None:
        present, saved = (
            [sorted(group.get("names", ())) for group in groups]
            for groups in (optimizer.param_groups, state["param_groups"])
        )
        if present != saved:
            raise UserError(
                f"the optimiser has other groups of parameters than in {path} (model.freeze, model.layer_decay, or the "
                f"network): a run must resume with the groups that it began with. {anew(path)}"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log and record the changes from here on."""
        if self._entry is None:
            return
        changed = [Change(**change) for change in self._entry["changed"]]
        if changed:
            line = "; ".join(map(str, changed))
            log.info("resume: changed from step %d on: %s", self._entry["step"], line)
        task: Any = pl_module
        task.run_record["resumes"] = [*self._history, self._entry]
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            text = json.dumps(task.run_record["resumes"], indent=2, ensure_ascii=False, default=str)
            write_atomically(self.run_dir / RESUMES, text + "\n")
        self._checkpoint = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record that there was something left to train."""
        self._begun = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log that the run was already finished, and how to train longer."""
        if self._entry is not None and not self._begun:
            log.info("resume: nothing is left to train at step %d: %s", self._entry["step"], _limit(trainer))


def _take_options(
    state: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    *,
    but_for: Sequence[str] = ("params",),
) -> None:
    """Put the present options of an optimiser into its saved state, with the rates of each group."""
    for group, now, rate in zip(state["param_groups"], optimizer.param_groups, rates, strict=True):
        options = {name: copy.deepcopy(value) for name, value in now.items() if name not in but_for}
        group.update({**options, "lr": rate})


def _limit(trainer: L.Trainer) -> str:
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps} is reached; a larger --trainer.max_steps trains longer"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return f"trainer.max_epochs={trainer.max_epochs} is reached; a larger --trainer.max_epochs trains longer"
    return "the run stops at once, as by a trainer.max_time that is used up; a longer one trains on"


def _changes_of_code(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Return the files of parts of one's own whose SHA-256 differs, each with the parts in it."""
    changed: dict[str, list[str]] = {}
    for path in before.keys() & now.keys():
        if before[path]["sha256"] != now[path]["sha256"]:
            changed.setdefault(now[path]["file"], []).append(path)
    return [
        Change(f"code of {', '.join(sorted(paths))} in {file}", before[paths[0]]["sha256"], now[paths[0]]["sha256"])
        for file, paths in sorted(changed.items())
    ]


def _changes_of_data(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    changes = []
    for split, phase in (("train", "training"), ("val", "validation")):
        then, today = (record.get("splits", {}).get(split) for record in (before, now))
        if then is None or today is None or then == today:
            continue
        changes.append(Change(f"data of the {phase} split", then, today))
        if then["files"] == today["files"]:
            change = f"has {today['files']} files as when the checkpoint was saved, but other names, labels or spans"
        else:
            change = f"had {then['files']} files when the checkpoint was saved and has {today['files']} now"
        effect = "the run will differ from an uninterrupted one" if split == "train" else "scores compare other files"
        log.warning("the %s split %s: %s", phase, change, effect)
    return changes


def _steps_per_epoch(trainer: L.Trainer) -> int | None:
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)


def _place_in_schedule(trainer: L.Trainer, checkpoint: dict[str, Any], facts: dict[str, Any], step: int) -> int:
    """Return the step at which the schedule continues: at the same part of its epoch if an epoch's length changed.

    Raises:
        UserError: An epoch has become so short that the checkpoint lies behind its end.
    """
    before, now = facts.get("steps_per_epoch"), _steps_per_epoch(trainer)
    data = data_of(trainer)
    position = checkpoint.get(type(data).__qualname__, {})
    if before is None or now is None or "consumed" not in position:
        return step
    is_at_end = math.ceil(position["consumed"] / position["draws_per_step"]) >= before
    done = position["consumed"] // (data.draws_per_batch * trainer.accumulate_grad_batches)
    if done >= now and not is_at_end:
        raise UserError(
            f"{trainer.ckpt_path} was saved after step {done} of an epoch, and an epoch has {now} now "
            f"(trainer.limit_train_batches, or fewer files): resume with at least {done + 1}. {anew(trainer.ckpt_path)}"
        )
    if before == now or trainer.max_steps != -1:
        return step
    return int((position["epoch"] + 1) * now if is_at_end else position["epoch"] * now + done)
