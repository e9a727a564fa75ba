"""The contents of a folder of videos with boxes in key frames."""

from collections import Counter
from pathlib import Path
from typing import Any

from mvrec.data.listing.boxes.layouts import BoxLayout
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.lists import Row
from mvrec.data.sets.actions.video_boxes import VideoBoxes
from mvrec.data.views.targets import NoTarget
from mvrec.errors import UserError
from mvrec.plan.findings import SAMPLE, Findings, copies, described, spread
from mvrec.plan.media import probed


def look_at_boxes(
    root: Path, *, val_fraction: float | None = None, fold: str | None = None, **arguments: Any
) -> Findings:
    """Look at a folder of videos with boxes: read the lists, and open some videos.

    Args:
        root: The folder.
        val_fraction: Share of the videos that validate if one list has all; by default it follows from their number.
        fold: `data.fold`, which splits the videos in place of `val_fraction`.
        arguments: Those of `VideoBoxes` about the lists, such as `boxes` and `attributes`.

    Raises:
        UserError: A list is malformed, a label is no class, or there is nothing to train on.
    """
    data = VideoBoxes(str(root), **arguments)
    lists = data.files
    lists.val_fraction = 0.0 if fold else val_fraction
    data.read_lists(SPLITS)
    layout: Layout = lists
    if fold is not None:
        layout = Folds(lists, Fold.parse(fold), target_of=lambda row: NoTarget())
    rows = {split: list(layout.rows(split)) for split in SPLITS if layout.has(split)}
    if not rows.get("train"):
        raise UserError(f"data.root: {str(root)!r} has no training boxes: expected {lists.expected()}")
    videos = {split: _videos(split_rows) for split, split_rows in rows.items()}
    every = list({row.path: row for split_rows in videos.values() for row in split_rows}.values())
    media = probed([root / row.path for row in spread(every, SAMPLE)], is_video=True)
    remarks = [*copies(root, videos, VIDEOS, has_classes=False), *_remarks(lists)]
    if media.unreadable:
        count = f"{len(media.unreadable)} of {len(media.unreadable) + media.num_read}"
        remarks.append(f"{count} videos looked at cannot be read: {media.unreadable[0]}")
    is_split_here = lists.splits_files and fold is None
    return Findings(
        root,
        VIDEOS,
        described(layout, root),
        not is_split_here,
        lists.val_fraction or 0.0 if is_split_here else 0.0,
        {split: _classes(lists, layout, split) for split in rows},
        {split: len(split_rows) for split, split_rows in rows.items()},
        multi_label=True,
        has_classes=False,
        media=media,
        remarks=tuple(remarks),
        num_videos=len(every),
    )


def _videos(rows: list[Row]) -> list[Row]:
    """Return a row per video, without its time."""
    return [Row(path, "") for path in dict.fromkeys(row.path for row in rows)]


def _classes(lists: BoxLayout, layout: Layout, split: str) -> Counter[str]:
    """Return the number of boxes of each action in a split; of folds those of all videos count."""
    table = lists.table("train" if isinstance(layout, Folds) and split == "val" else split)
    return Counter(dict(zip(table.labels, table.class_counts().tolist(), strict=True)))


def _remarks(lists: BoxLayout) -> list[str]:
    notes = [text for _, text in lists.notes]
    lists.notes.clear()
    return notes
