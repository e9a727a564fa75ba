"""Classification of clips and images that have one class, or any number of classes."""

import logging
import math
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mvrec import __version__
from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.targets import MultiHot
from mvrec.errors import UserError
from mvrec.files import sha256
from mvrec.lightning_private import has_trainer
from mvrec.models import Backbone, accelerate
from mvrec.runs.resume import check_weights
from mvrec.seeds import derive_seed
from mvrec.tasks.classification.class_match import ClassMatch, compare_classes
from mvrec.tasks.classification.losses import ClassWeights, class_weight_tensor
from mvrec.tasks.classification.mixing import Mixing
from mvrec.tasks.classification.predictions import write_predictions
from mvrec.tasks.classification.results import write_confusion, write_metrics, write_per_class
from mvrec.tasks.classification.score_text import failures, score_line, split_text
from mvrec.tasks.classification.targets import classification_loss, compare_kinds, make_targets
from mvrec.tasks.scores import MultiLabelScores, ScoreKeeper, Scores, SingleLabelScores
from mvrec.tasks.start import Start
from mvrec.training.optim import OptimizerCallable, WarmupCosine, check_optimizer
from mvrec.training.parameter_groups import group_record, group_table, parameter_groups, scale_rates
from mvrec.training.sharding import is_sharded, shard

Stage = Literal["val", "test", "predict"]
SINGLE_LABEL_SCORE, MULTI_LABEL_SCORE = "val/top1", "val/map"

log = logging.getLogger(__name__)


