"""Videos with boxes in key frames: their lists, their classes, and what is wrong with boxes and times."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvrec.errors import UserError
from mvrec.files import remove_leftovers, write_atomically
from mvrec.prep import console
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mvrec.data.listing.boxes.table import BoxTable
    from mvrec.data.sets.actions.box_data import BoxData

LAYOUTS = ("boxes", "ava", "ucf101_24", "jhmdb")
FAULTS = {  # of one, and of several
    "empty": ("box without area", "boxes without area"),
    "outside": ("box outside the picture", "boxes outside the picture"),
    "cut": ("box cut at the border of the picture", "boxes cut at the border of the picture"),
    "behind": ("key frame outside its video", "key frames outside their videos"),
    "unlabelled": ("box without a label", "boxes without a label"),
    "bare": ("key frame without boxes", "key frames without boxes"),
    "unreadable": ("video that cannot be read", "videos that cannot be read"),
}
HARMLESS = ("unlabelled", "bare", "cut")  # which training takes as they are
_NAMED = 20  # classes in the table; report.json has all


def find_data(options: argparse.Namespace) -> "BoxData | None":
    """Return the data module of a root with boxes; `None` for a root without.

    Raises:
        UserError: A list cannot be opened.
    """
    if not options.root.is_dir():
        return None
    from mvrec.data.listing.boxes.finding import has_boxes, release_of

    name = options.layout
    if name == "auto":
        name = (release_of(options.root) or ("boxes" if has_boxes(options.root) else name)).lower()
    if name not in LAYOUTS:
        return None
    from mvrec import data

    root, lists = str(options.root), options.annotations
    if name == "boxes":
        boxes = None if lists is None else str(lists)
        settings = {
            "boxes": boxes,
            "classes": options.classes,
            "attributes": options.attributes,
            "every": options.every,
        }
        module = data.VideoBoxes(root, bad_boxes="drop", **settings)
        module.files.val_fraction = options.val_fraction
        return module
    shared: dict[str, Any] = {"annotations": None if lists is None else str(lists)}
    if name == "ava":
        return data.AVA(root, offset=options.offset, frames=options.frames, **shared)
    kind = data.UCF101_24 if name == "ucf101_24" else data.JHMDB
    return kind(root, split=options.split_number, frames=options.frames, **shared)


def refuse(root: Path, *, job: str, reason: str, pixels_only: bool = False) -> None:
    """Refuse a job after which boxes would not fit their videos.

    Args:
        root: The data set.
        job: The name of the job.
        reason: Why it does not go together with boxes.
        pixels_only: Whether boxes in shares of the frame would fit.

    Raises:
        UserError: The root has boxes to train on.
    """
    from mvrec.data.listing.boxes.finding import find_lists, has_boxes
    from mvrec.data.listing.boxes.reading import FrameRule, read_boxes

    if not root.is_dir() or not has_boxes(root):
        return
    rule = FrameRule(lambda video, frame: 0.0)
    rows = (row for path in find_lists(root).values() for row in read_boxes(path, rule) if row.has_box)
    first = next(rows, None)
    if first is not None and not (pixels_only and first.relative):
        raise UserError(f"mvrec prep {job}: {first.source} has boxes of videos, {reason}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for boxes, with the names of the data modules' own."""
    group = parser.add_argument_group("videos with boxes")
    group.add_argument("--offset", type=float, default=0.0, help="second of AVA's films at which the files begin")
    group.add_argument("--attributes", nargs="*", help="attributes of CVAT that hold actions; all by default")
    group.add_argument("--every", type=float, default=1.0, help="seconds between key frames of CVAT's tracks")
    group.add_argument("--frames", action="store_true", help="read folders of frames in place of videos")


class VideoFacts(NamedTuple):
    """The facts of a video that boxes must fit.

    Attributes:
        seconds: Its length.
        num_frames: The number of its frames.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
    """

    seconds: float
    num_frames: int
    height: int
    width: int


def facts_of(path: Path) -> VideoFacts:
    """Read the facts of a video, or of a folder of frames.

    Raises:
        DecodeError: It cannot be read.
    """
    from mvrec.data.loading.frames.folders import open_frames
    from mvrec.data.views.timeline import timeline_of

    with open_frames(path) as video:
        line = timeline_of(video)
        return VideoFacts(line.seconds, line.num_frames, *video.size)


