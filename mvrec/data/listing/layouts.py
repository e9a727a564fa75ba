"""Layouts of data sets on disk: the sources of a split's rows."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.class_names import ClassNames
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS, Kind
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row, is_youtube_csv, read_rows
from mvrec.data.listing.root import check_root
from mvrec.data.listing.row_targets import TargetOf
from mvrec.errors import UserError

SPLITS = ("train", "val", "test")
# Files that systems and editors leave in folders.
LITTER = frozenset(
    [
        ".DS_Store",
        ".gitkeep",
        ".gitignore",
        ".gitattributes",
        ".git",
        ".directory",
        ".nomedia",
        ".localized",
        ".ipynb_checkpoints",
        ".cache",
        ".Trashes",
        ".Spotlight-V100",
        ".fseventsd",
        ".AppleDouble",
        ".dvc",
        ".dvcignore",
    ]
)
NAMED = 5  # files named in a message
PROBED = 20  # rows of a list whose files are checked, to find the folder to which its paths are relative

log = logging.getLogger(__name__)


class Layout(ABC):
    """A data set on disk: its splits and their rows.

    Args:
        root: The folder of the data set.
        kind: The kind of its files.

    Attributes:
        title: The name of the layout in messages.
        notes: Log messages about the rows read so far, with their levels. `index` logs them after success only, so that
            a fault of input stays one line.
    """

    title: ClassVar[str]
    splits_files: ClassVar[bool] = False  # whether mvrec makes the validation split

    def __init__(self, root: Path, kind: Kind) -> None:
        self.root, self.kind = root, kind
        self.notes: list[tuple[int, str]] = []
        self._reported: set[Path] = set()  # folders whose skipped files are reported

    def rows_of_folders(self, folder: Path) -> Iterator[Row]:
        """Yield the rows of `scan_class_folders`, and note the skipped files once."""
        skipped: list[str] = []
        yield from scan_class_folders(folder, kind=self.kind, root=self.root, skipped=skipped)
        if skipped and folder not in self._reported:
            self._reported.add(folder)
            self.notes.append((logging.WARNING, skipped_text(folder, skipped, f"{self.kind.noun} of a class")))

    @abstractmethod
    def has(self, split: str) -> bool:
        """Return whether the split exists."""

    @abstractmethod
    def rows(self, split: str) -> Iterable[Row]:
        """Return the rows of an existing split.

        Raises:
            UserError: A malformed list, or a class folder without files.
        """

    @abstractmethod
    def expected(self) -> str:
        """Return where a split's files should be, for messages."""

    def place(self, split: str) -> str:
        """Return the source of a split's rows, for messages."""
        return f"{self.root}/{split}"

    def describe(self) -> str:
        """Describe the layout and the sources of its splits in one line."""
        splits = [f"{split} from {self.place(split)}" for split in SPLITS if self.has(split)]
        return f"{self.title}: {', '.join(splits)}"

    def missing(self, split: str) -> str:
        """Return what a missing split should have looked like."""
        return f"expected {self.expected()}"

    def class_names(self) -> list[str]:
        """Return the names in label order if the layout has them, else an empty list."""
        return read_class_names(self.root / "classes.txt")

    def index(
        self, split: str, *, class_names: Sequence[str] | ClassNames | None, target_of: TargetOf | None = None
    ) -> SampleIndex | None:
        """Return the samples of a split; `None` without such a split. See `SampleIndex` for the other arguments.

        Raises:
            UserError: As `rows`, as `SampleIndex`, or a split without rows.
        """
        if not self.has(split):
            return None
        rows = iter(self.rows(split))
        first = next(rows, None)
        if first is None:
            raise UserError(f"{self.place(split)}: no {self.kind.noun}s in it")
        index = SampleIndex(
            chain([first], rows), root=self.root, class_names=class_names, name=split, target_of=target_of
        )
        for level, text in self.notes:
            log.log(level, "%s", text)
        self.notes.clear()
        return index


