"""The common part of data modules of videos with boxes in key frames."""

import logging
from abc import abstractmethod
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from mvrec.data.listing.boxes.layouts import BoxLayout
from mvrec.data.listing.boxes.reading import read_boxes
from mvrec.data.listing.boxes.rows import Faults, unit_noun
from mvrec.data.listing.boxes.table import BoxTable, pack_boxes
from mvrec.data.listing.boxes.targets import BoxTargets, KeyFrames
from mvrec.data.listing.class_names import known_class_names, spelt_alike
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import SPLITS
from mvrec.data.listing.root import check_root
from mvrec.data.listing.row_targets import TargetOf
from mvrec.data.loading.key_frames import EvalKeyFrames, ListTimes, TrainKeyFrames
from mvrec.data.sets.recognition_data import Split
from mvrec.data.sets.video_data import VideoData
from mvrec.data.video.video import Decoder
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocol import KeyFrameProtocol, Views
from mvrec.data.views.protocols.clips import FrameOrder
from mvrec.data.views.protocols.key_frames import NAMED_KEY_FRAME_PROTOCOLS
from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError, nearest
from mvrec.files import at_home
from mvrec.ranges import check_ranges

# SlowFast's: the short side is drawn from 256 to 320 pixels and 224 are cut out; boxes follow no other operation.
BOX_AUGMENT = Augment(crop_side=(224 / 320, 224 / 256), rand_augment=None, random_erasing=None)

log = logging.getLogger(__name__)