class Classification(L.LightningModule):
    """Train and score a backbone.

    The number of classes is the data's: the head is made anew when it differs, and the class names and the protocol
    go into every checkpoint.

    Args:
        backbone: The network.
        weights: File whose weights training starts from, in any layout; see `load_weights`.
        new_head: Whether the head starts untrained. By default where the classes of `weights` are not the data's.
        freeze: What stays as it is: layers from the stem on, by their number, or "backbone" for all but the head.
        optimizer: Makes the optimiser; its weight decay does not act on biases, norms and what the backbone exempts.
        layer_decay: Ratio between the learning rates of neighbouring layers, the head having all of it; 1 for none.
        schedule: Learning rate over time, relative to the optimiser's.
        lr_reference_batch: Clips or images per step, over all processes and accumulated batches, that the optimiser's
            learning rate is meant for; the rate is scaled in proportion to the real number (Goyal et al. 2017).
            `None` takes the rate as it is.
        mixing: Mixup and CutMix, or `None`.
        label_smoothing: Share of the target that is spread over all classes; in multi-label data over "has this class"
            and "has it not" of each.
        class_weights: Weight of each class in the training loss, or "balanced" for the inverse of its size.
        compile: Compile the backbone (`torch.compile`); the first step takes a minute or more.
        channels_last: Lay pixels out with their channels together, which GPUs convolve faster.
        activation_checkpointing: Recompute each block in the backward pass: less memory, the same numbers.
        views_per_forward: Views that go through the network together in evaluation; by default as many as a training
            step has clips or images.
        failed_files: Whether files that cannot be read count as "wrong" in a score or are "left_out" of it.

    Raises:
        UserError: A number that is out of range; weights that do not fit; a checkpoint's classes that are not the
            data's.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str | None = None,
        new_head: bool | None = None,
        freeze: int | Literal["backbone"] = 0,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.05),
        layer_decay: float = 1.0,
        schedule: WarmupCosine = WarmupCosine(),  # noqa: B008 - frozen
        lr_reference_batch: int | None = None,
        mixing: Mixing | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights | None = None,
        compile: bool = False,
        channels_last: bool = False,
        activation_checkpointing: bool = False,
        views_per_forward: int | None = None,
        failed_files: Literal["wrong", "left_out"] = "wrong",
    ) -> None:
        super().__init__()
        if not 0 < layer_decay <= 1:
            raise UserError(f"model.layer_decay must lie in 0..1 and not be 0, got {layer_decay}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing must lie in 0..1, got {label_smoothing}")
        if lr_reference_batch is not None and lr_reference_batch < 1:
            raise UserError(f"model.lr_reference_batch must be at least 1, got {lr_reference_batch}")
        if views_per_forward is not None and views_per_forward < 1:
            raise UserError(f"model.views_per_forward must be at least 1, got {views_per_forward}")
        check_optimizer(optimizer)
        self.backbone = accelerate(backbone)
        self.start = Start(weights, new_head=new_head, freeze=freeze)
        self.start.load(backbone)
        self.make_optimizer = optimizer
        self.layer_decay, self.class_weights = layer_decay, class_weights
        self.compiled, self.channels_last = compile, channels_last
        backbone.set_activation_checkpointing(activation_checkpointing)
        self.schedule = schedule
        self.lr_reference_batch = lr_reference_batch
        self.mixing = mixing
        self.label_smoothing = label_smoothing
        self.views_per_forward, self.failed_files = views_per_forward, failed_files
        self.run_record: dict[str, Any] = {}  # what the command line adds to checkpoints
        self.parameter_groups: list[dict[str, Any]] = []
        self.scores: Scores | None = None
        self._configured = False
        self._network = type(backbone).__name__  # sharding gives it another
        self._keeper: ScoreKeeper | None = None
        self._match: ClassMatch | None = None  # in evaluation, of the checkpoint's classes and the data's
        self._chosen_on: str | None = None  # hash of the validation files of the checkpoint's run

    @property
    def datamodule(self) -> Any:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def forward(self, clips: Tensor) -> Tensor:
        """Raw logits (B, K) of normalised clips (B, C, T, H, W) or images (B, C, H, W)."""
        return self.backbone(clips.to(next(self.backbone.parameters()).dtype))  # pixels are float32 in any precision

    # -- set-up -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Let the data decide which score makes a checkpoint the best, unless the user has."""
        if stage == "fit" and self.datamodule.target_type is MultiHot:
            for callback in self.trainer.checkpoint_callbacks:
                if getattr(callback, "monitor", None) == SINGLE_LABEL_SCORE:
                    callback.monitor = MULTI_LABEL_SCORE  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Fit the head to the data, which are known by now."""
        if not has_trainer(self):
            return  # loading without data: `on_load_checkpoint` fits the head to the checkpoint
        built, fed = self.backbone.input_shape, self.datamodule.clip_shape
        if len(built) != len(fed) or built[0] != fed[0]:
            raise UserError(f"the backbone takes inputs of shape {built} without the batch, the data give {fed}")
        if not self._configured:  # averaging callbacks ask for it before the trainer does
            self._configured = True
            if self.trainer.state.fn == "fit" or self.start.weights is None:
                self.start.fit_head(self.backbone, self.datamodule.class_names)
            else:
                names = self.datamodule.class_names
                self._match = ClassMatch(self.start.classes(self.backbone, names), names)
            self.start.freeze_layers(self.backbone)
            self._prepare_backbone()
        if built != fed and self.backbone.position_grid is not None:
            log.warning(
                "the backbone is built for %s and gets %s: its position tables are interpolated", _input(built), fed
            )

    def _prepare_backbone(self) -> None:
        if self.channels_last:
            layout = torch.channels_last if len(self.backbone.input_shape) == 3 else torch.channels_last_3d
            self.backbone.to(memory_format=layout)
        if self.class_weights is not None:
            data = self.datamodule
            files = len(data.index("train")) if data.target_type is MultiHot else None
            weights = class_weight_tensor(self.class_weights, data.class_counts, multi_label_files=files)
            self.register_buffer("class_weight", weights, persistent=False)
        if self.compiled:
            self.backbone.compile()
        if is_sharded(self.trainer):
            blocks = shard(self.backbone, self.backbone.parameter_stages(), self.device_mesh)
            log.info("%d blocks are sharded over %d processes", blocks, self.trainer.world_size)

    def train(self, mode: bool = True) -> "Classification":
        """Training or evaluation mode; what is frozen stays in evaluation mode, with its running statistics."""
        super().train(mode)
        self.start.keep_frozen(self.backbone)
        return self

    def configure_optimizers(self) -> Any:
        """The optimiser with its parameter groups, and the schedule per optimiser step.

        Raises:
            UserError: A learning rate that is not above 0, or a schedule without an end.
        """
        groups = parameter_groups(
            self,
            undecayed={f"backbone.{name}" for name in self.backbone.no_weight_decay()},
            layers=[[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_groups()],
            layer_decay=self.layer_decay,
        )
        optimizer = self.make_optimizer(groups)
        trainer = self.trainer
        total_steps = self._count_steps()
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        scale_rates(optimizer, self._lr_scale())
        self.parameter_groups = group_record(optimizer, self)

        def factor(step: int) -> float:
            return self.schedule.factor(step, total_steps=int(total_steps), steps_per_epoch=steps_per_epoch)

        scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _count_steps(self) -> float:
        """Steps of the whole run; the batches of an epoch are counted too."""
        trainer = self.trainer
        try:
            total_steps = trainer.estimated_stepping_batches
            trainer.fit_loop.setup_data()  # counts the batches where the line above did not need to
        except ValueError as error:
            if isinstance(error, UserError) or "val_check_interval" not in str(error):
                raise
            raise UserError(
                f"trainer.val_check_interval={trainer.val_check_interval} is more than the "
                f"{trainer.num_training_batches} batches of an epoch; --trainer.check_val_every_n_epoch null counts "
                "over epochs"
            ) from None
        if total_steps == math.inf:
            raise UserError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        return total_steps

    def _lr_scale(self) -> float:
        if self.lr_reference_batch is None:
            return 1.0
        trainer = self.trainer
        clips = self.datamodule.clips_per_step * trainer.world_size * trainer.accumulate_grad_batches
        scale = clips / self.lr_reference_batch
        log.info(
            "%d %s per step: learning rate scaled by %d/%d = %.4g",
            clips,
            f"{self.datamodule.val_protocol.view_noun}s",
            clips,
            self.lr_reference_batch,
            scale,
        )
        return scale

    def on_fit_start(self) -> None:
        """Say what is trained."""
        parameters = sum(parameter.numel() for parameter in self.backbone.parameters())
        log.info(
            "%s, %.2f M parameters, %d classes, %s",
            self._network,
            parameters / 1e6,
            self.backbone.num_classes,
            _input(self.datamodule.clip_shape),
        )
        for line in group_table(self.parameter_groups):
            log.info("%s", line)

    # -- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Cross-entropy with soft targets; of sigmoids where a clip may have several classes."""
        targets = make_targets(batch.targets, self.backbone.num_classes, smoothing=self.label_smoothing)
        clips, several = batch.clips, self.datamodule.target_type is MultiHot
        if self.mixing is not None:
            clips, targets = self.mixing(clips, targets, seed=derive_seed("mix", int(batch.seeds[0])))
        logits, weights = self(clips).float(), getattr(self, "class_weight", None)
        loss = classification_loss(logits, targets, multi_label=several, class_weights=weights)
        self.log("train/loss", loss, batch_size=len(batch))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(batch))
        return loss

    # -- evaluation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to keep scores."""
        self._begin("val")

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the views of a batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Join the scores of all processes."""
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        """Begin to keep scores."""
        self._begin("test")

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the views of a batch."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Join the scores of all processes."""
        self._finish("test")

    def on_predict_epoch_start(self) -> None:
        """Begin to keep scores."""
        self._begin("predict")

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Score the views of a batch; returns their sample ids (B,)."""
        self._score(batch)
        return batch.sample_ids

    def on_predict_epoch_end(self) -> None:
        """Join the scores of all processes and write `predicted.csv`."""
        self._finish("predict")

    def score_names(self) -> list[str]:
        """What a validation logs."""
        kind: type[Scores] = MultiLabelScores if self.datamodule.target_type is MultiHot else SingleLabelScores
        return [f"val/{name}" for name in kind.names(self.backbone.num_classes)]

    def _begin(self, stage: Stage) -> None:
        trainer = self.trainer
        loader, limit = {
            "val": (trainer.val_dataloaders, trainer.limit_val_batches),
            "test": (trainer.test_dataloaders, trainer.limit_test_batches),
            "predict": (trainer.predict_dataloaders, trainer.limit_predict_batches),
        }[stage]
        whole = isinstance(limit, float) and limit == 1.0 and not trainer.sanity_checking  # 1 is one batch, 1.0 all
        self._keeper = ScoreKeeper(
            num_classes=self.backbone.num_classes,
            num_views=self._protocol(stage).num_views,
            expected=len(loader.dataset) if whole else None,  # type: ignore[union-attr]
            multi_label=self.datamodule.target_type is MultiHot,
            failed_are_wrong=self.failed_files == "wrong",
            total=len(loader.dataset),  # type: ignore[union-attr]
            path_of=lambda row: str(self.datamodule.index("val" if stage == "val" else "test")[row].path),
        )

    def _score(self, batch: ClipBatch) -> None:
        assert self._keeper is not None
        match, together = self._match, self.views_per_forward or self.datamodule.clips_per_step
        self._keeper.fail(batch.bad if match is None else match.bad(batch.bad))
        if len(batch):
            logits = torch.cat([self(clips) for clips in batch.clips.split(together)])
            self._keeper.add(logits, match.labels(batch.targets) if match else batch.targets, batch.sample_ids)

    def _finish(self, stage: Stage) -> None:
        assert self._keeper is not None
        self.scores, self._keeper = self._keeper.gather(), None
        if self.trainer.sanity_checking:
            return
        if stage != "val" and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write_results(self.scores, stage)
        if stage != "predict":  # Lightning logs nothing there
            self.log_dict({f"{stage}/{name}": value for name, value in self.scores.metrics().items()})
        for line in failures(self.scores, noun=self._noun):
            log.warning("failed, %s: %s", self._fate, line)
        split = "" if stage == "val" else split_text(self._split, chosen_on=self._chosen_on_split)
        log.info("%s", score_line(self.scores, stage, noun=self._noun, protocol=self._protocol(stage), split=split))

    def _write_results(self, scores: Scores, stage: Stage) -> None:
        folder = Path(self.trainer.loggers[0].save_dir or ".")
        names, index = self.class_names, self.datamodule.index("test")
        predictions = folder / ("predicted.csv" if stage == "predict" else "predictions.csv")
        paths = [sample.path for sample in index]
        write_predictions(predictions, scores, paths=paths, class_names=names, columns=index.columns())
        log.info("predictions in %s", predictions)
        if stage == "predict":
            return
        in_split = torch.as_tensor(index.class_counts())
        if self._match is not None and self._match.order is not None:
            in_split = torch.zeros_like(in_split).index_copy_(0, self._match.order, in_split)
        whole = in_split.tolist() if scores.partial else None
        write_per_class(folder / "per_class.csv", scores, class_names=names, in_split=whole)
        if isinstance(scores, SingleLabelScores):
            write_confusion(folder / "confusion.csv", scores, class_names=names)
        source = self.trainer.ckpt_path or self.start.weights
        facts = {
            "split": self._split,
            "split_chose_checkpoint": self._chosen_on_split,
            "checkpoint": None if source is None else str(source),
            "checkpoint_sha256": sha256(Path(source)) if source and Path(source).is_file() else None,
            "mvrec": __version__,
            "class_names": list(names),
            "data": self.datamodule.record(),
        }
        protocol = self._protocol(stage)
        write_metrics(folder / "metrics.json", scores, stage=stage, protocol=protocol, noun=self._noun, facts=facts)

    @property
    def _split(self) -> str:
        """The split that `test` and `predict` read."""
        return self.datamodule.test_split

    @property
    def _chosen_on_split(self) -> bool:
        """Whether that is the very list of files on which the checkpoint was chosen."""
        return self._chosen_on is not None and self._chosen_on == self.datamodule.index("test").digest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the network's outputs."""
        return self.datamodule.class_names if self._match is None else self._match.names

    @property
    def _noun(self) -> str:
        return f"{self.datamodule.test_protocol.noun}s"

    @property
    def _fate(self) -> str:
        return "counted as wrong" if self.failed_files == "wrong" else "left out of the score"

    def _protocol(self, stage: Stage) -> Any:
        return self.datamodule.val_protocol if stage == "val" else self.datamodule.test_protocol

    # -- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to be used alone: class names, protocol, and the sides of position tables."""
        grid = self.backbone.position_grid
        checkpoint["mvrec"] = {
            "version": __version__,
            "class_names": list(self.datamodule.class_names),
            "multi_label": self.datamodule.target_type is MultiHot,
            "protocol": self.datamodule.test_protocol.as_dict(),
            "image_size": list(self.backbone.input_shape[-2:]),
            "position_grid": None if grid is None else list(grid),
            "parameter_groups": self.parameter_groups,
            "data": self.datamodule.record(),
            **self.run_record,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint's classes with the data's; without data, take them over."""
        saved = checkpoint.get("mvrec")
        if saved is None:
            raise UserError("the checkpoint was not written by mvrec: it lacks the entry 'mvrec' with its class names")
        names = saved["class_names"]
        if not has_trainer(self):
            self.backbone.reset_head(len(names))
        else:
            compare_kinds(saved.get("multi_label", False), self.datamodule.target_type is MultiHot)
            if self.trainer.state.fn == "fit":  # where another order would be another training
                compare_classes(names, self.datamodule.class_names)
                if not is_sharded(self.trainer):
                    check_weights(self, checkpoint, self.trainer.ckpt_path)
                return
            self._chosen_on = ((saved.get("data") or {}).get("splits") or {}).get("val", {}).get("sha256")
            self._match = ClassMatch(names, self.datamodule.class_names)
            if self._match.order is not None:
                log.info("the data's classes come in another order than the checkpoint's: matched by their names")


def _input(shape: tuple[int, ...]) -> str:
    """A shape without the batch, with its axes named."""
    return f"clips (C, T, H, W) = {shape}" if len(shape) == 4 else f"images (C, H, W) = {shape}"