class ListsAndFolders(Layout):
    """Lists `<split>.csv`, `.tsv` or `.txt`; for a split without one its folder `<split>/<class name>/<file>`.

    Args:
        root: The folder to which paths in lists are relative.
        kind: The kind of the files.
        annotations: The folder of the lists; the root itself by default.
        lists: Whether to read lists.
        folders: The parent of the splits' folders, below the root; `None` ignores folders.
    """

    title = "lists and folders"

    def __init__(
        self,
        root: Path,
        kind: Kind,
        *,
        annotations: Path | None = None,
        lists: bool = True,
        folders: str | None = "",
    ) -> None:
        super().__init__(root, kind)
        self.annotations = annotations or root
        self._with_lists, self._folders = lists, folders

    def list_of(self, split: str) -> Path | None:
        """Return the list of a split; `None` without one, or if lists are ignored."""
        if not self._with_lists:
            return None
        # The last is mmaction2's name of a list: kinetics400_train_list_videos.txt.
        named = [self.annotations / f"{split}{ending}" for ending in (".csv", ".tsv", ".txt")]
        lists = [path for path in named if path.is_file() and not is_youtube_csv(path)] or sorted(
            self.annotations.glob(f"*_{split}_list_videos.txt")
        )
        if len(lists) > 1:
            raise UserError(f"{lists[0]} and {lists[1]} are both lists of {split}: remove one of them")
        return lists[0] if lists else None

    def folder_of(self, split: str) -> Path | None:
        """Return the folder of a split; `None` without one, or if folders are ignored."""
        folder = None if self._folders is None else self.root / self._folders / split
        return folder if folder is not None and folder.is_dir() else None

    def has(self, split: str) -> bool:
        """Return whether the split has a list or a folder."""
        return self.list_of(split) is not None or self.folder_of(split) is not None

    def place(self, split: str) -> str:
        """Return the list or the folder of a split."""
        return str(self.list_of(split) or self.folder_of(split))

    def missing(self, split: str) -> str:
        """Return the names of the missing list and folder."""
        places = [f"a list {split}.csv"] if self._with_lists else []
        places += [f"a folder {split}/"] if self._folders is not None else []
        return f"neither {' nor '.join(places)}" if len(places) > 1 else f"not {places[0]}"

    def rows(self, split: str) -> Iterable[Row]:
        """Return the rows of the list, or of the folder without a list."""
        listed, folder = self.list_of(split), self.folder_of(split)
        if listed is not None:
            return placed_rows(self.root, split, read_rows(listed), self.notes)
        assert folder is not None
        return self.rows_of_folders(folder)

    def expected(self) -> str:
        """Return the expected folders and lists."""
        noun, below = self.kind.noun, f"{self.root}/{self._folders}/".replace("//", "/")
        folders = f"{below}train/<class name>/<{noun}> and the same for val and test"
        lists = f"the lists train.csv, val.csv and test.csv in {self.annotations}"
        return " or ".join(
            text for text, counts in ((folders, self._folders is not None), (lists, self._with_lists)) if counts
        )


def placed_rows(root: Path, split: str, rows: Iterator[Row], notes: list[tuple[int, str]]) -> Iterator[Row]:
    """Yield rows of a list with paths relative to its data set, even if the list's are relative to a folder in it.

    Args:
        root: The folder of the data set.
        split: The split of the list.
        rows: The rows as read.
        notes: Receives log messages, with their levels.
    """
    probed = list(islice(rows, PROBED))
    prefix = find_prefix(root, split, probed)
    if prefix is None:
        first = root / probed[0].path
        text = f"{probed[0].where}: none of the first {len(probed)} files exists, such as {first}"
        notes.append((logging.WARNING, text))
    elif prefix:
        text = f"{probed[0].source}: taking its paths as relative to {root}/{prefix}"
        notes.append((logging.INFO, text))
    for row in chain(probed, rows):
        yield row._replace(path=f"{prefix}{row.path}") if prefix and not row.path.startswith("/") else row


def find_prefix(root: Path, split: str, rows: Sequence[Row]) -> str | None:
    """Return the prefix that makes a list's paths relative to the root; `None` if no file exists.

    Args:
        root: The folder of the list or its data set.
        split: The split of the list.
        rows: Some of its rows.
    """
    files = [row for row in rows if row.offset < 0]
    if not files:
        return ""
    relative = [row for row in files if not row.path.startswith("/")]
    for prefix in ("", f"{split}/", f"videos/{split}/", f"videos_{split}/", "videos/"):
        if any((root / f"{prefix}{row.path}").is_file() for row in relative):
            return prefix  # the first with any file; the root comes first
    return "" if any((root / row.path).is_file() for row in files) else None


def find_split(
    root: Path, split: str, *, class_names: Sequence[str] | None = None, kind: Kind = VIDEOS
) -> SampleIndex | None:
    """Return the samples of one split in `ListsAndFolders`, or `None` without such a split.

    Class names come from the argument, else from `root/classes.txt`, else from the split itself.

    Raises:
        UserError: The root is missing, the split empty, a class folder has no file of that kind, or a list is
            malformed.
    """
    check_root(root)
    layout = ListsAndFolders(root, kind)
    return layout.index(split, class_names=class_names if class_names is not None else layout.class_names() or None)


