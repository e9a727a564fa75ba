"""Parts of files that clips and crops leave out: parts of videos, movement at the border, and boxes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import Box, Geometry, choose_geometry
from mvrec.data.views.objects import Objects
from mvrec.data.views.objects.augment import choose_object_geometry
from mvrec.data.views.protocol import ClipProtocol
from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.looking.audit.findings import File, Finding, Settings
from mvrec.looking.audit.looks import SMALL, Look
from mvrec.looking.audit.reading import Seen
from mvrec.messages import counted
from mvrec.seeds import derive_seed

SHOWN_SHARE = 0.25  # of a part of a video, below which a clip may miss what its label means
LONG_CLIP = 2.0  # times the length of the part
OFTEN = 0.05  # of rows, from which on a finding is made of them
LEAST_MOVEMENT = 1.5  # grey levels that change between moments, for a video to have movement
LOST_SHARE, LOST_OFTEN = 0.25, 0.2  # of the movement, below which a crop has lost it; share of crops
DRAWS = 8  # random crops of each file
MOST_ROWS = 2000  # of a split whose boxes are looked at
LEAST_SEEN = 0.5  # of a box, below which a crop leaves it out
TRAINING_SHARE, EVALUATION_SHARE = 0.1, 0.01  # of boxes that crops leave out, from which on a finding is made of them

Corners = npt.NDArray[np.float64]  # (N, 4), left, top, right and bottom in pixels of a file


def left_out(
    files: Sequence[File], reads: Sequence[Seen], settings: Settings, protocol: Any = None, augment: Any = None
) -> Iterator[Finding]:
    """Yield what clips and crops leave out of videos with classes.

    Args:
        files: All rows.
        reads: The file of each.
        settings: What training does.
        protocol: How an evaluation makes views; `None` if that is not known.
        augment: The ranges of training's random crops; `None` if they are not known.
    """
    if settings.clip is not None and settings.clip.sampling == "dense":
        clips = protocol.views.num_clips if isinstance(protocol, ClipProtocol) else 0
        yield from _clips(files, reads, settings.clip, clips)
    if isinstance(protocol, ClipProtocol):
        yield from _movement(files, reads, protocol)
        yield from [] if augment is None else _cropped_movement(files, reads, augment, protocol.size)


# -- time --------------------------------------------------------------------------------------------------------------


def _clips(files: Sequence[File], reads: Sequence[Seen], clip: ClipSpec, num_clips: int) -> Iterator[Finding]:
    """Yield training rows whose labelled part is much longer or shorter than a clip."""
    lengths: dict[bool, dict[int, tuple[float, float]]] = {True: {}, False: {}}  # seconds of part and clip by row
    for number, (file, each) in enumerate(zip(files, reads, strict=True)):
        if file.split == "train" and each.look is not None and each.look.seconds:
            has_span, fps = file.span != (None, None), each.look.fps
            if (part := _part_seconds(file, each.look)) > 0:
                lengths[has_span][number] = part, clip.span(fps) / fps
    for has_span, of_rows in lengths.items():
        noun = "labelled parts" if has_span else "training videos"
        missed = {row: pair for row, pair in of_rows.items() if pair[1] < SHOWN_SHARE * pair[0]}
        if missed and len(missed) >= OFTEN * len(of_rows):
            parts, clips = zip(*missed.values(), strict=True)
            shares = [shown / part for part, shown in missed.values()]
            all_clips = np.median([min(num_clips * share, 1.0) for share in shares])
            evaluated = f", and the {num_clips} clips of evaluation {100 * all_clips:.0f} %" if num_clips else ""
            text = (
                f"of {len(missed)} of {len(of_rows)} {noun}, usually {np.median(parts):.1f} s "
                f"long, a training clip of {np.median(clips):.1f} s shows "
                f"{100 * np.median(shares):.0f} %{evaluated}: it may miss what the label means; raise "
                f"data.clip.stride_frames, {'or' if has_span else 'list start and end, or'} sample segments"
            )
            yield _timed("short clips", text, missed)
        repeated = {row: pair for row, pair in of_rows.items() if pair[1] > LONG_CLIP * pair[0]}
        if has_span and repeated and len(repeated) >= OFTEN * len(of_rows):
            text = (
                f"{len(repeated)} of {len(of_rows)} {noun} are under half as long as a clip, usually "
                f"{np.median([part for part, _ in repeated.values()]):.2f} s, so most of its frames repeat: lower "
                "data.clip.stride_frames or data.clip.num_frames"
            )
            yield _timed("long clips", text, repeated)


def _timed(kind: str, text: str, pairs: Mapping[int, tuple[float, float]]) -> Finding:
    order = sorted(pairs, key=lambda row: pairs[row][1] / pairs[row][0], reverse=kind == "long clips")
    remarks = tuple(f"a clip of {pairs[row][1]:.1f} s, a part of {pairs[row][0]:.1f} s" for row in order)
    return Finding(kind, text, tuple((row,) for row in order), remarks)


def _part_seconds(file: File, look: Look) -> float:
    start, end = file.span[0] or 0.0, look.seconds if file.span[1] is None else file.span[1]
    return min(end, look.seconds) - start


# -- place -------------------------------------------------------------------------------------------------------------


def _movement(files: Sequence[File], reads: Sequence[Seen], protocol: ClipProtocol) -> Iterator[Finding]:
    """Yield videos of which most movement lies outside the evaluation's crops."""
    shares: dict[str, float] = {}
    first: dict[str, int] = {}
    for number, (file, each) in enumerate(zip(files, reads, strict=True)):
        if each.look is not None and file.path not in first and (movement := movement_of(each.look)) is not None:
            first[file.path] = number
            coverage = _seen_grid([region_of(geometry) for geometry in protocol.geometries(*each.look.size)], each.look)
            shares[file.path] = float((movement * (1 - coverage)).sum() / movement.sum())
    outside = sorted((path for path, share in shares.items() if share > 0.5), key=lambda path: -shares[path])
    if outside and len(outside) >= OFTEN * len(shares):
        views = protocol.views
        advice = (
            "data.test_views.num_crops 3 and data.val_views.num_crops 3" if views.num_crops == 1 else "squarer videos"
        )
        text = (
            f"of {len(outside)} of {len(shares)} videos most of the movement lies outside what evaluation sees "
            f"(short side {views.short_side}, crop {protocol.size}, {counted(views.num_crops, 'crops')}): it may miss "
            f"what the label means; try {advice}, or cut the videos around their subject"
        )
        remarks = tuple(f"{100 * shares[path]:.0f} % of the movement is outside" for path in outside)
        yield Finding("movement outside the crop", text, tuple((first[path],) for path in outside), remarks)


