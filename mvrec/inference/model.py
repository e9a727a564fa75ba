"""The front door from Python: a trained network that takes files, arrays, lists and folders."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from mvrec.data.video.video import Decoder
from mvrec.data.views.protocol import DetectionProtocol, KeyFrameProtocol, Protocol
from mvrec.errors import DecodeError, UserError, nearest
from mvrec.files import at_home
from mvrec.inference.actions.knobs import ActionKnobs, actions_of
from mvrec.inference.actions.people import Detector
from mvrec.inference.explaining import Heat, explained
from mvrec.inference.features import Selection, features_of
from mvrec.inference.heat import Method
from mvrec.inference.inputs import Item, items_of
from mvrec.inference.objects.knobs import ObjectKnobs
from mvrec.inference.recogniser import Recogniser, load_recogniser, scaled_input
from mvrec.inference.recognising import (
    OF_IMAGES,
    Part,
    is_video_file,
    item_views,
    outputs_of_parts,
    parts_of,
    recognise_files,
)
from mvrec.inference.results import Features, Result
from mvrec.inference.timeline.prediction import timelines
from mvrec.inference.timeline.segments import TimelineKnobs
from mvrec.published import list_models
from mvrec.ranges import POSITIVE, check_range

IMAGES_AT_ONCE = 16  # per forward pass

FeaturePool = Literal["none", "spatial", "all", "views"]


class Preprocess(nn.Module):
    """From decoded pixels to the input of a network, by its protocol: chosen frames, scaled, cropped, normalised.

    `model.backbone(model.preprocess(frames, fps=25))` are the logits of all views, whose mean probabilities
    `model.predict` gives. It moves to another device like any module.

    Args:
        protocol: The protocol.
        device: The device of its outputs.
    """

    def __init__(self, protocol: Protocol, device: torch.device) -> None:
        super().__init__()
        self.protocol = protocol
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)  # moves with the module

    def forward(self, pixels: Any, fps: float | None = None) -> Tensor:
        """Return the views of videos or images.

        Args:
            pixels: What `Model.predict` takes: uint8 (T, H, W, 3), for an image (H, W, 3), or several.
            fps: Frames per second of videos.

        Returns:
            float32 (B * V, C, T, size, size), images (B, C, size, size): V views of each in turn.

        Raises:
            DecodeError: A file cannot be read.
            UserError: The pixels are not what the network takes.
        """
        _, items = items_of(pixels, self.protocol, fps=fps)
        device = cast(Tensor, self.place).device
        inputs = [scaled_input(self.protocol, item_views(item, self.protocol).to(device)) for item in items]
        if len({x.shape[1:] for x in inputs}) > 1:
            raise UserError("images of different sizes make no batch: pass them one by one")
        return torch.cat(inputs)

    def extra_repr(self) -> str:
        """Return the protocol."""
        return str(self.protocol)


@dataclass(frozen=True, repr=False)
class Model(Recogniser):
    """A trained network in use, from `mvrec.load`.

    It has no state: threads may share it.

    Attributes:
        backbone: The network, in evaluation mode, on its device.
        class_names: Names of the classes in label order.
        protocol: By which a file becomes views.
        outputs: Turns outputs of the network into predictions.
        source: The file of the network.
    """

    def predict(
        self,
        source: Any,
        *,
        fps: float | None = None,
        window: float | None = None,
        stride: float | None = None,
        boxes: Any = None,
        people: Detector | None = None,
        actions: ActionKnobs | None = None,
        objects: ObjectKnobs | None = None,
        views_per_forward: int | None = None,
        decoder: Decoder = "auto",
        num_threads: int = 2,
    ) -> Any:
        """Predict what a video or image shows, as `mvrec recognize` does.

        Args:
            source: A file; frames uint8 (T, H, W, 3) as array or tensor, for image networks an image (H, W, 3) or one
                of Pillow; or several: a folder, a list file, a pattern, a list or iterator, an array with one more
                axis. Channels are RGB; OpenCV's are BGR, so reverse them: `frames[..., ::-1]`.
            fps: Frames per second of arrays; frames are chosen as if they were a file's.
            window: Cut videos into windows of so many seconds, each with a result of its own.
            stride: Seconds from window to window; adjacent by default.
            boxes: Of an action detector: a list of boxes, as training reads it, or for one video a dictionary from
                seconds to boxes (N, 4), left, top, right, bottom in pixels.
            people: In place of `boxes`: a function from a frame uint8 (H, W, 3) to boxes (N, 4) and scores (N,), such
                as `mvrec.TorchvisionDetector(name, weights)`.
            actions: Of an action detector: the times of key frames, smoothing, and the pixels of its view.
            objects: Of a detector: the least score of an object, and tiles of large images.
            views_per_forward: Views per forward pass, also of several files; by default those of one video, or 16
                images, or one key frame.
            decoder: Name of the decoder of videos.
            num_threads: Files decoded at the same time.

        Returns:
            A `Prediction`, of a segmenter a `PixelPrediction`, of a detector an `ObjectPrediction`; of several, with
            `window`, or of the frames of a video for a segmenter or detector, an iterator of them in order, in which an
            unreadable file is a result with `error`. Of an action detector an iterator of `ActionPrediction`s, one per
            key frame.

        Raises:
            DecodeError: The single file cannot be read.
            UserError: There is no such file, or the array is not what the network takes.
        """
        check_range("num_threads", num_threads)
        if objects is not None and not isinstance(self.protocol, DetectionProtocol):
            raise UserError(f"objects is for detectors, and {self.source} is for {self.outputs.task}")
        knobs = {"boxes": boxes, "people": people, "actions": actions}
        if isinstance(self.protocol, KeyFrameProtocol):
            if window is not None or stride is not None:
                raise UserError("window and stride are not for action detectors: actions=ActionKnobs(every=...)")
            _, items = self._items(source, fps=fps, window=None, stride=None, at_once=views_per_forward)
            return actions_of(self, items, **knobs, views_per_forward=views_per_forward or 1, decoder=decoder)
        if strange := next((name for name, value in knobs.items() if value is not None), None):
            raise UserError(f"{strange} is for action detectors, and {self.source} is for {self.outputs.task}")
        is_single, items = self._items(source, fps=fps, window=window, stride=stride, at_once=views_per_forward)
        results = recognise_files(
            self,
            items,
            window_seconds=window,
            stride_seconds=stride,
            views_per_forward=views_per_forward or self._at_once,
            objects=objects,
            decoder=decoder,
            num_threads=num_threads,
        )
        return _single(results) if is_single and window is None else results

    def segments(
        self,
        source: Any,
        *,
        timeline: TimelineKnobs | None = None,
        fps: float | None = None,
        window: float | None = None,
        stride: float | None = None,
        views_per_forward: int | None = None,
        decoder: Decoder = "auto",
        num_threads: int = 2,
    ) -> Any:
        """Find what happens from when to when in a long video, as `mvrec recognize --timeline` does.

        Args:
            source: As `predict` takes it.
            timeline: Thresholds, the shortest segment, and the class that stands for nothing.
            fps: As in `predict`.
            window: Seconds that the network sees at a time; the length of a clip by default.
            stride: Seconds from window to window; half a window by default.
            views_per_forward: As in `predict`.
            decoder: As in `predict`.
            num_threads: As in `predict`.

        Returns:
            `VideoSegments`, which has the `Segment`s; of several, an iterator of them in order.

        Raises:
            DecodeError: The single file cannot be read.
            UserError: There is no such file, the network is not one for classes of videos or lacks the background.
        """
        check_range("num_threads", num_threads)
        check_range("views_per_forward", views_per_forward)
        for name, value in (("window", window), ("stride", stride)):
            check_range(name, value, POSITIVE)
        is_single, items = items_of(source, self.protocol, fps=fps, in_seconds=True)
        results = timelines(
            self,
            items,
            timeline or TimelineKnobs(),
            window=window,
            stride=stride,
            views_per_forward=views_per_forward,
            decoder=decoder,
            num_threads=num_threads,
        )
        return _single(results) if is_single else results

    def features(
        self,
        source: Any,
        *,
        fps: float | None = None,
        stage: int | None = None,
        pool: FeaturePool = "views",
        window: float | None = None,
        stride: float | None = None,
        views_per_forward: int | None = None,
        decoder: Decoder = "auto",
        num_threads: int = 2,
    ) -> Any:
        """Compute the vector before the head, or a map within the network.

        Args:
            source: As `predict` takes it.
            fps: As in `predict`.
            stage: Number of the feature map, 0 for the finest; the vector by default.
            pool: What is averaged: "views" gives one vector (D,); "all" one per view (V, D); of a stage "spatial" keeps
                the time (V, D, t), and "none" is the map (V, D, t, h, w). Images have no t.
            window: As in `predict`: each window is scored like a video of its own.
            stride: As in `predict`.
            views_per_forward: As in `predict`.
            decoder: As in `predict`.
            num_threads: As in `predict`.

        Returns:
            `Features`, float32 on the CPU; of several, or with `window`, an iterator of them in order.

        Raises:
            DecodeError: The single file cannot be read.
            UserError: There is no such file or stage, or the array is not what the network takes.
        """
        check_range("num_threads", num_threads)
        if pool not in get_args(FeaturePool):
            raise UserError(f"pool must be one of {', '.join(get_args(FeaturePool))}, got {pool!r}")
        selection = Selection(stage, "all" if pool == "views" else pool)
        selection.check(self)
        is_single, items = self._items(source, fps=fps, window=window, stride=stride, at_once=views_per_forward)
        parts = parts_of(
            self.protocol,
            items,
            window_seconds=window,
            stride_seconds=stride,
            decoder=decoder,
            num_threads=num_threads,
        )
        forward = partial(features_of, self, selection=selection)
        rows = outputs_of_parts(parts, forward, views_per_forward=views_per_forward or self._at_once)
        results = (_features(part, raw, is_mean=pool == "views") for part, raw in rows)
        return _single(results) if is_single and window is None else results

    def explain(
        self,
        source: Any,
        *,
        fps: float | None = None,
        class_name: str | None = None,
        method: Method | None = None,
        stage: int | None = None,
        clip: int | None = None,
        crop: int | None = None,
        detection: int | None = None,
    ) -> Any:
        """Show on which pixels the score of a class rests, as `mvrec explain` does.

        Args:
            source: As `predict` takes it.
            fps: As in `predict`.
            class_name: The class; the most probable one by default.
            method: "cam", "layercam", and for MViT "rollout" and "relevance"; the most informative one by default.
            stage: Of "cam" and "layercam": the feature map, 0 for the finest; the coarsest by default.
            clip: Which of the protocol's clips; the middle one by default.
            crop: Which of its crops; the middle one by default.
            detection: Of a detector: which object, 0 for the one with the highest score.

        Returns:
            A `Heat` with `heat` float32 (T, H, W) from 0 to 1 and `save`; of several, an iterator of them in order.

        Raises:
            DecodeError: The single file cannot be read.
            UserError: There is no such file, class, method, stage, clip, crop or object, or the array is not what the
                network takes.
        """
        is_single, items = items_of(source, self.protocol, fps=fps)
        knobs: Any = {"class_name": class_name, "method": method, "stage": stage, "clip": clip, "crop": crop}
        knobs["detection"] = detection
        results = (_explained(self, item, knobs) for item in items)
        return _single(results) if is_single else results

    @property
    def preprocess(self) -> Preprocess:
        """A module from pixels uint8 (T, H, W, 3) to the network's input, on its device."""
        return Preprocess(self.protocol, self.device)

    @property
    def _at_once(self) -> int | None:
        return None if self.is_video else IMAGES_AT_ONCE

    def _items(
        self, source: Any, *, fps: float | None, window: float | None, stride: float | None, at_once: int | None
    ) -> tuple[bool, Iterable[Item]]:
        check_range("views_per_forward", at_once)
        for name, value in (("window", window), ("stride", stride)):
            check_range(name, value, POSITIVE)
        if stride is not None and window is None:
            raise UserError("stride is the distance between windows: add window")
        if window is not None and not self.is_video:
            raise UserError(f"window is for videos, and {self.source} is a network for images")
        is_single, items = items_of(source, self.protocol, fps=fps, in_seconds=window is not None)
        is_path = isinstance(source, str | os.PathLike)
        in_frames = isinstance(self.protocol, OF_IMAGES) and is_path and is_video_file(os.fspath(source))
        return is_single and not in_frames, items

    def __repr__(self) -> str:
        return f"<{self.source}: {self.outputs.describe()}, {self.protocol}, on {self.device}>"


