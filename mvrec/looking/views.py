"""Views of files as the network gets them, and the random choices behind each."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.index import SampleIndex
from mvrec.data.loading.batch import BadSample, ClipBatch, Item, SampleKey, collate
from mvrec.data.loading.loader import TrainBatches
from mvrec.data.loading.samples import TrainSamples
from mvrec.data.sets.recognition_data import RecognitionData
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.targets import ClassIndex, MultiHot, Target, Values, classes_of
from mvrec.data.views.transforms import batch_pixels
from mvrec.errors import DecodeError, UserError
from mvrec.looking.choices import eval_choices, train_choices
from mvrec.looking.places import drawing_of, has_places
from mvrec.seeds import derive_seed
from mvrec.tasks.classification.mixing import Mixing
from mvrec.tasks.classification.targets import make_targets

MOST_STEPS = 200  # training steps looked through for views of rare classes
MOST_EPOCHS = 5
SHOWN_SHARE = 0.005  # of a mixed label, below which it is left out


@dataclass(frozen=True)
class ShownView:
    """A view as the network gets it.

    Attributes:
        split: "train" or "val".
        path: Its file.
        classes: The names under which it is shown: its true classes, or "" without classes.
        label: Its target in words, after mixing.
        pixels: uint8 (T, H, W, 3), of images T is 1: the network's input without its normalisation.
        choices: Name and value of the random choices, and the span in seconds.
        drawn: uint8 (H, W, 3), the view with masks or boxes over it; `None` for other targets.
    """

    split: str
    path: str
    classes: tuple[str, ...]
    label: str
    pixels: npt.NDArray[np.uint8] = field(repr=False)
    choices: tuple[tuple[str, str], ...] = ()
    drawn: npt.NDArray[np.uint8] | None = field(default=None, repr=False)


def first_views(data: RecognitionData, mixing: Mixing | None, *, per_class: int) -> tuple[list[ShownView], list[str]]:
    """Return views of training from its first steps, and of validation, up to a number per class.

    Args:
        data: A data module after `setup("fit")`.
        mixing: That of the task.
        per_class: Views of each class and split; of data without classes, and of places, ten times as many in all.

    Returns:
        The views, and one line about each file that could not be read.

    Raises:
        UserError: The targets are of a kind of the user's own, or no file can be read.
    """
    if not issubclass(data.target_type, ClassIndex | MultiHot | Values) and not has_places(data.target_type):
        raise UserError(
            f"mvrec data show shows files with classes, values, masks or boxes, and those of {data.root} have "
            f"{data.target_type.noun}"
        )
    quota = Quota(data, per_class)
    notes: list[str] = []
    views = [*_train_views(data, mixing, quota, notes)]
    if data.layout.has("val"):
        views += _val_views(data, Quota(data, per_class), notes)
    if not views:
        raise UserError(f"{data.root}: no {data.kind.noun} could be read: {notes[0] if notes else 'there is none'}")
    return views, list(dict.fromkeys(notes))


class Quota:
    """The number of views that each class still needs.

    Args:
        data: The data module.
        per_class: Views of each class.
    """

    def __init__(self, data: RecognitionData, per_class: int) -> None:
        self.names = data.class_names if issubclass(data.target_type, ClassIndex | MultiHot) else ()
        self.most = per_class if self.names else 10 * per_class
        self.counts: Counter[str] = Counter()

    def classes_of(self, target: Target) -> tuple[str, ...]:
        """Return the names under which a view is shown."""
        return names_of(target, self.names)

    @property
    def is_full(self) -> bool:
        """Whether no class needs a view any more."""
        return all(self.counts[name] >= self.most for name in self.names or ("",))

    def has_room(self, target: Target) -> bool:
        """Return whether a view of this target is still needed."""
        return self.has_classes(self.classes_of(target))

    def needs(self, index: SampleIndex, number: int) -> bool:
        """Return whether a view of a row is still needed; targets that may be files are not read."""
        return self.has_room(index.target(number)) if self.names else not self.is_full

    def has_classes(self, classes: Sequence[str]) -> bool:
        """Return whether a view of one of these classes is still needed."""
        return any(self.counts[name] < self.most for name in classes)


def names_of(target: Target, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a target's classes; ("",) without any, and of places."""
    return tuple(names[number] for number in classes_of(target)) or ("",)


def _train_views(data: RecognitionData, mixing: Mixing | None, quota: Quota, notes: list[str]) -> Iterator[ShownView]:
    index, seed = data.index("train"), data.seed or 0
    dataset = data.train_dataset(index, seed=seed)
    loader = data.train_dataloader()
    assert isinstance(loader.batches, TrainBatches)
    shown_files: set[int] = set()
    for epoch, keys in islice(_steps(loader.batches), MOST_STEPS):
        if quota.is_full:
            break
        fresh = [key for key in keys if not epoch or key.index not in shown_files]
        if not any(quota.needs(index, key.index) for key in fresh):
            continue
        # Mixing needs the whole batch; views of several sizes would be padded in one.
        parts = [keys] if mixing is not None else [[key] for key in fresh]
        for part in parts:
            items = [dataset[key] for key in part]
            _note(notes, [bad for item in items for bad in item.bad])
            for key, view in _views_of_batch(data, dataset, list(zip(part, items, strict=True)), mixing, quota):
                if key in fresh:
                    quota.counts.update(view.classes)
                    shown_files.add(key.index)
                    yield view