def _cropped_movement(files: Sequence[File], reads: Sequence[Seen], augment: Any, size: int) -> Iterator[Finding]:
    """Yield training videos whose movement random crops often leave out."""
    lost: dict[int, float] = {}  # share of draws that lose it, by row
    for number, (file, each) in enumerate(zip(files, reads, strict=True)):
        if file.split != "train" or each.look is None or (movement := movement_of(each.look)) is None:
            continue
        draws = []
        for draw in range(DRAWS):
            seed = derive_seed(0, "audit", number, draw)
            way = choose_geometry(*each.look.size, size=size, augment=augment, seed=seed)
            draws.append((movement * _seen_grid([region_of(way)], each.look)).sum() < LOST_SHARE * movement.sum())
        lost[number] = float(np.mean(draws))
    share = float(np.mean(list(lost.values()))) if lost else 0.0
    if share < LOST_OFTEN:
        return
    rows = sorted((row for row, value in lost.items() if value >= LOST_OFTEN), key=lambda row: -lost[row])
    low, high = augment.crop_side or augment.crop_area
    key = "crop_area" if augment.crop_side is None else "crop_side"
    text = (
        f"{100 * share:.0f} % of training's random crops ({key} {low:g} to {high:g}) show less than a quarter of the "
        f"movement in their video, and may miss what the label means: raise the first number of data.augment.{key}, "
        "or cut the videos around their subject"
    )
    remarks = tuple(f"{100 * lost[row]:.0f} % of its crops" for row in rows)
    yield Finding("crops without the movement", text, tuple((row,) for row in rows), remarks)


def movement_of(look: Look) -> npt.NDArray[np.float32] | None:
    """Return how much each place of a video changes: float32 (SMALL, SMALL); `None` if it hardly does."""
    if len(look.pictures) == 1:
        return None
    changes = np.abs(np.diff(look.pictures.astype(np.float32), axis=0))
    if changes.reshape(len(changes), -1).std(1).mean() < LEAST_MOVEMENT:
        return None
    movement = changes.mean(0)
    above = (movement - np.median(movement)).clip(0)  # without what a shaking camera moves everywhere
    return above if above.any() else movement


def region_of(geometry: Geometry) -> Corners:
    """Return the part of a frame that a view shows: float64 (4,), left, top, right, bottom in pixels of the frame."""
    box, (height, width) = geometry.box, geometry.size
    crop = geometry.crop or Box(0, 0, height, width)
    left, top = box.left + crop.left * box.width / width, box.top + crop.top * box.height / height
    return np.array([left, top, left + crop.width * box.width / width, top + crop.height * box.height / height])


