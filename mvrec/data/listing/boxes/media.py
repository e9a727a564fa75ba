"""The files of videos that lists of boxes name, by path or by id."""

import os
from collections.abc import Iterable
from pathlib import Path

from mvrec.data.listing.file_kinds import VIDEO_EXTENSIONS

DEEPEST = 3  # levels of folders below the root
FOLDERS_OF_FRAMES = ("frames", "rawframes", "Frames", "rgb-images")


def named_videos(root: Path) -> dict[str, str]:
    """Return the paths of all videos below a root by their names without ending, relative to it.

    Of two videos of one name the first in the order of folders counts.
    """
    videos: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if name not in FOLDERS_OF_FRAMES and name[0] != ".")
        if len(below.parts) >= DEEPEST:
            folders.clear()
        for name in sorted(files):
            stem, ending = os.path.splitext(name)  # noqa: PTH122 - a Path each costs seconds
            if ending.lower() in VIDEO_EXTENSIONS:
                videos.setdefault(stem, (below / name).as_posix())
    return videos


def named_frame_folders(root: Path) -> dict[str, str]:
    """Return the folders of single frames by the names of their videos, relative to the root."""
    parent = next((root / name for name in FOLDERS_OF_FRAMES if (root / name).is_dir()), None)
    if parent is None:
        return {}
    with os.scandir(parent) as entries:
        return {entry.name: f"{parent.name}/{entry.name}" for entry in entries if entry.is_dir()}


def are_ids(names: Iterable[str]) -> bool:
    """Return whether names of videos have no ending, as ids do."""
    return not any(os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS for name in names)  # noqa: PTH122