def scan_class_folders(
    folder: Path, *, kind: Kind = VIDEOS, root: Path | None = None, skipped: list[str] | None = None
) -> Iterator[Row]:
    """Yield rows of `folder/<class name>/<file>`, sorted; skip hidden files and files of another kind.

    Only directories are read and no file is opened, so a tree of any size is listed quickly.

    Args:
        folder: The folder of a split.
        kind: The kind of files to list.
        root: The folder to which the rows' paths are relative; the parent folder by default.
        skipped: Receives the names of skipped files, relative to the folder.

    Raises:
        UserError: There are no class folders, or one has no files.
    """
    skipped = [] if skipped is None else skipped
    skipped += sorted(filter(None, (_skipped_at_class_level(entry, kind) for entry in entries_of(folder))))
    prefix = folder.name if root is None else folder.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    classes = class_folders(folder)
    if not classes:
        raise UserError(f"{folder}: no class folders in it (expected {folder}/<class name>/<{kind.noun}>)")
    for name in classes:
        where = str(folder / name)
        has_files = False
        for file in files_below(where, kind, skipped=skipped, skipped_prefix=f"{name}/"):
            has_files = True
            yield Row(f"{prefix}{name}/{file}", name, source=where)
        if not has_files:
            others = [file for file in skipped if file.startswith(f"{name}/")]
            raise UserError(f"{where}: no {kind.noun}s in this class folder{_instead(others, kind)}")


def _instead(others: list[str], kind: Kind) -> str:
    """Say what a class folder holds in place of files of a kind, and what to do."""
    other_kind, data = (IMAGES, "ImageFolder") if kind is VIDEOS else (VIDEOS, "VideoFolder")
    swapped = [file for file in others if Path(file).suffix.lower() in other_kind.extensions - kind.extensions]
    if swapped:
        noun = other_kind.noun
        return f" but {noun}s ({_some(swapped)}): {noun}s take --data {data} and a network for {noun}s (mvrec models)"
    if not others:
        return ", it is empty: remove it, or put some in"
    return f" (looked for {' '.join(sorted(kind.extensions))}; there is {_some(others)})"


def first_folder(root: Path, names: Iterable[str]) -> Path:
    """Return the first existing of some folders below the root; the root itself otherwise."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def class_folders(folder: Path) -> list[str]:
    """Return names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in visible(folder) if _is_folder(entry))


def files_below(
    folder: str, kind: Kind, prefix: str = "", *, skipped: list[str] | None = None, skipped_prefix: str = ""
) -> Iterator[str]:
    """Yield names of a folder's files of a kind, sorted; nested files come after those of the folder itself.

    `skipped` receives the names of the others: of another kind, hidden, or folders that are not searched.
    """
    files: list[str] = []
    folders: list[str] = []
    others: list[str] = []
    for entry in entries_of(folder):
        # A name with a file's ending is mostly a file: testing for folders first would cost a system call each.
        if entry.name.startswith("."):
            if entry.name not in LITTER:
                others.append(entry.name)
        elif _is_named_like(entry.name, kind) and not _is_folder(entry):
            files.append(prefix + entry.name)
        elif kind.nested and _is_folder(entry) and not _leads_back(entry, folder):
            folders.append(entry.name)
        else:
            others.append(entry.name)
    if skipped is not None:
        skipped += [f"{skipped_prefix}{prefix}{name}" for name in sorted(others)]
    yield from sorted(files)
    for name in sorted(folders):
        below = f"{prefix}{name}/"
        yield from files_below(f"{folder}/{name}", kind, below, skipped=skipped, skipped_prefix=skipped_prefix)


def skipped_text(folder: Path, skipped: Sequence[str], noun: str) -> str:
    """Return a line about the skipped files of a folder; there is at least one."""
    count = f"{len(skipped)} files" if len(skipped) > 1 else "1 file"
    return f"{folder}: {count} skipped, by the name no {noun}: {_some(skipped)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _skipped_at_class_level(entry: os.DirEntry[str], kind: Kind) -> str | None:
    """Return a line about a skipped entry next to the class folders: a file at the wrong level, or a folder."""
    if entry.is_symlink() and not Path(entry.path).exists():
        return f"{entry.name} (a broken link)"
    if entry.name.startswith("."):
        is_class_like = entry.name not in LITTER and _is_folder(entry)
        return f"{entry.name} (a hidden folder)" if is_class_like else None
    return entry.name if _is_named_like(entry.name, kind) and not _is_folder(entry) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # circular links
        return False


def _leads_back(entry: os.DirEntry[str], folder: str) -> bool:
    """Return whether a folder is a link to one of its own parents: following it would list all files endlessly."""
    if not entry.is_symlink():
        return False
    parent, target = os.path.realpath(folder), os.path.realpath(entry.path)
    return os.path.commonpath([parent, target]) == target


def _is_named_like(name: str, kind: Kind) -> bool:
    return os.path.splitext(name)[1].lower() in kind.extensions  # noqa: PTH122 - a Path each costs seconds


def visible(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Return the entries of a folder without dot-files; macOS leaves `._*` in archives.

    Raises:
        UserError: The folder is not readable.
    """
    return (entry for entry in entries_of(folder) if not entry.name.startswith("."))


def entries_of(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yield all entries of a folder.

    Raises:
        UserError: The folder is not readable.
    """
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None