@dataclass
class Examples:
    """Faults by kind: how many, and the place of the first."""

    counts: dict[str, int]
    firsts: dict[str, str]

    def add(self, kind: str, count: int, first: str) -> None:
        """Count faults; `first` names the first of them."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.firsts.setdefault(kind, first)


def index(data: "BoxData", options: argparse.Namespace) -> int:
    """Count boxes, look for faults, and write lists and classes; return the exit code."""
    tables = tables_of(data)
    videos = sorted({video for table in tables.values() for video in table.videos})
    faults = Examples({}, {})
    for kind, (count, first) in data.files.left_out.items():
        faults.add(kind, count, first)
    facts = _facts(data, videos, faults, options)
    good = {split: checked(data, table, facts, faults) for split, table in tables.items()}
    names = list(data.class_names)
    text = summary(data, tables, names, faults)
    if options.dry_run:
        print(f"{text}\n\nlists and report would go to {options.out}; nothing was written")
        return console.ALL_FINE
    written = [write_boxes(options.out / f"{split}.csv", data, table) for split, table in good.items() if len(table)]
    classes = options.out / "classes.txt"
    remove_leftovers(classes)
    write_atomically(classes, "".join(f"{name}\n" for name in names))
    write_json(options.out / "report.json", report(data, tables, names, faults))
    print(text)
    print(
        f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in [*written, classes]), sep="\n"
    )
    return console.SOME_BAD if set(faults.counts) - set(HARMLESS) else console.ALL_FINE


def tables_of(data: "BoxData") -> dict[str, "BoxTable"]:
    """Return the true boxes of each split.

    Raises:
        UserError: There are none, or a list is malformed.
    """
    data.setup("fit")
    if data.files.has("test"):
        data.setup("test")
    return {split: frames.truth for split, frames in data.key_frames.items()}


def _facts(
    data: "BoxData", videos: Sequence[str], faults: Examples, options: argparse.Namespace
) -> dict[str, VideoFacts]:
    """Read the facts of all videos, in processes that can be killed."""
    import mvrec.data.loading.frames.folders  # noqa: F401 - before processes are forked

    facts: dict[str, VideoFacts] = {}
    paths = {data.root / video: video for video in videos}
    failures: list[str] = []
    limits = Limits(options.timeout, options.memory)
    with (
        console.progress(len(paths), unit="video") as bar,
        closing(run_jobs(facts_of, paths, workers=options.workers, limits=limits)) as outcomes,
    ):
        for path, result in outcomes:
            if isinstance(result, Failure):
                failures.append(f"{path}: {result.cause}")
            else:
                facts[paths[path]] = result
            bar.update()
    faults.add("unreadable", len(failures), min(failures, default=""))
    return facts


def checked(data: "BoxData", table: "BoxTable", facts: dict[str, VideoFacts], faults: Examples) -> "BoxTable":
    """Return the boxes that lie in their videos and pictures, and count the others."""
    import numpy as np

    unknown = VideoFacts(np.inf, 2**31, 2**31, 2**31)  # of videos that cannot be read: counted once
    of_video = [facts.get(video, unknown) for video in table.videos]
    limits = np.array(of_video, np.float64).reshape(-1, 4)[table.frame_videos]  # (F, 4)
    times = data.times
    end = limits[:, 0] if times.fps is None else limits[:, 1] / times.fps
    seconds = table.seconds - times.offset
    behind = (seconds < 0) | (seconds > end)
    count, first = _first(behind)
    if count:
        name, line = table.videos[table.frame_videos[first]], table.where(first)
        faults.add(
            "behind", count, f"{line}: {table.seconds[first]:g} s, {name} ends at {end[first] + times.offset:.2f} s"
        )
    bare = ~table.has_boxes()
    count, first = _first(bare)
    faults.add("bare", count, table.where(first) if count else "")
    frames = table.box_frames
    unlabelled = np.diff(table.sets.ends, prepend=0) == 0
    count, first = _first(unlabelled)
    faults.add("unlabelled", count, _where(table, first) if count else "")
    outside = np.zeros(len(frames), np.bool_)
    if not table.relative:
        height, width = limits[frames, 2], limits[frames, 3]
        outside = (table.corners[:, 0] >= width) | (table.corners[:, 1] >= height)
        over = ~outside & ((table.corners[:, 2] > width + 1) | (table.corners[:, 3] > height + 1))
        over &= (table.corners >= 0).all(axis=1)  # the others were counted when they were read
        for kind, mask in (("outside", outside), ("cut", over)):
            count, first = _first(mask)
            faults.add(kind, count, _box_text(table, first, height, width) if count else "")
    unreadable = np.isinf(limits[:, 0])
    return table.only_boxes(~outside).only_frames(~(behind | unreadable))


def _first(mask: "npt.NDArray[np.bool_]") -> tuple[int, int]:
    """Return how many are true, and the first one's number."""
    return int(mask.sum()), int(mask.argmax()) if len(mask) else 0