def _single(results: Iterator[Any]) -> Any:
    (result,) = results
    result.check()
    return result


def _explained(recogniser: Recogniser, item: Item, knobs: Any) -> Heat:
    try:
        return explained(recogniser, item, **knobs)
    except DecodeError as error:
        return Heat(item.source, item.sample.start_seconds, item.sample.end_seconds, error.cause)


def _features(part: Part | Result, raw: Any, *, is_mean: bool) -> Features:
    place = (part.source, part.start_seconds, part.end_seconds)
    if not isinstance(part, Part):
        return Features(*place, error=part.error)
    values = part.weights.to(raw.dtype) @ raw if is_mean else raw[part.places]
    return Features(*place, values=values.numpy())


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    classes: str | Sequence[str] | None = None,
    protocol: Protocol | str | None = None,
    device: str | torch.device = "auto",
) -> Model:
    """Load a trained network for use.

    Args:
        source: A run directory (for its best checkpoint), a checkpoint, an exported `.safetensors`, published weights
            of any known layout, `hf://user/name[@revision]`, or with `weights` the name of a network of the zoo.
        weights: The file of weights for a network by name; an image network's weights load into its form for clips.
        classes: Names in label order, a shipped list (`kinetics400`, `imagenet1k`), or a file with one name per line,
            for weights without names.
        protocol: How files become views, instead of the file's own: a `Protocol`, or the name of a published one, such
            as "torchvision-mvit".
        device: "cpu", "cuda:1"; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UserError: The device or file does not exist, or the file has no network of mvrec.
    """
    name = os.fspath(source) if weights is not None or _is_name(source) else None
    if name is not None and name not in list_models():
        raise UserError(f"weights={os.fspath(weights or '')!r} are for a network by name{nearest(name, list_models())}")
    if name is not None and weights is None:
        raise UserError(f"{name} has no weights yet: add weights=FILE (`mvrec weights {name}` lists published ones)")
    loaded = load_recogniser(
        os.fspath(source if weights is None else weights),
        name=name,
        classes=classes,
        protocol=None if isinstance(protocol, str) else protocol,
        device=device,
        where="load",
    )
    if isinstance(protocol, str):
        loaded = loaded.under_name(protocol, where="protocol")
    return Model(loaded.backbone, loaded.outputs, loaded.protocol, loaded.source)


def _is_name(source: str | os.PathLike[str]) -> bool:
    return os.fspath(source) in list_models() and not at_home(source).exists()
