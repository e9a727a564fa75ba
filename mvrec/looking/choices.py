"""The random choices behind a view of training, drawn once more from its seeds."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.loading.batch import Item, SampleKey
from mvrec.data.loading.clips import EvalClips, TrainClips, random_frames, timed_frames
from mvrec.data.loading.images import TrainImages
from mvrec.data.loading.key_frames import EvalKeyFrames, TrainKeyFrames, key_frame_clip
from mvrec.data.loading.mask_samples import TrainMasks
from mvrec.data.loading.objects.samples import TrainObjects
from mvrec.data.loading.samples import EvalSamples, TrainSamples
from mvrec.data.views.geometry import Geometry, choose_geometry
from mvrec.data.views.mask_augment import choose_mask_geometry
from mvrec.data.views.objects.augment import choose_angle, choose_object_geometry
from mvrec.data.views.own_augment import own_frames
from mvrec.data.views.targets import MaskMap
from mvrec.data.views.timeline import timeline_of
from mvrec.data.views.transforms import drawn_operations, pixel_seed, views_of
from mvrec.seeds import derive_seed

Choices = Iterator[tuple[str, str]]


def train_choices(
    dataset: TrainSamples, key: SampleKey, item: Item, place: int, *, erasing: Any, size: tuple[int, int]
) -> Choices:
    """Yield name and value of the choices behind a view.

    Args:
        dataset: Where it is from.
        key: Its key there.
        item: What the key gave.
        place: The view's place in the item.
        erasing: `RandomErasing` of the device, or `None`.
        size: Height and width of the view in pixels.
    """
    sample, seed = dataset.index[item.sample_id], item.seeds[place]
    clip_seed = derive_seed(dataset.seed, key.epoch, key.index, "clip")
    if isinstance(dataset, TrainClips):
        with dataset.open(sample.path, decoder=dataset.decoder) as video:
            yield "span", _span(video.times, _numbers(dataset, sample, video, clip_seed))
    if isinstance(dataset, TrainKeyFrames):
        yield "key frame", f"{sample.start_seconds:.2f} s"
    if not isinstance(dataset, TrainClips | TrainImages):
        return
    frames, pixels_of = dataset.frames(sample, random.Random(clip_seed)), pixel_seed(seed)
    augment: Any = dataset.augment
    if getattr(augment, "before_crop", None) is not None:
        frames = own_frames(frames, augment.before_crop, seed=pixels_of)
    if isinstance(dataset, TrainObjects) and augment.rotation:
        yield "turned", f"{choose_angle(augment, seed=pixels_of):.1f} degrees counterclockwise"
    way = _geometry(dataset, item.sample_id, frames, pixels_of)
    yield "crop", f"{_box(way)} of {frames.shape[2]} x {frames.shape[1]}"
    if isinstance(dataset, TrainMasks | TrainObjects):
        yield "scaled to", f"{way.content_size[1]} x {way.content_size[0]}"
    yield "flip", "yes" if way.flip else "no"
    if getattr(augment, "rand_augment", None) is not None:
        clip = views_of(frames, [way])[0].contiguous()
        drawn = drawn_operations(clip, augment.rand_augment, seed=pixels_of)
        yield "RandAugment", ", ".join(f"{name} {magnitude:.1f}" for name, magnitude in drawn) or "nothing"
    if erasing is not None:
        erased = erasing.box(*size, random.Random(derive_seed("erase", seed)))
        shown = erased and f"{erased.width} x {erased.height} at {erased.left}, {erased.top}"
        yield "erased", shown or "nothing"


def _numbers(dataset: TrainClips, sample: Sample, video: Any, seed: int) -> Tensor:
    if isinstance(dataset, TrainKeyFrames):
        return key_frame_clip(sample, timeline_of(video), dataset.clip, dataset.times)
    return random_frames(sample, timeline_of(video), dataset.clip, random.Random(seed))


def _geometry(dataset: TrainClips | TrainImages, row: int, frames: npt.NDArray[np.uint8], seed: int) -> Geometry:
    height, width = frames.shape[1:3]
    if isinstance(dataset, TrainMasks):
        target = dataset.index.target(row)
        assert isinstance(target, MaskMap)
        return choose_mask_geometry(target.classes, size=dataset.size, augment=dataset.augment, seed=seed)
    if isinstance(dataset, TrainObjects):
        return choose_object_geometry(height, width, augment=dataset.augment, seed=seed)
    return choose_geometry(height, width, size=dataset.size, augment=dataset.augment, seed=seed)


def eval_choices(dataset: EvalSamples, number: int, view: int) -> Choices:
    """Yield the span of a view of evaluation.

    Args:
        dataset: Where it is from.
        number: Its row.
        view: Its number.
    """
    if not isinstance(dataset, EvalClips | EvalKeyFrames):
        return
    sample = dataset.index[number]
    with dataset.open(sample.path, decoder=dataset.decoder) as video:
        if isinstance(dataset, EvalKeyFrames):
            numbers = key_frame_clip(sample, timeline_of(video), dataset.protocol.clip, dataset.times)
        else:
            clips = timed_frames(sample, timeline_of(video), dataset.protocol)
            numbers = clips[view // dataset.protocol.views.num_crops]
        yield "span", _span(video.times, numbers)
    if isinstance(dataset, EvalKeyFrames):
        yield "key frame", f"{sample.start_seconds:.2f} s"


def _span(times: npt.NDArray[np.float64], numbers: Tensor) -> str:
    seconds = times[numbers.numpy()]
    return f"{seconds.min():.2f} to {seconds.max():.2f} s"


def _box(way: Geometry) -> str:
    return f"{way.box.width} x {way.box.height} at {way.box.left}, {way.box.top}"