class BoxData(VideoData):
    """Clips around key frames, with the boxes of these. A subclass describes its data set on disk.

    A file is a key frame: a video and a time. The key frame is frame T // 2 of its clip of T frames; frames before the
    start and after the end of the video repeat its first and last.

    Args:
        root: The data set.
        clip: Frames of a clip.
        size: Side of the square training clips in pixels, and short side of those in evaluation.
        augment: Training augmentation. Boxes follow crops and flips only, so `rand_augment` and `before_crop` are
            refused, and what `after_crop` names must leave pixels where they are.
        repeats: Augmented views per decoded training clip.
        normalisation: Mean and standard deviation.
        protocol: The rule of scoring, by name: "ava" as in ActivityNet's evaluation of AVA, "ava-gt-frames" as in
            mmaction2.
        pixels: Whether evaluation sees the square in the "centre" of the scaled frames, or the "full" frames.
        frame_order: Order of a clip's frames in evaluation: "natural"; "reversed" and "shuffled" are controls that show
            what a score owes to time.
        detections: A list of a detector's boxes, which evaluation is asked about in place of the true ones.
        train_detections: A list of a detector's boxes to train on besides the true ones. Each takes over the labels of
            the true box that it overlaps most, if their intersection over union is at least 0.9.
        unmatched: Whether training keeps ("keep") a detector's boxes that overlap no true one so far, as boxes without
            an action, or leaves them out ("drop").
        min_score: Least score of a detector's boxes.
        cropped: Whether a box outside a training crop stays, without area and with its labels, as in SlowFast ("keep"),
            or is left out ("drop").
        bad_boxes: Whether boxes without area, or outside the picture, end the run ("refuse") or are left out ("drop").
        batch_size: Key frames per process and training step.
        eval_batch_size: Key frames per process and evaluation step; by default as many as in a training step, and 1 of
            full frames.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        decoder: What reads the files, or the class path of your own: a class or function that opens a path.
        max_bad_fraction: Training stops when a greater share of the key frames cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: themselves, or a file with one name per line. By default the data say.
        fold: Cross-validation, such as "2/5": a fifth of the training videos is for validation, and over the folds 1/5
            to 5/5 each video is so once. For data without a validation split of their own.

    Raises:
        UserError: A number that is out of range, with its key; a protocol that does not exist, or an augmentation that
            boxes do not follow; from `setup`: a missing or empty root or list, or a malformed row.
    """

    antialias: ClassVar[bool] = True  # published figures of AVA are without

    def __init__(
        self,
        root: str,
        *,
        clip: ClipSpec = ClipSpec(),  # noqa: B008 - frozen dataclasses, and jsonargparse shows them in --help
        size: int = 224,
        augment: Augment = BOX_AUGMENT,
        repeats: int = 1,
        normalisation: Normalisation = Normalisation(),  # noqa: B008
        protocol: str = "ava",
        pixels: Literal["centre", "full"] = "centre",
        frame_order: FrameOrder = "natural",
        detections: str | None = None,
        train_detections: str | None = None,
        unmatched: Literal["keep", "drop"] = "keep",
        min_score: float = 0.0,
        cropped: Literal["keep", "drop"] = "keep",
        bad_boxes: Literal["refuse", "drop"] = "refuse",
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        decoder: Decoder = "auto",
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decode_memory: float | None = 8.0,
        seed: int | None = None,
        classes: str | list[str] | None = None,
        fold: str | None = None,
    ) -> None:
        _check_names(protocol, augment, clip)
        check_ranges("data.", {"min_score": min_score})
        whole = Views(num_clips=1, short_side=size)  # a key frame has one view
        super().__init__(
            root,
            val_views=whole,
            test_views=whole,
            clip=clip,
            size=size,
            augment=augment,
            repeats=repeats,
            normalisation=normalisation,
            batch_size=batch_size,
            eval_batch_size=1 if pixels == "full" else eval_batch_size,  # frames of several sizes make no batch
            num_workers=num_workers,
            decoder=decoder,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decode_memory=decode_memory,
            seed=seed,
            classes=classes,
            fold=fold,
        )
        if fold is not None and (detections or train_detections):
            raise UserError("data.fold: folds do not go together with a detector's boxes: leave data.detections out")
        self.protocol_name, self.pixels, self.frame_order, self.min_score = protocol, pixels, frame_order, min_score
        self._detections = None if detections is None else at_home(detections)
        self._train_detections = None if train_detections is None else at_home(train_detections)
        self.keeps_unmatched, self.keeps_cropped = unmatched == "keep", cropped == "keep"
        self.faults = Faults(drop=bad_boxes == "drop")
        self._names: tuple[str, ...] = ()
        self._key_frames: dict[str, KeyFrames] = {}
        self._detected: dict[Path, BoxTable] = {}

    # -- what a subclass says -----------------------------------------------------------------------------------

    @abstractmethod
    def find_boxes(self) -> BoxLayout:
        """Inspect the disk for the lists of boxes; once."""

    # -- common to all ------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> BoxLayout:
        """The layout of the data set on disk, without folds."""
        check_root(self.root)
        return self.find_boxes()

    def find_layout(self) -> BoxLayout:
        """Return `files`, which keeps the boxes that it has read."""
        return self.files

    def setup(self, stage: str) -> None:
        """Read the lists of boxes of a stage; no video is opened."""
        self.read_lists({"fit": ("train", "val"), "validate": ("train", "val")}.get(stage, ("train", self.test_split)))
        super().setup(stage)

    def read_lists(self, splits: Collection[str]) -> None:
        """Read the boxes of splits, each once, and the names of their actions.

        Raises:
            UserError: A malformed list, a label that is no class, or one action that all boxes have.
        """
        if not self._names:
            names = tuple(known_class_names(self.classes) if self.classes is not None else self._own_names())
            self._names = names
            if alike := spelt_alike(names):
                first, second = map(ascii, alike)
                text = f"{self.root}: {first} and {second} are two actions that differ only in spelling"
                self.files.notes.append((logging.WARNING, text))
        for split in SPLITS:
            if split in splits and split not in self._key_frames and self.files.has(split):
                self._key_frames[split] = self.files.key_frames[split] = self._read(split)
        self._check_classes()

    def _own_names(self) -> list[str]:
        if not any(self.files.has(split) for split in SPLITS):
            raise UserError(f"{self.root}: no boxes in it; expected {self.files.expected()}")
        names = self.files.class_names()
        if not names:
            raise UserError(f"{self.root}: none of its boxes has a label")
        return names

    def _read(self, split: str) -> KeyFrames:
        """Read the true boxes of a split, and a detector's."""
        table = self.files.table(split)
        truth = table.with_classes(self._names, self.files.class_numbers(table, self._names))
        is_training = split == "train"
        path = self._train_detections if is_training else self._detections
        detected = None if path is None else self._read_detected(path, truth, split)
        if excluded := self.files.excluded(split):
            count, truth = len(truth), truth.without(excluded)
            detected = None if detected is None else detected.without(excluded)
            text = f"{self.files.place(split)}: {count - len(truth)} excluded key frames are left out"
            self.files.notes.append((logging.INFO, text))
        if detected is None and (count := int((~truth.has_boxes()).sum())):
            first = truth.where(int((~truth.has_boxes()).argmax()))
            text = f"{self.files.place(split)}: {count} key frames without boxes are left out, such as {first}"
            self.files.notes.append((logging.INFO, text))
        return KeyFrames(truth, detected, is_training, self.keeps_unmatched, self.keeps_cropped)

    def _read_detected(self, path: Path, truth: BoxTable, split: str) -> BoxTable:
        if path not in self._detected:
            lenient = Faults(drop=True)
            table = pack_boxes(row for row in read_boxes(path, self.files.rule) if lenient.accepts(row))
            table = table.only_boxes(~(table.scores < self.min_score))
            self._detected[path] = self.files.placed(table, split)
        every = self._detected[path]
        if every.relative != truth.relative and len(every.corners):
            raise UserError(
                f"{path}: its boxes are {unit_noun(every.relative)}, those of {truth.sources[0]} are "
                f"{unit_noun(truth.relative)}: use one unit"
            )
        videos = set(truth.videos)
        table = every.only_videos(videos.__contains__)
        names = [table.videos[number] for number in table.frame_videos]
        with_boxes = truth.only_frames(truth.has_boxes())
        count = sum(with_boxes.find(*place) is not None for place in zip(names, table.seconds, strict=True))
        if not count:
            raise UserError(f"{path}: none of its key frames is one of {truth.sources[0]}: take its paths and times")
        text = "%s: %d boxes in %d key frames of %s, %d of which have true boxes"
        log.info(text, path, len(table.corners), len(table), split, count)
        return table

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; available after `setup`."""
        return self._names

    @property
    def key_frames(self) -> dict[str, KeyFrames]:
        """The key frames of the splits that `setup` has read."""
        return dict(self._key_frames)

    @property
    def action_ids(self) -> tuple[int, ...]:
        """The number of each action in files of AVA's form, from 1 on; available after `setup`."""
        return tuple(range(1, len(self._names) + 1))

    @property
    def times(self) -> ListTimes:
        """The meaning of the list's times."""
        return ListTimes()

    @property
    def class_counts(self) -> list[int]:
        """The number of training boxes of each class, in label order; available after `setup`."""
        return [int(count) for count in self._key_frames["train"].truth.class_counts()]

    @property
    def target_of(self) -> TargetOf:
        """The function that makes the boxes of rows; it holds no data module, whose loaders a process would end."""
        return BoxTargets(dict(self._key_frames))

    @property
    def target_type(self) -> type[Target]:
        """The type of the targets."""
        return ActionBoxes

    @property
    def test_split(self) -> Literal["val", "test"]:
        """The split of `test` and `predict`."""
        return "test" if self.files.has("test") else "val"

    def _check_classes(self) -> None:
        """Refuse boxes with nothing to tell apart; a single action is told from boxes without it."""
        if len(self._names) == 1 and "train" in self._key_frames:
            truth = self._key_frames["train"].truth
            if truth.class_counts()[0] == len(truth.corners):
                raise UserError(
                    f"{self.files.place('train')}: all boxes have the action {self._names[0]!r}, training needs boxes "
                    "without it too"
                )

    def _check_training(self, index: SampleIndex) -> None:
        """Warn of classes without a training box."""
        missing = [name for name, count in zip(self._names, self.class_counts, strict=True) if not count]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            log.warning("classes without a training box: %s%s", ", ".join(map(repr, missing[:3])), more)

    def record(self) -> dict[str, Any]:
        """Return the facts for a run's record; see `RecognitionData.record`."""
        boxes = {split: len(frames.truth.corners) for split, frames in sorted(self._key_frames.items())}
        return {**super().record(), "boxes": boxes}

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainKeyFrames:
        """Return randomly cropped clips around the key frames of an index."""
        return TrainKeyFrames(
            index,
            self.clip,
            self.size,
            self.worker_augment,
            repeats=self.repeats,
            decoder=self.decoder,
            seed=seed,
            key_frames=self._key_frames["train"],
            times=self.times,
        )

    def eval_dataset(self, split: Split) -> EvalKeyFrames:  # type: ignore[override]  # of another kind
        """Return the clips around the key frames of a split."""
        split = "val" if split == "val" else self.test_split
        index = self.index(split)
        key_frames = self._key_frames.get(split) or self._key_frames["train"]  # of a fold
        return EvalKeyFrames(index, self.protocol(split), self.decoder, key_frames, self.times)

    def protocol(self, split: Split) -> KeyFrameProtocol:  # type: ignore[override]  # of another kind
        """Return how the key frames of "val" or "test" become views."""
        detected = self._detections is not None
        return KeyFrameProtocol.named(
            self.protocol_name,
            clip=self.clip,
            size=self.size,
            pixels=self.pixels,
            normalisation=self.normalisation,
            boxes="detected" if detected else "truth",
            min_score=self.min_score if detected else 0.0,
            frame_order=self.frame_order,
            antialias=self.antialias,
        )


def _check_names(protocol: str, augment: Augment, clip: ClipSpec) -> None:
    """Refuse a protocol that does not exist, and settings that boxes cannot follow."""
    if protocol not in NAMED_KEY_FRAME_PROTOCOLS:
        raise UserError(
            f"data.protocol: there is no protocol {protocol!r}, only {', '.join(NAMED_KEY_FRAME_PROTOCOLS)}"
            f"{nearest(protocol, NAMED_KEY_FRAME_PROTOCOLS)}"
        )
    moving = next((name for name in ("rand_augment", "before_crop") if getattr(augment, name) is not None), None)
    if moving is not None:
        raise UserError(f"data.augment.{moving} must be null: it moves pixels, and boxes do not follow it")
    plain = ClipSpec(clip.num_frames, clip.stride_frames, clip.target_fps)
    if clip != plain:
        raise UserError(
            "data.clip: a clip around a key frame takes neighbouring frames and repeats the first and the last one: "
            f"leave sampling {plain.sampling!r} and short_video {plain.short_video!r}"
        )
