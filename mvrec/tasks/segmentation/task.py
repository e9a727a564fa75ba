"""Semantic segmentation of images: a class for each pixel."""

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.protocol import MaskProtocol
from mvrec.data.views.targets import NOT_LABELLED, MaskMap
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData
from mvrec.tasks.base import Stage, Task
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.segmentation.class_numbers import ClassNumbers
from mvrec.tasks.segmentation.head import HEADS, fitting_norm
from mvrec.tasks.segmentation.image_counts import IMAGES, PixelCounts
from mvrec.tasks.segmentation.modes import label_map
from mvrec.tasks.segmentation.predictions import write_confusion, write_per_class, write_predictions, write_worst
from mvrec.tasks.segmentation.scores import METRICS, MaskScores, MaskTally

DecoderName = Literal["semantic_fpn", "upernet", "segformer", "segformer_mmseg"]

log = logging.getLogger(__name__)


class MaskedData(RunData, Protocol):
    """A data module whose pixels have classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in label order."""


class Segmentation(Task):
    """Train and score a backbone with a head for the class of each pixel.

    The data determine the number of classes. Training sees crops of one size; an evaluation takes one whole image at a
    time, since padding to a common size would change the features, and counts pixels at the size of the file.

    Args:
        backbone: The network; its classifier is replaced.
        weights: File of the initial weights, in any layout: a classifier's, or a segmenter's with its head.
        decoder: "semantic_fpn" (Kirillov et al. 2019), "upernet" (Xiao et al. 2018), "segformer" (Xie et al. 2021, as
            released by NVIDIA) or "segformer_mmseg" (mmsegmentation's form, with a norm per level).
        channels: Width of the decoder; by default 128, 512, 256 and 256.
        dropout: Share of the channels that training drops before the last convolution.
        auxiliary_weight: Weight of the loss of a convolutional head on the third map, 0 for none; by default 0.4 with
            "upernet".
        level_norm: Norm of each map before the decoder; "auto" is the one that the network's maps need, because they
            have none of their own: "group" for CloFormer (as in its author's later FAT), "layer" for MViT. Of weights
            that segment it is theirs.
        head_rate_factor: Learning rate of the head over that of the backbone.
        new_head: Whether the head starts untrained. By default unless `weights` segment the same classes.
        class_weights: Weight of each class in the training loss, in label order.
        settings: See `Task`.

    Raises:
        UserError: A number is out of range, weights do not fit, or a checkpoint's classes are not the data's.
    """

    name = HEADS.task
    outputs = "mvrec.tasks.segmentation.outputs.SegmentationOutputs"
    monitor = "val/miou"
    targets = (MaskMap,)

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str | None = None,
        decoder: DecoderName = "semantic_fpn",
        channels: int | None = None,
        dropout: float = 0.1,
        auxiliary_weight: float | None = None,
        level_norm: Literal["auto", "none", "layer", "group"] = "auto",
        head_rate_factor: float = 1.0,
        new_head: bool | None = None,
        class_weights: list[float] | None = None,
        **settings: Any,
    ) -> None:
        check_ranges("model.", {"channels": channels, "dropout": dropout, "auxiliary_weight": auxiliary_weight})
        check_ranges("model.", {"head_rate_factor": head_rate_factor})
        if weights is not None:
            HEADS.take_from_weights(backbone, weights)
        super().__init__(backbone, weights=weights, **settings)
        weight = (0.4 if decoder == "upernet" else 0.0) if auxiliary_weight is None else auxiliary_weight
        self.auxiliary_weight, self.new_head = weight, new_head
        self.head_arguments: dict[str, Any] = {
            "decoder": decoder,
            "channels": channels,
            "dropout": dropout,
            "auxiliary": weight > 0,
            "level_norm": fitting_norm(backbone) if level_norm == "auto" else level_norm,
        }
        self.rate_factors = {"backbone.head.": head_rate_factor}
        self.class_weights = class_weights
        self._numbers: ClassNumbers | None = None  # in evaluation, from the data's classes to the checkpoint's

    @property
    def data(self) -> MaskedData:
        """The data module of the running trainer."""
        return cast("MaskedData", super().data)

    # -- set-up -------------------------------------------------------------------------------------------------

    def build(self, data: RunData) -> None:
        """Give the network a head for the data's classes."""
        names = self.data.class_names
        if len(names) > NOT_LABELLED:
            raise UserError(f"{len(names)} classes: a mask holds at most {NOT_LABELLED}")
        training = self.trainer.state.fn == "fit"
        saved = HEADS.fit(
            self.backbone,
            names,
            self.start,
            arguments=self.head_arguments,
            new_head=self.new_head,
            training=training,
        )
        if not training and saved is not None:
            self._numbers = ClassNumbers(saved, names)
        if self.class_weights is not None:
            if len(self.class_weights) != len(names):
                raise UserError(f"model.class_weights: {len(self.class_weights)} weights for {len(names)} classes")
            self.register_buffer("class_weight", torch.tensor(self.class_weights), persistent=False)

    @property
    def head(self) -> SegmentationHead:
        """The network's head."""
        return cast("SegmentationHead", self.backbone.head)

    def describe(self) -> str:
        """Return the decoder and the number of classes."""
        return f"{self.head_arguments['decoder']}, {self.backbone.num_classes} classes"

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the cross-entropy over all pixels, and that of the auxiliary head."""
        logits = self(batch.clips)
        weights = getattr(self, "class_weight", None)
        if not isinstance(logits, tuple):
            return {"loss": pixel_loss(logits, batch.targets, class_weights=weights)}
        decoded, auxiliary = (pixel_loss(each, batch.targets, class_weights=weights) for each in logits)
        return {"loss": decoded + self.auxiliary_weight * auxiliary, "decoder_loss": decoded.detach()}

    # -- scores -------------------------------------------------------------------------------------------------

    def predict(self, batch: ClipBatch) -> list[Tensor | None]:
        """Return the class of each pixel of images (B, 3, H, W): uint8 (H, W) each, or `None` if not finite."""
        trainer = self.trainer
        protocol = self.data.test_protocol if trainer.testing or trainer.predicting else self.data.val_protocol
        return [label_map(self, clip[None], cast("MaskProtocol", protocol)) for clip in batch.clips]

    def tally(self) -> MaskTally:
        """Return counts of pixels per image."""
        return MaskTally(self.backbone.num_classes)

    def score_names(self) -> list[str]:
        """Return the logged scores of a validation."""
        return [f"val/{name}" for name in METRICS]

    def as_scored(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch with the checkpoint's class numbers."""
        return batch if self._numbers is None else self._numbers.renumbered(batch)

    def write_scores(self, scores: MaskScores, folder: Path, stage: Stage) -> None:
        """Write the scores of images and, in a test, of classes, the confusions and the worst maps."""
        index = self.data.index("test")
        path = folder / ("predicted.csv" if stage == "predict" else "predictions.csv")
        paths = [index[row].path for row in range(len(index))]
        write_predictions(path, scores, paths=paths, columns=index.columns())
        log.info("scores of images in %s", path)
        if stage == "predict":
            log.info("masks and shares of classes are what mvrec recognize writes: --masks FOLDER, -o FILE.csv")
            return
        write_per_class(folder / "per_class.csv", scores, class_names=self.class_names)
        write_confusion(folder / "confusion.csv", scores, class_names=self.class_names)
        write_worst(folder / "worst.npz", scores)
        PixelCounts.of(scores).write(folder / IMAGES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the network's outputs."""
        return self.data.class_names if self._numbers is None else self._numbers.names

    # -- checkpoints --------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return class names and the head's arguments."""
        return {"class_names": list(self.class_names), KEY: dict(self.head.arguments)}

    def take_over(self, saved: dict[str, Any]) -> None:
        """Make the checkpoint's head."""
        HEADS.restore(self.backbone, saved, source="the checkpoint")

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Compare the checkpoint's head and classes with this run's; training needs the same order."""
        numbers = ClassNumbers(saved["class_names"], self.data.class_names)
        if training and numbers.order is not None:
            raise UserError("the data's classes come in another order than the checkpoint's: put its into classes.txt")
        if saved.get(KEY) != self.head.arguments:
            raise UserError(f"the checkpoint's head is {saved.get(KEY)}, this run's {self.head.arguments}")
        if not training:
            self._numbers = numbers


def pixel_loss(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy, summed over labelled pixels and divided by all pixels, as in mmsegmentation.

    Args:
        logits: (B, K, H, W).
        targets: int64 (B, H, W), `NOT_LABELLED` where no class is given.
        class_weights: (K,).
    """
    total = F.cross_entropy(logits.float(), targets, class_weights, ignore_index=NOT_LABELLED, reduction="sum")
    return total / targets.numel()
