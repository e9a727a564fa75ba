"""Features of files, clip by clip or window by window, in self-describing files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import clip_views, timed_frames
from mvrec.data.loading.guarded_files import open_video
from mvrec.data.video.video import Video, check_is_file_with_content
from mvrec.data.views.protocol import ClipProtocol, KeyFrameProtocol
from mvrec.data.views.timeline import timeline_of, windows
from mvrec.errors import UserError
from mvrec.files import atomic_path, json_text, write_atomically
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.sources import as_sample
from mvrec.ranges import POSITIVE, check_range

Pool = Literal["none", "spatial", "all"]
Format = Literal["npy", "safetensors"]
POOLS, FORMATS = get_args(Pool), get_args(Format)
KEY = "mvrec"  # of the record in the metadata of a safetensors file


@dataclass(frozen=True)
class Selection:
    """The features to extract and the parts of a file to extract them from.

    Attributes:
        stage: Number of the feature map, 0 for the finest; None for the vector before the head.
        pool: Axes to average a map over: "none", "spatial" for rows and columns, "all" for time too.
        window_seconds: Length of the windows of a video; None for the clips of the protocol.
        stride_seconds: From the start of one window to the next; None for adjacent windows.

    Raises:
        UserError: The settings contradict one another.
    """

    stage: int | None = None
    pool: Pool = "all"
    window_seconds: float | None = None
    stride_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.stage is None and self.pool != "all":
            raise UserError(f"--pool {self.pool} is for maps, and without --stage there is one vector per clip")
        for name, value in (("window", self.window_seconds), ("stride", self.stride_seconds)):
            check_range(f"--{name}", value, POSITIVE)
        if self.stride_seconds is not None and self.window_seconds is None:
            raise UserError("--stride is the distance between windows: add --window")

    def check(self, recogniser: Recogniser) -> None:
        """Check that a network has these features.

        Raises:
            UserError: It lacks them.
        """
        if isinstance(recogniser.protocol, KeyFrameProtocol):
            raise UserError(
                f"{recogniser.source} looks at key frames with boxes, and features are those of whole files"
            )
        stages = len(recogniser.backbone.feature_info)
        if self.stage is not None and not -stages <= self.stage < stages:
            available = f"the stages 0..{stages - 1}" if stages else "no feature maps"
            raise UserError(f"--stage: there is no stage {self.stage}: this network has {available}")
        if self.window_seconds is not None and not recogniser.is_video:
            raise UserError(f"--window is for videos, and {recogniser.source} is a network for images")


@torch.no_grad()
def features_of(recogniser: Recogniser, views: Tensor, selection: Selection) -> Tensor:
    """Return features of each view.

    Args:
        recogniser: The network.
        views: uint8 (V, C, [T,] H, W).
        selection: Which features.

    Returns:
        float32 on the CPU: (V, D) without a stage; else (V, C), with "spatial" (V, C, [t]), with "none"
        (V, C, [t,] h, w).
    """
    x = recogniser.network_input(views)
    if selection.stage is None:
        return recogniser.backbone.forward_features(x).float().cpu()
    level = recogniser.backbone.feature_maps(x)[selection.stage]
    if selection.pool == "all":
        level = level.flatten(2).mean(2)
    elif selection.pool == "spatial":
        level = level.mean((-2, -1))
    return level.float().cpu()


# -- frames ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """The clips of a video: frame numbers int64 (N, T), and start and end of each in seconds."""

    frames: Tensor
    start_seconds: list[float]
    end_seconds: list[float]


def clips_of(file: Path | Sample, video: Video, protocol: ClipProtocol, selection: Selection) -> Clips:
    """Return the clips of the protocol, or the middle one of every window.

    Args:
        file: The video, or its relevant span.
        video: The opened video.
        protocol: The protocol of the clips.
        selection: Decides whether there are windows.

    Raises:
        DecodeError: The span lies outside the video, or is too short for a protocol that calls this an error.
    """
    sample, times = as_sample(file), timeline_of(video)
    times.check_span(sample)
    if selection.window_seconds is None:
        frames = timed_frames(sample, times, protocol)
        return Clips(frames, times.start_of(frames.amin(1)), times.end_of(frames.amax(1)))
    single = replace(protocol, views=replace(protocol.views, num_clips=1))
    end = times.seconds if sample.end_seconds is None else min(sample.end_seconds, times.seconds)
    spans = windows(end, selection.window_seconds, selection.stride_seconds, begin=sample.start_seconds or 0.0)
    clips = [
        timed_frames(replace(sample, start_seconds=first, end_seconds=last), times, single)[0] for first, last in spans
    ]
    return Clips(torch.stack(clips), [start for start, _ in spans], [end for _, end in spans])


# -- files -----------------------------------------------------------------------------------------------------------


def target_files(stem: Path, form: Format) -> tuple[Path, Path]:
    """Return the path of the features and of their description, written last; one path for safetensors."""
    features = stem.with_name(f"{stem.name}.{form}")
    return features, (features if form == "safetensors" else stem.with_name(f"{stem.name}.json"))


def read_record(stem: Path, form: Format) -> dict[str, Any] | None:
    """Return the record of a file's features; None if they are missing or incomplete."""
    features, record = target_files(stem, form)
    if not features.is_file() or not record.is_file():
        return None
    try:
        if form == "npy":
            return json.loads(record.read_text(encoding="utf-8"))
        with features.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return json.loads(header["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError):  # foreign or damaged: write anew
        return None


def is_complete(stem: Path, file: Path | Sample, settings: dict[str, Any], form: Format) -> bool:
    """Return whether the features exist with these settings, and the file or span is unchanged.

    Raises:
        DecodeError: The file is missing.
    """
    record = read_record(stem, form)
    if record is None or record.get("settings") != settings:
        return False
    return {**record.get("source", {}), "path": ""} == {**_identity(as_sample(file)), "path": ""}  # it may have moved


def extract(
    recogniser: Recogniser,
    file: Path | Sample,
    stem: Path,
    *,
    selection: Selection,
    form: Format,
    settings: dict[str, Any],
    views_per_forward: int = 8,
) -> tuple[int, ...]:
    """Write the features of one file, in one step once they are complete.

    Memory holds at most `views_per_forward` views and the frames of one clip, however long the video.

    Args:
        recogniser: The network.
        file: A video, or a span of one, or an image, to match the network.
        stem: The path without the suffix.
        selection: The features.
        form: The format. "npy" has a `.json` next to it with times and settings; "safetensors" holds `start_seconds`
            and `end_seconds` too, and the same record in its metadata.
        settings: Settings to record.
        views_per_forward: Views per forward pass.

    Returns:
        The features' shape, views first: clip by clip and crop by crop.

    Raises:
        DecodeError: The file cannot be read.
        UserError: The features cannot be written.
    """
    sample = as_sample(file)
    record: dict[str, Any] = {"source": _identity(sample), "settings": settings}
    if isinstance(recogniser.protocol, ClipProtocol):
        with open_video(sample.path) as video:
            clips = clips_of(sample, video, recogniser.protocol, selection)
            crops = recogniser.protocol.views.num_crops
            record |= {"fps": timeline_of(video).fps, "num_crops": crops}
            for name in ("start_seconds", "end_seconds"):
                record[name] = [second for second in getattr(clips, name) for _ in range(crops)]
            views = _views(video, clips, recogniser.protocol)
            return _write(
                stem, form, record, len(clips.frames) * crops, _rows(recogniser, views, selection, views_per_forward)
            )
    views = iter(recogniser.views(sample.path))
    return _write(stem, form, record, 1, _rows(recogniser, views, selection, views_per_forward))


def _views(video: Video, clips: Clips, protocol: ClipProtocol) -> Iterator[Tensor]:
    """Yield the views one by one, uint8 (C, T, H, W), decoded clip by clip."""
    for numbers in clips.frames:
        yield from clip_views(video.frames(numbers.tolist()), protocol).transpose(1, 2)


def _rows(
    recogniser: Recogniser, views: Iterator[Tensor], selection: Selection, at_once: int
) -> Iterator[npt.NDArray[Any]]:
    while batch := list(islice(views, at_once)):
        yield features_of(recogniser, torch.stack(batch), selection).contiguous().numpy()


def _identity(sample: Sample) -> dict[str, Any]:
    path = sample.path
    file = path.archive if isinstance(path, ArchiveMember) else path
    check_is_file_with_content(str(file))
    status = file.stat()
    identity: dict[str, Any] = {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    if isinstance(path, ArchiveMember):
        identity["offset"] = path.offset
    if sample.start_seconds is not None or sample.end_seconds is not None:
        identity["span_seconds"] = [sample.start_seconds, sample.end_seconds]
    return identity


def _write(
    stem: Path, form: Format, record: dict[str, Any], num_rows: int, rows: Iterator[npt.NDArray[Any]]
) -> tuple[int, ...]:
    """Write rows as they come, after a header that needs only their number and the first one's shape."""
    features, record_file = target_files(stem, form)
    part = next(rows)  # before any file is touched: an unreadable file leaves nothing
    shape = (num_rows, *part.shape[1:])
    record["shape"] = list(shape)
    with _writing(features):
        record_file.unlink(missing_ok=True)  # it describes other features
    written = 0
    with _writing(features), atomic_path(features) as temporary, temporary.open("wb") as file:
        _write_header(file, form, record)
        while True:
            file.write(part.astype("<f4", copy=False).tobytes())
            written += len(part)
            following = next(rows, None)
            if following is None:
                break
            part = following
        assert written == num_rows, f"{written} rows of {num_rows}"
    if record_file != features:
        with _writing(record_file):
            write_atomically(record_file, json_text(record, indent=2) + "\n")
    return shape


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _write_header(file: IO[bytes], form: Format, record: dict[str, Any]) -> None:
    shape = record["shape"]
    if form == "npy":
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
        return
    times = {
        name: np.asarray(record[name], "<f8")
        for name in ("start_seconds", "end_seconds")
        if record.get(name) is not None
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt", KEY: json.dumps(record, ensure_ascii=False)}}
    end = 0
    for name, values in times.items():
        header[name] = {"dtype": "F64", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    size = 4 * int(np.prod(shape))
    header["features"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the numbers
    file.write(len(text).to_bytes(8, "little") + text)
    for values in times.values():
        file.write(values.tobytes())


def settings_of(recogniser: Recogniser, selection: Selection, form: Format, *, sha256: str) -> dict[str, Any]:
    """Return all settings on which features depend: equal settings give equal features.

    Args:
        recogniser: The network.
        selection: The features.
        form: The format.
        sha256: The hash of the network's file.
    """
    settings = {
        "checkpoint_sha256": sha256,
        "protocol": recogniser.protocol.as_dict(),
        **asdict(selection),
        "format": form,
    }
    return json.loads(json.dumps(settings))  # as it is read back: lists for tuples