def _seen_grid(regions: Sequence[Corners], look: Look) -> npt.NDArray[np.float64]:
    """Return the share of each place (SMALL, SMALL) of a video's pictures that lies in one of some regions."""
    height, width = look.size
    coverage = np.zeros((SMALL, SMALL))
    ends = np.arange(SMALL + 1)
    for region in regions:
        left, top, right, bottom = region * SMALL / np.array([width, height, width, height])
        across = (np.minimum(ends[1:], right) - np.maximum(ends[:-1], left)).clip(0)
        down = (np.minimum(ends[1:], bottom) - np.maximum(ends[:-1], top)).clip(0)
        coverage = np.maximum(coverage, down[:, None] * across)
    return coverage


# -- boxes -------------------------------------------------------------------------------------------------------------


def cropped_boxes(data: Any, files: Sequence[File], reads: Sequence[Seen]) -> Iterator[Finding]:
    """Yield what training's random crops and evaluation's crop leave out of objects, or of boxes with actions.

    Args:
        data: A data module with such targets after `setup`.
        files: All rows, split by split, each in the order of its index.
        reads: The file of each.
    """
    begins = {split: next(n for n, file in enumerate(files) if file.split == split) for split in _splits(files)}
    shares = [_Shares(), _Shares()]  # of training's crops, of evaluation's
    for split, begin in begins.items():
        index = data.index(split)
        for row in range(0, len(index), max(len(index) // MOST_ROWS, 1)):
            look = reads[begin + row].look
            corners = None if look is None else corners_of(index.target(row), *look.size)
            if look is None or corners is None or not len(corners):
                continue
            is_training = split == "train"
            regions = _training_regions(data, row, look) if is_training else [_evaluated_region(data, split, look)]
            coverage = np.stack([seen_shares(corners, region) for region in regions])  # (draws, N)
            shares[not is_training].add(begin + row, coverage)
    settings = (
        "crop or data.augment.jitter" if hasattr(data, "object_augment") else "crop_side or data.augment.crop_area"
    )
    advice = f"draw larger crops (data.augment.{settings})"
    yield from shares[0].findings("training's random crops", TRAINING_SHARE, advice)
    yield from shares[1].findings("evaluation's crop", EVALUATION_SHARE, "let it see full frames (--data.pixels full)")


class _Shares:
    """Shares of boxes that crops show, by row."""

    def __init__(self) -> None:
        self.coverage: dict[int, npt.NDArray[np.float64]] = {}

    def add(self, row: int, coverage: npt.NDArray[np.float64]) -> None:
        self.coverage[row] = coverage

    def findings(self, noun: str, least: float, advice: str) -> Iterator[Finding]:
        lost = {row: float((coverage < LEAST_SEEN).mean()) for row, coverage in self.coverage.items()}
        boxes = sum(coverage.shape[1] for coverage in self.coverage.values())
        share = sum(lost[row] * coverage.shape[1] for row, coverage in self.coverage.items()) / max(boxes, 1)
        if share < least:
            return
        rows = sorted((row for row, value in lost.items() if value), key=lambda row: -lost[row])
        text = f"{noun} show less than half of {100 * share:.0f} % of {counted(boxes, 'boxes')}: {advice}"
        remarks = tuple(f"{100 * lost[row]:.0f} % of its boxes are left out" for row in rows)
        yield Finding("cropped boxes", text, tuple((row,) for row in rows), remarks)


def _splits(files: Sequence[File]) -> list[str]:
    return list(dict.fromkeys(file.split for file in files))


def corners_of(target: Target, height: int, width: int) -> Corners | None:
    """Return the boxes of a target in pixels of a file of this size; `None` if it has none by its kind."""
    if isinstance(target, Objects):
        boxes = target.annotations.boxes[~target.annotations.crowd].astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if isinstance(target, ActionBoxes):
        corners = target.in_frame(height, width).corners
        return None if corners is None else corners.astype(np.float64)
    return None


def seen_shares(corners: Corners, region: Corners) -> npt.NDArray[np.float64]:
    """Return the share of each box (N, 4) that lies in a region (4,): float64 (N,)."""
    sides = (np.minimum(corners[:, 2:], region[2:]) - np.maximum(corners[:, :2], region[:2])).clip(0)
    areas = (corners[:, 2:] - corners[:, :2]).clip(1e-6).prod(1)
    return sides.prod(1) / areas


def _training_regions(data: Any, row: int, look: Look) -> list[Corners]:
    seeds = [derive_seed(data.seed or 0, "audit", row, draw) for draw in range(DRAWS)]
    return [region_of(_training_geometry(data, look, seed)) for seed in seeds]


def _training_geometry(data: Any, look: Look, seed: int) -> Geometry:
    if hasattr(data, "object_augment"):
        return choose_object_geometry(*look.size, augment=data.object_augment, seed=seed)
    return choose_geometry(*look.size, size=data.size, augment=data.augment, seed=seed)


def _evaluated_region(data: Any, split: str, look: Look) -> Corners:
    return region_of(data.protocol(split).geometries(*look.size)[0])
