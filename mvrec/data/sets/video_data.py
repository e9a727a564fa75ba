"""The common part of data modules of videos: clips, views, and how they are scored."""

import logging
from dataclasses import replace
from typing import ClassVar, Literal

from mvrec.data.listing.file_kinds import VIDEOS, Kind
from mvrec.data.listing.index import SampleIndex
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.sets.recognition_data import RecognitionData, Split
from mvrec.data.video.opening import describe_decoder
from mvrec.data.video.own_decoder import check_decoder
from mvrec.data.video.video import Decoder
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.targets import MultiHot, Values
from mvrec.data.views.transforms import Augment

log = logging.getLogger(__name__)


class VideoData(RecognitionData):
    """Clips of videos. A subclass describes its data set on disk; see `RecognitionData.find_layout`.

    Args:
        root: The data set.
        clip: Frames of a clip.
        size: Side of the square clips that the model sees, in pixels.
        augment: Training augmentation.
        repeats: Augmented views per decoded training clip.
        normalisation: Mean and standard deviation.
        val_views: Views per video while training goes on.
        test_views: Views per video for `test` and `predict`.
        batch_size: Videos per process and training step; the model sees `batch_size * repeats` clips.
        eval_batch_size: Videos per process and evaluation step; by default as many as keep the number of clips
            at that of a training step.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        decoder: What reads the files, or the class path of your own: a class or function that opens a path.
        max_bad_fraction: Training stops when a greater share of the videos cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        augment_on: Where RandAugment is applied: in the loader's "worker" or on the "device". The choices are the same.
        class_balance: How far training evens out classes of unequal size, 0..1: a class of n files is drawn in
            proportion to `n ** (1 - class_balance)`. With 0 each file is drawn once per epoch, with 1 all classes
            equally often. The same on one process or many.
        split_views: Whether processes share the views of a file in evaluation. The score is the same; it evens out the
            work where there are few files with many views, and costs each process the opening of files.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: themselves, "kinetics400", "imagenet1k" (both as torchvision has them), or
            a file with one name per line. By default the data say.
        fold: Cross-validation, such as "2/5": a fifth of the training files of each class is for validation, and over
            the folds 1/5 to 5/5 each file is so once. For data without a validation split of their own.
        values: Columns of the lists whose numbers are to be predicted instead of a class, such as `[age, angle]`. By
            default the column "value" of lists without labels.

    Raises:
        UserError: From `setup`: a missing or empty root, split or class folder.
    """

    kind: ClassVar[Kind] = VIDEOS

    def __init__(
        self,
        root: str,
        *,
        clip: ClipSpec = ClipSpec(),  # noqa: B008 - frozen dataclasses, and jsonargparse shows them in --help
        size: int = 224,
        augment: Augment = Augment(),  # noqa: B008
        repeats: int = 1,
        normalisation: Normalisation = Normalisation(),  # noqa: B008
        val_views: Views = Views(num_clips=1),  # noqa: B008
        test_views: Views = Views(),  # noqa: B008
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        decoder: Decoder = "auto",
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decode_memory: float | None = 8.0,
        augment_on: Literal["worker", "device"] = "worker",
        class_balance: float = 0.0,
        split_views: bool = False,
        seed: int | None = None,
        classes: str | list[str] | None = None,
        fold: str | None = None,
        values: str | list[str] | None = None,
    ) -> None:
        super().__init__(
            root,
            size=size,
            augment=augment,
            repeats=repeats,
            normalisation=normalisation,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decode_memory=decode_memory,
            augment_on=augment_on,
            class_balance=class_balance,
            split_views=split_views,
            seed=seed,
            classes=classes,
            fold=fold,
            values=values,
        )
        check_decoder(decoder)
        self.clip, self.decoder = clip, decoder
        self._said_decoder = False
        self._protocols = {
            "val": ClipProtocol(clip, val_views, size, normalisation),
            "test": ClipProtocol(clip, test_views, size, normalisation),
        }

    def setup(self, stage: str) -> None:
        """Read the lists or folders of a stage, and log the decoder; no file is opened."""
        super().setup(stage)
        if not self._said_decoder:
            log.info("decoder %s", describe_decoder(self.decoder))
            self._said_decoder = True

    @property
    def clips_per_step(self) -> int:
        """Clips per step on which this process trains."""
        return self.batch_size * self.repeats

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainClips:
        """Return random clips of the videos of an index."""
        return TrainClips(
            index, self.clip, self.size, self.worker_augment, repeats=self.repeats, decoder=self.decoder, seed=seed
        )

    def eval_dataset(self, split: Split) -> EvalClips:
        """Return the views of the videos of a split."""
        return EvalClips(self.index(split), self.protocol(split), self.decoder)

    def protocol(self, split: Split) -> ClipProtocol:
        """Return how the videos of "val" or "test" become views."""
        protocol = self._protocols[split]
        if self.target_type is Values:
            return replace(protocol, aggregation="mean of values")
        return replace(protocol, aggregation="mean of sigmoid") if self.target_type is MultiHot else protocol
