"""The base of every task: weights, optimiser, schedule, exact scores and checkpoints, without any labels."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from mvrec import __version__
from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.targets import Target, needed
from mvrec.errors import UserError
from mvrec.lightning_private import has_trainer
from mvrec.models import Backbone, accelerate
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData, data_of
from mvrec.runs.checkpoint_files import LAST, PREVIOUS
from mvrec.runs.progress import is_logged, rates
from mvrec.runs.resume import check_weights
from mvrec.tasks.outputs import joined, task_of
from mvrec.tasks.score_text import failures, score_line, split_text, write_metrics
from mvrec.tasks.scores import ScoreKeeper, Scores, Tally
from mvrec.tasks.start import Start, check_network, checkpoint_facts, named_shape
from mvrec.training.optim import (
    OptimizerCallable,
    Per,
    SchedulerCallable,
    WarmupCosine,
    check_optimizer,
    check_scheduler,
    lr_scale,
    scheduled,
    step_scheduler,
)
from mvrec.training.parameter_groups import group_record, group_summary, parameter_groups, scale_rates
from mvrec.training.sharding import gather_weights, is_sharded, shard, spread_weights

Stage = Literal["val", "test", "predict"]

log = logging.getLogger(__name__)


class Task(L.LightningModule, ABC):
    """Train and score a backbone. A subclass sets the head, loss, predictions and scores.

    It defines `build`, `loss`, `tally`, `score_names`, `write_scores`, if need be `predict`, and `TaskOutputs`.

    Attributes:
        name: The task's name in checkpoints, `metrics.json` and messages.
        outputs: Class path of its `TaskOutputs`, recorded in checkpoints.
        monitor: The score that decides which checkpoint is the best, until `setup`; then the first of `score_names`
            does.
        targets: Types of the targets that it learns.
        scores: Scores of the last evaluation.

    Args:
        backbone: The network.
        weights: File of the initial weights, in any layout; see `load_weights`.
        freeze: Layers to freeze: a number from the stem on, or "backbone" for all but the head.
        optimizer: Makes the optimiser; its weight decay skips biases, norms and the backbone's exemptions.
        layer_decay: Ratio between the learning rates of neighbouring layers, full at the head; 1 for none.
        schedule: Learning rate over time, relative to the optimiser's.
        lr_scheduler: Class path of a scheduler of torch or timm, or one like theirs, in place of `schedule`.
        lr_scheduler_per: Whether it changes the rate after every optimiser "step" or every "epoch" (the default).
        lr_reference_batch: Clips or images per step, over all processes and accumulated batches, for which the
            optimiser's learning rate is meant; the rate is scaled in proportion to the real number (Goyal et al. 2017).
            `None` leaves the rate as it is.
        compile: Compile the backbone (`torch.compile`); the first step takes a minute or more.
        channels_last: Store the channels of a pixel together, which GPUs convolve faster.
        activation_checkpointing: Recompute each block in the backward pass: less memory, the same numbers.
        views_per_forward: Views per forward pass in evaluation; by default as many as a training step has clips or
            images.
        failed_files: Whether unreadable files count as "wrong" in a score or are "left_out" of it.

    Raises:
        UserError: A number that is out of range; weights that do not fit; a checkpoint of another task.
    """

    name: ClassVar[str]
    outputs: ClassVar[str]
    monitor: ClassVar[str]
    targets: ClassVar[tuple[type[Target], ...]]
    rate_factors: Mapping[str, float] = MappingProxyType({})  # of learning rates, by the beginning of parameter names

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str | None = None,
        freeze: int | Literal["backbone"] = 0,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.05),
        layer_decay: float = 1.0,
        schedule: WarmupCosine = WarmupCosine(),  # noqa: B008 - frozen
        lr_scheduler: SchedulerCallable | None = None,
        lr_scheduler_per: Per | None = None,
        lr_reference_batch: int | None = None,
        compile: bool = False,
        channels_last: bool = False,
        activation_checkpointing: bool = False,
        views_per_forward: int | None = None,
        failed_files: Literal["wrong", "left_out"] = "wrong",
    ) -> None:
        super().__init__()
        if missing := [name for name in ("name", "outputs", "monitor", "targets") if not hasattr(self, name)]:
            raise UserError(f"the task {type(self).__name__} does not say its {' and its '.join(missing)}")
        rates = {"layer_decay": layer_decay, "lr_reference_batch": lr_reference_batch}
        check_ranges("model.", {**rates, "views_per_forward": views_per_forward})
        check_optimizer(optimizer)
        check_scheduler(lr_scheduler, lr_scheduler_per)
        check_network(backbone, layer_decay)
        self.backbone = accelerate(backbone)
        self.start = Start(weights, freeze=freeze)
        self.start.load(backbone)
        self.make_optimizer = optimizer
        self.layer_decay, self.schedule, self.lr_reference_batch = layer_decay, schedule, lr_reference_batch
        self.compiled, self.channels_last = compile, channels_last
        self.lr_scheduler, self.lr_scheduler_per = lr_scheduler, lr_scheduler_per
        backbone.set_activation_checkpointing(activation_checkpointing)
        self.views_per_forward, self.failed_files = views_per_forward, failed_files
        self.run_record: dict[str, Any] = {}  # the command line's additions to checkpoints
        self.parameter_groups: list[dict[str, Any]] = []
        self.scores: Scores | None = None
        self._configured = False
        self._keeper: ScoreKeeper | None = None
        self._chosen_on: str | None = None  # hash of the validation files of the checkpoint's run

    # -- defined by a task --------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, data: RunData) -> None:
        """Fit the network's head to the data, after their set-up: for training, or only for scoring."""

    @abstractmethod
    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return scalars of a training batch by name, all logged; training lowers "loss"."""

    def predict(self, batch: ClipBatch) -> Any:
        """Return the network's outputs for a batch, a tensor (B, ...) or a list; a task may override it."""
        return self(batch.clips)

    @abstractmethod
    def tally(self) -> Tally:
        """Return an empty tally for an evaluation."""

    @abstractmethod
    def score_names(self) -> list[str]:
        """Return the logged scores of a validation, such as "val/top1"; the first one ranks checkpoints."""

    @abstractmethod
    def write_scores(self, scores: Any, folder: Path, stage: Stage) -> None:
        """Write `predictions.csv` (`predicted.csv` in `predict`) and the task's other results of an evaluation."""

    def complete(self, scores: Any) -> Any:
        """Return the scores of all processes with further values of the task's: unchanged by default."""
        return scores

    def facts(self) -> dict[str, Any]:
        """Return the facts of a checkpoint for its `TaskOutputs`, such as class names."""
        return {}

    def describe(self) -> str:
        """Describe the trained network besides its name and size, in a few words."""
        return self.name

    def as_scored(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch in the form of the scores: unchanged by default."""
        return batch

    def take_over(self, saved: dict[str, Any]) -> None:
        """Fit the network to a checkpoint loaded without data."""

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Compare a checkpoint's facts with the data.

        Args:
            saved: `facts` of the checkpoint.
            training: Whether training resumes; else the network is only scored.

        Raises:
            UserError: The data are not those of the checkpoint.
        """

    # -- set-up -------------------------------------------------------------------------------------------------

    @property
    def data(self) -> RunData:
        """The data module of the running trainer."""
        return data_of(self.trainer)

    def forward(self, clips: Tensor, *inputs: Tensor) -> Any:
        """Return the outputs for normalised clips (B, C, T, H, W) or images (B, C, H, W), and inputs of the head."""
        clips = clips.to(next(self.backbone.parameters()).dtype)  # pixels are float32 in any precision
        return self.backbone(clips, *inputs)

    def setup(self, stage: str) -> None:
        """Let the data choose the score that ranks checkpoints, unless the user has."""
        if stage == "fit":
            for callback in self.trainer.checkpoint_callbacks:
                if getattr(callback, "monitor", None) == self.monitor:
                    callback.monitor = self.score_names()[0]  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Fit the network to the data, and prepare it for the device."""
        if not has_trainer(self):
            return  # loading without data: `on_load_checkpoint` fits the network to the checkpoint
        built, fed = self.backbone.input_shape, self.data.clip_shape
        if len(built) != len(fed) or built[0] != fed[0]:
            raise UserError(f"the backbone takes inputs of shape {built} without the batch, the data give {fed}")
        if not self._configured:  # averaging callbacks call this before the trainer does
            self._configured = True
            self._check_targets()
            self.build(self.data)
            self.start.freeze_layers(self.backbone)
            name = type(self.backbone).__name__  # sharding changes the class
            self._network = getattr(self.backbone, "summary", name)
            self._prepare_backbone()
        if built != fed and self.backbone.position_grid is not None:
            log.warning(
                "the backbone is built for %s and gets %s: its position tables are interpolated",
                named_shape(built),
                fed,
            )

    def _check_targets(self) -> None:
        kind = self.data.target_type
        if not issubclass(kind, self.targets):
            source = f"{type(self.data).__name__} gives {kind.noun} per file"
            raise UserError(f"{source}, the task {self.name} needs {needed(kind, self.targets)}")

    def _prepare_backbone(self) -> None:
        if self.channels_last:
            layout = torch.channels_last if len(self.backbone.input_shape) == 3 else torch.channels_last_3d
            self.backbone.to(memory_format=layout)
        if self.compiled:
            self.compile_backbone()
        if is_sharded(self.trainer):
            blocks = shard(self.backbone, self.backbone.parameter_stages(), self.device_mesh)
            log.info("%d blocks are sharded over %d processes", blocks, self.trainer.world_size)

    def compile_backbone(self) -> None:
        """Compile the network with its head."""
        self.backbone.compile()

    def train(self, mode: bool = True) -> "Task":
        """Set training or evaluation mode; frozen layers stay in evaluation mode, with their running statistics."""
        super().train(mode)
        self.start.keep_frozen(self.backbone)
        return self

    def configure_optimizers(self) -> Any:
        """Return the optimiser with its parameter groups, and the schedule per optimiser step.

        Raises:
            UserError: A learning rate that is not above 0, or a schedule without an end.
        """
        groups = parameter_groups(
            self,
            undecayed={f"backbone.{name}" for name in self.backbone.no_weight_decay()},
            layers=[[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_groups()],
            layer_decay=self.layer_decay,
            rate_factors=self.rate_factors,
        )
        optimizer = self.make_optimizer(groups)
        scale_rates(optimizer, lr_scale(self.lr_reference_batch, self.data, self.trainer))
        self.parameter_groups = group_record(optimizer, self)
        per = self.lr_scheduler_per
        return scheduled(optimizer, self.trainer, self.schedule, scheduler=self.lr_scheduler, per=per)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Move the schedule on, also one of timm."""
        step_scheduler(scheduler, metric, self.trainer)

    def on_fit_start(self) -> None:
        """Log the trained network."""
        millions = sum(parameter.numel() for parameter in self.backbone.parameters()) / 1e6
        fed = named_shape(self.data.clip_shape)
        log.info("%s, %.2f M parameters, %s, %s", self._network, millions, self.describe(), fed)
        log.info("%s", group_summary(self.parameter_groups))

    # -- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        values = self.loss(batch)
        for name, value in values.items():
            self.log(f"train/{name}", value, batch_size=len(batch))
        for name, rate in rates(self.trainer.optimizers[0]).items() if is_logged(self.trainer) else ():
            self.log(f"train/{name}", torch.tensor(rate), batch_size=len(batch))  # on the CPU: a copy waits
        return values["loss"]

    # -- evaluation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start to collect scores."""
        self._begin("val")

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the views of a batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Merge the scores of all processes."""
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        """Start to collect scores."""
        self._begin("test")

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the views of a batch."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Merge the scores of all processes."""
        self._finish("test")

    def on_predict_epoch_start(self) -> None:
        """Start to collect scores."""
        self._begin("predict")

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Score the views of a batch; return their sample ids (B,)."""
        self._score(batch)
        return batch.sample_ids

    def on_predict_epoch_end(self) -> None:
        """Merge the scores of all processes and write `predicted.csv`."""
        self._finish("predict")

    def _begin(self, stage: Stage) -> None:
        trainer = self.trainer
        loader, limit = {
            "val": (trainer.val_dataloaders, trainer.limit_val_batches),
            "test": (trainer.test_dataloaders, trainer.limit_test_batches),
            "predict": (trainer.predict_dataloaders, trainer.limit_predict_batches),
        }[stage]
        whole = isinstance(limit, float) and limit == 1.0 and not trainer.sanity_checking  # 1 is one batch, 1.0 all
        self._keeper = ScoreKeeper(
            self.tally(),
            num_views=self._protocol(stage).num_views,
            expected=len(loader.dataset) if whole else None,  # type: ignore[union-attr]
            failed_are_wrong=self.failed_files == "wrong",
            total=len(loader.dataset),  # type: ignore[union-attr]
            path_of=lambda row: str(self.data.index("val" if stage == "val" else "test")[row].path),
        )
        gather_weights(self.backbone, trainer)

    def _score(self, batch: ClipBatch) -> None:
        assert self._keeper is not None
        batch = self.as_scored(batch)
        self._keeper.fail(batch.bad)
        if len(batch):
            parts = batch.parts(self.views_per_forward or self.data.clips_per_step)
            outputs = [self.predict(part) for part in parts]
            self._keeper.add(joined(outputs), batch.targets, batch.sample_ids)

    def _finish(self, stage: Stage) -> None:
        assert self._keeper is not None
        spread_weights(self.backbone, self.trainer)
        self.scores, self._keeper = self.complete(self._keeper.gather()), None
        if self.trainer.sanity_checking:
            return
        if stage != "val" and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write_results(self.scores, stage)
        if stage != "predict":  # Lightning logs nothing there
            values = self.scores.headline() if stage == "val" else self.scores.metrics()
            self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
        fate = "counted as wrong" if self.failed_files == "wrong" else "left out of the score"
        for line in failures(self.scores, noun=self.noun):
            log.warning("failed, %s: %s", fate, line)
        split = "" if stage == "val" else split_text(self.data.test_split, chosen_on=self._chosen_on_split)
        log.info("%s", score_line(self.scores, stage, noun=self.noun, protocol=self._protocol(stage), split=split))

    def _write_results(self, scores: Scores, stage: Stage) -> None:
        folder = Path(self.trainer.loggers[0].save_dir or ".")
        self.write_scores(scores, folder, stage)
        if stage == "predict":
            return
        facts = {
            "task": self.name,
            "outputs": self.outputs,
            "split": self.data.test_split,
            "split_chose_checkpoint": self._chosen_on_split,
            **checkpoint_facts(self.trainer.ckpt_path or self.start.weights),
            "mvrec": __version__,
            **self.facts(),
            "data": self.data.record(),
        }
        protocol, path = self._protocol(stage), folder / "metrics.json"
        write_metrics(path, scores, stage=stage, protocol=protocol, noun=self.noun, facts=facts)

    @property
    def _chosen_on_split(self) -> bool:
        """Return whether the test reads the very files by which the checkpoint was chosen; last.ckpt never is."""
        is_last = Path(self.trainer.ckpt_path or "").name in (LAST, PREVIOUS)
        return not is_last and self._chosen_on is not None and self._chosen_on == self.data.index("test").digest()

    @property
    def noun(self) -> str:
        """The name of samples, in the plural."""
        return f"{self.data.test_protocol.noun}s"

    def _protocol(self, stage: Stage) -> Any:
        return self.data.val_protocol if stage == "val" else self.data.test_protocol

    # -- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the facts that make a checkpoint usable alone: task, protocol, sides of position tables."""
        grid = self.backbone.position_grid
        checkpoint["mvrec"] = {
            "version": __version__,
            "task": self.name,
            "outputs": self.outputs,
            **self.facts(),
            "protocol": self.data.test_protocol.as_dict(),
            "image_size": list(self.backbone.input_shape[-2:]),
            "position_grid": None if grid is None else list(grid),
            "parameter_groups": self.parameter_groups,
            "data": self.data.record(),
            **self.run_record,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this task and fits the data; without data, fit the network to it.

        Raises:
            UserError: The checkpoint is of another task, or of other data.
        """
        saved = checkpoint.get("mvrec")
        if saved is None:
            raise UserError("the checkpoint was not written by mvrec: it lacks the entry 'mvrec'")
        task = task_of(saved)
        if task != self.name:
            raise UserError(f"the checkpoint is of the task {task!r}, this run's task is {self.name!r}")
        if not has_trainer(self):
            self.take_over(saved)
            return
        training = self.trainer.state.fn == "fit"
        self.compare(saved, training=training)
        if not training:
            self._chosen_on = ((saved.get("data") or {}).get("splits") or {}).get("val", {}).get("sha256")
        elif not is_sharded(self.trainer):
            check_weights(self, checkpoint, self.trainer.ckpt_path)
