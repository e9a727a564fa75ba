"""Kinetics 400, 600 and 700, and videos of any classes that lie as they do."""

import logging
from pathlib import Path
from typing import Any, Literal

from mvrec.data.kinetics_layouts import KineticsLayout, find_kinetics_layout
from mvrec.data.layouts import Layout
from mvrec.data.protocol import Views
from mvrec.data.sampling import ClipSpec
from mvrec.data.transforms import Augment, Normalisation
from mvrec.data.video import Decoder
from mvrec.data.video_data import VideoData

log = logging.getLogger(__name__)


class Kinetics(VideoData):
    """Clips of the videos of Kinetics, in the layouts in which people have it.

    These are `root/<split>/<class name>/<video>` with split = train, val, test; lists `root/<split>.csv` of ours, of
    SlowFast or of mmaction2; the annotation CSVs of DeepMind and CVDF beside their folders of videos; and OpenDataLab's
    `Kinetics-400/videos`. See `mvrec.data.kinetics_layouts`.

    The classes come from `classes`, else from `root/classes.txt`, else from the training split.

    Args:
        root: The data set.
        layout: How it lies there. "auto" takes what it finds, lists before annotation CSVs before class folders, and
            says what that was; "lists", "folders", "cvdf" (annotation CSVs) and "opendatalab" insist.
        annotations: The folder of lists or CSVs, where it is neither `root` nor `root/annotations`.
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
        decoder: What reads the files.
        max_bad_fraction: Training stops when a greater share of the videos cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        augment_on: Where RandAugment is applied: in the loader's "worker" or on the "device". The choices are the same.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: "kinetics400", "imagenet1k" (both as torchvision has them), or a file with
            one name per line. By default the data say.

    Raises:
        UserError: From `setup`: a missing or empty root, split or class folder, or a malformed list.
    """

    def __init__(
        self,
        root: str,
        *,
        layout: KineticsLayout = "auto",
        annotations: str | None = None,
        clip: ClipSpec = ClipSpec(),  # noqa: B008 - frozen, and shown in --help
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
        seed: int | None = None,
        classes: str | None = None,
    ) -> None:
        shared: dict[str, Any] = dict(locals())
        for name in ("self", "__class__", "root", "layout", "annotations"):
            shared.pop(name)
        super().__init__(root, **shared)
        self._wanted_layout, self._annotations = layout, annotations
        self._told = False

    def setup(self, stage: str) -> None:
        """Read the lists or folders that a stage needs, and say what "auto" has found; no file is opened."""
        super().setup(stage)
        if self._wanted_layout == "auto" and not self._told:
            log.info("data: %s", self.layout.describe())
            self._told = True

    def find_layout(self) -> Layout:
        """What the root holds; see `find_kinetics_layout`."""
        annotations = Path(self._annotations).expanduser() if self._annotations is not None else None
        return find_kinetics_layout(self.root, layout=self._wanted_layout, annotations=annotations)