def _views_of_batch(
    data: RecognitionData,
    dataset: TrainSamples,
    read: Sequence[tuple[SampleKey, Item]],
    mixing: Mixing | None,
    quota: Quota,
) -> Iterator[tuple[SampleKey, ShownView]]:
    """Yield the views that are still needed of what was read for some keys of a training batch, or for all of them."""
    items = [item for _, item in read]
    batch = collate(items)
    if not len(batch):
        return
    clips, targets, mixed = _as_trained(data, batch, mixing)
    origins = [(key, item, place) for key, item in read for place in range(len(item.seeds))]
    for row, (key, item, place) in enumerate(origins):
        true = item.targets[place]
        if not quota.has_room(true):
            continue
        pixels = frames_of(clips[row], data.normalisation)
        erasing = data.augment.random_erasing if hasattr(data.augment, "random_erasing") else None
        choices = train_choices(dataset, key, item, place, erasing=erasing, size=pixels.shape[1:3])
        label = _label(true, None if targets is None else targets[row], data.class_names)
        path = str(dataset.index[item.sample_id].path)
        yield key, _shown(data, ("train", path), pixels, true, label, (*choices, *mixed))


def _shown(
    data: RecognitionData,
    source: tuple[str, str],
    pixels: npt.NDArray[np.uint8],
    true: Target,
    label: str,
    choices: Sequence[tuple[str, str]],
) -> ShownView:
    """Return a view, with its target over it if that is a place."""
    classes, drawn = names_of(true, data.class_names), None
    if has_places(type(true)):
        protocol = data.protocol("val") if source[0] == "val" else None
        drawn, label = drawing_of(pixels, true, data.class_names, protocol=protocol)
    return ShownView(*source, classes, label, pixels, tuple(choices), drawn)


def _steps(batches: TrainBatches) -> Iterator[tuple[int, list[SampleKey]]]:
    """Yield epoch and keys of training steps; an epoch leaves out the files that do not fill its last step."""
    for epoch in range(MOST_EPOCHS):
        batches.set_epoch(epoch)
        for keys in batches:
            yield epoch, keys


def _as_trained(
    data: RecognitionData, batch: ClipBatch, mixing: Mixing | None
) -> tuple[Tensor, Tensor | None, list[tuple[str, str]]]:
    """Return the network's input, its soft targets if it is mixed, and how."""
    clips = batch_pixels(batch.clips, batch.seeds, data.device_augment, normalisation=data.normalisation)
    if mixing is None or batch.targets is None:
        return clips, None, []
    targets = make_targets(batch.targets, data.num_classes, smoothing=0.0)
    seed = derive_seed("mix", int(batch.seeds[0]))
    clips, targets = mixing(clips, targets, seed=seed)
    draw = mixing.draw(random.Random(seed))
    if draw is None:
        return clips, targets, [("mixing", "none")]
    return clips, targets, [("mixing", f"{'CutMix' if draw.is_cutmix else 'Mixup'}, lambda {draw.keep:.2f}")]


def _val_views(data: RecognitionData, quota: Quota, notes: list[str]) -> Iterator[ShownView]:
    dataset = data.eval_dataset("val")
    index = data.index("val")
    for number in range(len(index)):
        if quota.is_full:
            break
        if not quota.needs(index, number):
            continue
        item = dataset[SampleKey(0, number)]
        _note(notes, item.bad)
        if item.views is None:
            continue
        batch = collate([item])
        middle = len(batch) // 2
        clips = batch_pixels(batch.clips, batch.seeds, None, normalisation=data.normalisation)
        true = item.targets[middle]
        quota.counts.update(quota.classes_of(true))
        choices = (*eval_choices(dataset, number, middle), *_number_of_views(len(batch)))
        pixels = frames_of(clips[middle], data.normalisation)
        label, path = _label(true, None, data.class_names), str(index[number].path)
        yield _shown(data, ("val", path), pixels, true, label, choices)


def _number_of_views(count: int) -> Iterator[tuple[str, str]]:
    if count > 1:
        yield "view", f"the middle one of {count}"


def frames_of(view: Tensor, normalisation: Normalisation) -> npt.NDArray[np.uint8]:
    """Return the pixels that become a view when normalised, rounded and cut to 0..255.

    Args:
        view: Normalised float (C, T, H, W) or (C, H, W).
        normalisation: Mean and standard deviation.

    Returns:
        uint8 (T, H, W, C).
    """
    shape = (3,) + (1,) * (view.ndim - 1)
    mean, std = (torch.tensor(values).view(shape) for values in (normalisation.mean, normalisation.std))
    pixels = ((view.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    frames = pixels if pixels.ndim == 4 else pixels[:, None]
    return frames.permute(1, 2, 3, 0).contiguous().numpy()


def _label(true: Target, soft: Tensor | None, names: Sequence[str]) -> str:
    if soft is not None:
        shares = [(float(share), name) for share, name in zip(soft, names, strict=True) if share > SHOWN_SHARE]
        return ", ".join(f"{name} {share:.2f}" for share, name in sorted(shares, reverse=True)) or "no class"
    if isinstance(true, ClassIndex | MultiHot):
        return ", ".join(names[number] for number in true.classes) or "no class"
    return ", ".join(f"{value:g}" for value in true.values) if isinstance(true, Values) else ""


def _note(notes: list[str], bad: Sequence[BadSample]) -> None:
    for sample in bad:
        if sample.stop and not sample.cause:
            raise UserError(sample.stop)
        notes.append(str(DecodeError(sample.path, sample.cause)))
