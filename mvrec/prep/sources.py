"""The input of a tool: the rows of lists, or all media files of a folder."""

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mvrec.errors import DecodeError, UserError
from mvrec.files import remove_leftovers, write_atomically

if TYPE_CHECKING:  # importing mvrec.data takes seconds, which `--help` does not need
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.lists import Row

SPLITS = ("train", "val", "test")
NO_SPLIT = "all"  # the split of files without one
_TOLERATED_SECONDS, _TOLERATED_SHARE = 0.25, 0.1  # of a video's length that may be missing at its end
_SPLIT_NAMES = {"training": "train", "validation": "val", "validate": "val", "valid": "val", "testing": "test"}


@dataclass(frozen=True)
class Source:
    """The rows of a data set.

    Attributes:
        root: The folder to which relative paths refer.
        rows: The rows of each split. A row of a file outside any class folder has the label "".
        lists: The lists that were read, by split.
    """

    root: Path
    rows: dict[str, list["Row"]]
    lists: dict[str, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def copy_class_names(self, folder: Path) -> None:
        """Copy `classes.txt`, from the folder of the lists or from the root, into a folder; do nothing without one."""
        candidates = [path.parent / "classes.txt" for path in self.lists.values()]
        source = next((path for path in (*candidates, self.root / "classes.txt") if path.is_file()), None)
        target = folder / "classes.txt"
        if source is not None and source.resolve() != target.resolve():
            remove_leftovers(target)
            write_atomically(target, source.read_text(encoding="utf-8"))


def read_source(root: Path, *, lists: Sequence[Path] = (), only: str | None = None) -> Source:
    """Return the rows of given lists, else of `root/<split>.csv` (or `.txt`), else all media files below `root`.

    Args:
        root: A folder; or a single list, whose own folder is then the root.
        lists: Lists to read; the beginning of a list's name is its split.
        only: "video" or "image" to skip files of the other kind in folders.

    Raises:
        UserError: The folder is missing or empty, a list is malformed, or a split has two lists.
    """
    if root.is_file() and not lists:
        root, lists = root.parent, [root]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or list")
    from mvrec.data.listing.layouts import placed_rows
    from mvrec.data.listing.lists import read_rows

    paths = _named(lists) if lists else _lists_in(root)
    if paths:
        notes: list[tuple[int, str]] = []
        rows = {split: list(placed_rows(root, split, read_rows(path), notes)) for split, path in paths.items()}
        for _, note in notes:
            print(note, file=sys.stderr)
    else:
        rows = _walked(root, only)
    source = Source(root, rows, paths)
    if not len(source):
        raise UserError(f"{root}: no {only or 'media'} files and no lists train.csv, val.csv or test.csv in it")
    return source


def _named(lists: Iterable[Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in lists:
        split = path.name.split(".")[0]
        if split in paths:
            raise UserError(f"{paths[split]} and {path} are both lists of {split!r}: rename one, or give one at a time")
        paths[split] = path
    return paths


def _lists_in(root: Path) -> dict[str, Path]:
    named = ((split, root / f"{split}{suffix}") for split in SPLITS for suffix in (".txt", ".csv"))
    return {split: path for split, path in named if path.is_file()}


def has_lists(root: Path) -> bool:
    """Return whether `read_source` would read lists, not all files."""
    return bool(_lists_in(root))


def _walked(root: Path, only: str | None) -> dict[str, list["Row"]]:
    from mvrec.data.listing.layouts import skipped_text
    from mvrec.data.listing.lists import Row

    rows: dict[str, list[Row]] = {}
    skipped: list[str] = []
    for name in media_files(root, only=only, skipped=skipped):
        parts = name.split("/")
        split = _SPLIT_NAMES.get(parts[0], parts[0])
        inner = parts[1:-1] if split in SPLITS and len(parts) > 1 else parts[:-1]
        split = split if split in SPLITS and len(parts) > 1 else NO_SPLIT
        rows.setdefault(split, []).append(Row(name, inner[0] if inner else "", source=str(root)))
    if skipped:
        print(skipped_text(root, skipped, only or "video or image"), file=sys.stderr)
    return rows


def media_files(root: Path, *, only: str | None = None, skipped: list[str] | None = None) -> Iterator[str]:
    """Yield the paths of all videos and images below a folder, relative to it, sorted; skip names with a dot first.

    Links to folders are followed, but not in circles. A broken link counts as a file. `skipped` receives the paths
    of other files.
    """
    return _media_below(os.fspath(root), "", only, frozenset(), [] if skipped is None else skipped)


def _media_below(
    folder: str, prefix: str, only: str | None, above: frozenset[tuple[int, int]], skipped: list[str]
) -> Iterator[str]:
    try:
        status = os.stat(folder)  # noqa: PTH116 - a Path for each of a million files costs seconds
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _media_below(entry.path, f"{prefix}{entry.name}/", only, above | {identity}, skipped)
        elif (kind := media_kind(entry.name, prefer=only or "video")) is not None and only in (None, kind):
            yield f"{prefix}{entry.name}"
        else:
            skipped.append(f"{prefix}{entry.name}")


def media_kind(name: str, *, prefer: str = "video") -> str | None:
    """Return the kind of file by its name: "video", "image", `prefer` if it may be both, or `None` if neither."""
    from mvrec.data.listing.file_kinds import IMAGES, VIDEOS

    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path each costs seconds
    if extension in IMAGES.extensions and extension in VIDEOS.extensions:
        return prefer
    if extension in IMAGES.extensions:
        return "image"
    return "video" if extension in VIDEOS.extensions else None


def file_of(root: Path, row: "Row") -> "FilePath":
    """Return the file of a row: a path, or the member of a tar.

    Raises:
        UserError: The row has an offset, but no tar in its path.
    """
    from mvrec.data.listing.archive import ArchiveMember

    if row.offset < 0:
        return root / row.path
    place = -1
    while (place := row.path.find(".tar/", place + 1)) >= 0:
        archive = root / row.path[: place + len(".tar")]
        if not archive.is_dir():  # a missing tar is reported as a missing file
            return ArchiveMember(archive, row.path[place + len(".tar/") :], row.offset, row.size)
    raise UserError(f"{row.where}: {row.path!r} has an offset, but no part of it is a tar")


def archive_of(file: "FilePath") -> Path:
    """Return the file on disk that holds a file: the tar of a member."""
    from mvrec.data.listing.archive import ArchiveMember

    return file.archive if isinstance(file, ArchiveMember) else Path(file)


def compare_with_promise(file: "FilePath", seconds: float) -> None:
    """Raise `DecodeError` if a file's header promises a clearly longer video than it has.

    A Matroska or WebM file that was cut between two frames is otherwise a valid, shorter video. Frames that a camera
    dropped are not a fault: the end of the last frame counts, not the number of frames.
    """
    import av

    from mvrec.data.video.containers import has_jumps, open_container, shown_stream
    from mvrec.data.video.opening import source_of

    try:
        with open_container(source_of(file).for_ffmpeg()) as container:
            stream = shown_stream(container)
            promised = 0.0
            if has_jumps(container):  # it promises nothing: FFmpeg takes the last time for the end
                return
            if stream is not None and stream.duration and stream.time_base:
                promised = float(stream.duration * stream.time_base)
            elif len(container.streams) == 1 and container.duration:  # otherwise it may be the sound's duration
                promised = container.duration / av.time_base
                if "matroska" in container.format.name:  # its duration counts from 0, whatever the first frame's time
                    promised -= max(container.start_time or 0, 0) / av.time_base
    except av.FFmpegError as error:
        raise DecodeError(file, error.strerror or str(error)) from error
    if seconds < promised - max(_TOLERATED_SECONDS, _TOLERATED_SHARE * promised):
        raise DecodeError(file, f"cut short: {seconds:.2f} of {promised:.2f} s are there")


def load_decoders() -> None:
    """Import the decoders, before forked processes would each import them."""
    import av  # noqa: F401

    import mvrec.data.loading.images
    import mvrec.data.video.video  # noqa: F401

    if importlib.util.find_spec("decord") is not None:
        import decord  # noqa: F401