def _where(table: "BoxTable", box: int) -> str:
    return table.where(int(table.box_frames[box]), int(table.box_lines[box]))


def _box_text(table: "BoxTable", box: int, height: Any, width: Any) -> str:
    corners = ", ".join(f"{value:g}" for value in table.corners[box])
    return f"{_where(table, box)}: {corners} in frames of {width[box]:g}x{height[box]:g} pixels"


def class_counts(tables: dict[str, "BoxTable"], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the boxes of each class by split."""
    counts = {split: table.class_counts() for split, table in tables.items()}
    return {name: {split: int(of[number]) for split, of in counts.items()} for number, name in enumerate(names)}


def report(data: "BoxData", tables: dict[str, "BoxTable"], names: Sequence[str], faults: Examples) -> dict[str, Any]:
    """Return the content of `report.json`."""
    return {
        "layout": data.files.title,
        "root": str(data.root.resolve()),
        "splits": {split: _sizes(table) for split, table in tables.items()},
        "boxes_per_class": class_counts(tables, names),
        "problems": {kind: {"count": count, "first": faults.firsts[kind]} for kind, count in faults.counts.items()},
    }


def _sizes(table: "BoxTable") -> dict[str, int]:
    return {"videos": len(table.videos), "key_frames": len(table), "boxes": len(table.corners)}


def summary(data: "BoxData", tables: dict[str, "BoxTable"], names: Sequence[str], faults: Examples) -> str:
    """Return the tables of splits and classes, and a line for each kind of fault."""
    text = f"{data.files.title} in {shown(data.root)}\n\n"
    text += console.table(
        ["split", "videos", "key frames", "boxes"], [[s, *_sizes(table).values()] for s, table in tables.items()]
    )
    counts = class_counts(tables, names)
    ordered = sorted(counts.items(), key=lambda entry: (-sum(entry[1].values()), entry[0]))
    text += "\n\n" + console.table(
        ["boxes of class", *tables], [[shown(name), *of_split.values()] for name, of_split in ordered[:_NAMED]]
    )
    text += f"\nand {len(ordered) - _NAMED} more in report.json" if len(ordered) > _NAMED else ""
    for kind, (single, several) in FAULTS.items():
        if count := faults.counts.get(kind):
            text += f"\n\n{count} {single if count == 1 else several}, for example {shown(faults.firsts[kind])}"
    return text


def write_boxes(target: Path, data: "BoxData", table: "BoxTable") -> Path:
    """Write a list of boxes with a header; paths below its folder are relative to it, others absolute.

    Raises:
        UserError: The list would overwrite one that is read.
    """
    if target.exists() and any(target.resolve() == Path(source).resolve() for source in table.sources):
        raise UserError(f"{target} is a list of this data set and would be overwritten: choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    write_atomically(target, "".join(_lines(target, data, table)))
    return target


def _lines(target: Path, data: "BoxData", table: "BoxTable") -> Iterator[str]:
    base = os.path.join(os.path.abspath(target.parent), "")  # noqa: PTH100, PTH118
    yield "path,time,x1,y1,x2,y2,label\n"
    paths = [os.path.abspath(data.root / video).removeprefix(base) for video in table.videos]  # noqa: PTH100
    for number in range(len(table)):
        path = _quoted(paths[table.frame_videos[number]])
        seconds = f"{table.seconds[number] - data.times.offset:.6g}"
        boxes = table.frame(number)
        if not len(boxes.corners):
            yield f"{path},{seconds},,,,,\n"
        for corners, actions in zip(boxes.corners, boxes.actions, strict=True):
            place = ",".join(f"{value:.6g}" for value in corners)
            for label in [table.labels[action] for action in actions.nonzero()[0]] or [""]:
                yield f"{path},{seconds},{place},{_quoted(label)}\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"') else text
