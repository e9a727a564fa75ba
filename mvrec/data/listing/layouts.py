"""Layouts of data sets on disk: where a split's rows come from."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.class_names import ClassNames
from mvrec.data.listing.file_kinds import VIDEOS, Kind
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row, is_youtube_csv, read_rows
from mvrec.data.listing.row_targets import TargetOf
from mvrec.errors import UserError

SPLITS = ("train", "val", "test")
# What systems and editors leave in folders.
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
NAMED = 5  # files that a message names
PROBED = 20  # rows of a list whose files are looked for, to find the folder that its paths are relative to

log = logging.getLogger(__name__)


class Layout(ABC):
    """A data set on disk: its splits and their rows.

    Args:
        root: Where the files are.
        kind: What sort of files they are.

    Attributes:
        title: What messages call the layout.
        notes: What there is to say of rows that have been read, with the level of each. `index` logs them when it
            has succeeded, so that a fault of input stays one line.
    """

    title: ClassVar[str]

    def __init__(self, root: Path, kind: Kind) -> None:
        self.root, self.kind = root, kind
        self.notes: list[tuple[int, str]] = []
        self._skipped_said: set[Path] = set()  # folders

    def rows_of_folders(self, folder: Path) -> Iterator[Row]:
        """`scan_class_folders`, with a note of the files that are skipped, once."""
        skipped: list[str] = []
        yield from scan_class_folders(folder, kind=self.kind, root=self.root, skipped=skipped)
        if skipped and folder not in self._skipped_said:
            self._skipped_said.add(folder)
            self.notes.append((logging.WARNING, skipped_text(folder, skipped, f"{self.kind.noun} of a class")))

    @abstractmethod
    def has(self, split: str) -> bool:
        """Return whether there is such a split."""

    @abstractmethod
    def rows(self, split: str) -> Iterable[Row]:
        """Return the rows of a split that is there.

        Raises:
            UserError: A malformed list, a class folder without files.
        """

    @abstractmethod
    def expected(self) -> str:
        """Where a split's files are looked for, for messages."""

    def place(self, split: str) -> str:
        """Where a split's rows come from, for messages."""
        return f"{self.root}/{split}"

    def describe(self) -> str:
        """Return the layout and where its splits come from, in a line."""
        splits = [f"{split} from {self.place(split)}" for split in SPLITS if self.has(split)]
        return f"{self.title}: {', '.join(splits)}"

    def missing(self, split: str) -> str:
        """What was looked for in vain where a data set lacks a split."""
        return f"expected {self.expected()}"

    def class_names(self) -> list[str]:
        """Return the names in label order where the layout itself holds them, else an empty list."""
        return read_class_names(self.root / "classes.txt")

    def index(
        self, split: str, *, class_names: Sequence[str] | ClassNames | None, target_of: TargetOf | None = None
    ) -> SampleIndex | None:
        """Return the samples of a split; `None` when there is none. See `SampleIndex` for the other arguments.

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
    """Lists `<split>.csv` or `<split>.txt`; for a split without one its folder `<split>/<class name>/<file>`.

    Args:
        root: Paths in lists are relative to it.
        kind: What sort of files they are.
        annotations: The folder of the lists; the root itself by default.
        lists: Whether lists count.
        folders: Where the folders of the splits are, below the root; `None` when folders do not count.
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
        """Return the list of a split, where lists count and there is one."""
        if not self._with_lists:
            return None
        # The last is what mmaction2 calls its lists: kinetics400_train_list_videos.txt.
        named = (self.annotations / f"{split}.csv", self.annotations / f"{split}.txt")
        found = [path for path in named if path.is_file() and not is_youtube_csv(path)] or sorted(
            self.annotations.glob(f"*_{split}_list_videos.txt")
        )
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both lists of {split}: leave one of them there")
        return found[0] if found else None

    def folder_of(self, split: str) -> Path | None:
        """Return the folder of a split, where folders count and there is one."""
        folder = None if self._folders is None else self.root / self._folders / split
        return folder if folder is not None and folder.is_dir() else None

    def has(self, split: str) -> bool:
        """Return whether there is a list or a folder."""
        return self.list_of(split) is not None or self.folder_of(split) is not None

    def place(self, split: str) -> str:
        """Return the list or the folder."""
        return str(self.list_of(split) or self.folder_of(split))

    def missing(self, split: str) -> str:
        """Return the list and the folder."""
        sought = [f"a list {split}.csv"] if self._with_lists else []
        sought += [f"a folder {split}/"] if self._folders is not None else []
        return f"neither {' nor '.join(sought)}" if len(sought) > 1 else f"not {sought[0]}"

    def rows(self, split: str) -> Iterable[Row]:
        """Return the rows of the list, else those of the folder."""
        listed, folder = self.list_of(split), self.folder_of(split)
        if listed is not None:
            return placed_rows(self.root, split, read_rows(listed), self.notes)
        assert folder is not None
        return self.rows_of_folders(folder)

    def expected(self) -> str:
        """Return the folders and the lists."""
        noun, below = self.kind.noun, f"{self.root}/{self._folders}/".replace("//", "/")
        folders = f"{below}train/<class name>/<{noun}> and the same for val and test"
        lists = f"the lists train.csv, val.csv and test.csv in {self.annotations}"
        return " or ".join(
            text for text, counts in ((folders, self._folders is not None), (lists, self._with_lists)) if counts
        )


def placed_rows(root: Path, split: str, rows: Iterator[Row], notes: list[tuple[int, str]]) -> Iterator[Row]:
    """Yield rows of a list with paths relative to its data set, also where the list's are relative to a folder in it.

    Args:
        root: Where the data set is.
        split: What the list is of.
        rows: The rows as read.
        notes: Takes what there is to say, with its level.
    """
    probed = list(islice(rows, PROBED))
    prefix = find_prefix(root, split, probed)
    if prefix is None:
        first = root / probed[0].path
        text = f"{probed[0].where}: not one of the first {len(probed)} files is there, such as {first}"
        notes.append((logging.WARNING, text))
    elif prefix:
        text = f"{probed[0].source}: its paths are taken to be relative to {root}/{prefix}"
        notes.append((logging.INFO, text))
    for row in chain(probed, rows):
        yield row._replace(path=f"{prefix}{row.path}") if prefix and not row.path.startswith("/") else row


def find_prefix(root: Path, split: str, rows: Sequence[Row]) -> str | None:
    """What paths of a list have to begin with to be relative to the root; `None` where not one of these files is there.

    Args:
        root: Where the list or its data set is.
        split: What the list is of.
        rows: Some of its rows.
    """
    files = [row for row in rows if row.offset < 0]
    if not files:
        return ""
    relative = [row for row in files if not row.path.startswith("/")]
    for prefix in ("", f"{split}/", f"videos/{split}/", f"videos_{split}/", "videos/"):
        if any((root / f"{prefix}{row.path}").is_file() for row in relative):
            return prefix  # the first that has any: the root before all others
    return "" if any((root / row.path).is_file() for row in files) else None


def check_root(root: Path) -> None:
    """Raises `UserError` when the root of a data set is not a folder."""
    if not root.is_dir():
        raise UserError(f"data root {str(root)!r} is not a directory")


def find_split(
    root: Path, split: str, *, class_names: Sequence[str] | None = None, kind: Kind = VIDEOS
) -> SampleIndex | None:
    """Return the samples of one split in `ListsAndFolders`, or `None` when there is no such split.

    Class names come from the argument, else from `root/classes.txt`, else from what the split itself holds.

    Raises:
        UserError: No such root, an empty split, a class folder without files of that kind, or a malformed list.
    """
    check_root(root)
    layout = ListsAndFolders(root, kind)
    return layout.index(split, class_names=class_names if class_names is not None else layout.class_names() or None)


def scan_class_folders(
    folder: Path, *, kind: Kind = VIDEOS, root: Path | None = None, skipped: list[str] | None = None
) -> Iterator[Row]:
    """Yield rows of `folder/<class name>/<file>`, sorted; hidden files and files of another kind are skipped.

    Only directories are read, no file is opened, so a tree of any size is listed quickly.

    Args:
        folder: The folder of a split.
        kind: What sort of files count.
        root: What the paths of the rows are relative to; the folder above by default.
        skipped: Takes the names of what is skipped, relative to the folder.

    Raises:
        UserError: No class folders, or one without files.
    """
    skipped = [] if skipped is None else skipped
    skipped += sorted(filter(None, (_skipped_beside_classes(entry, kind) for entry in entries_of(folder))))
    prefix = folder.name if root is None else folder.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    classes = class_folders(folder)
    if not classes:
        raise UserError(f"{folder}: no class folders in it (expected {folder}/<class name>/<{kind.noun}>)")
    for name in classes:
        where = str(folder / name)
        found = False
        for file in files_below(where, kind, skipped=skipped, skipped_prefix=f"{name}/"):
            found = True
            yield Row(f"{prefix}{name}/{file}", name, source=where)
        if not found:
            looked_for = " ".join(sorted(kind.extensions))
            others = [file for file in skipped if file.startswith(f"{name}/")]
            there = f"; there is {_some(others)}" if others else ""
            raise UserError(f"{where}: no {kind.noun}s in this class folder (looked for {looked_for}{there})")


def first_folder(root: Path, names: Iterable[str]) -> Path:
    """Return the first of some folders below the root that is there; the root itself otherwise."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def class_folders(folder: Path) -> list[str]:
    """Return names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in visible(folder) if _is_folder(entry))


def files_below(
    folder: str, kind: Kind, prefix: str = "", *, skipped: list[str] | None = None, skipped_prefix: str = ""
) -> Iterator[str]:
    """Yield names of the files of a kind in a folder, sorted; files in nested folders come after those beside them.

    `skipped` takes the names of the others: of another kind, hidden ones, and folders where none are looked into.
    """
    files: list[str] = []
    folders: list[str] = []
    others: list[str] = []
    for entry in entries_of(folder):
        # A name with the ending of a file is most often one: asking for the folders first would cost a look at each.
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
    """What there is to say of the files in a folder that are not what is looked for, of which there is one at least."""
    count = f"{len(skipped)} files" if len(skipped) > 1 else "1 file"
    return f"{folder}: {count} skipped, by the name no {noun}: {_some(skipped)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _skipped_beside_classes(entry: os.DirEntry[str], kind: Kind) -> str | None:
    """What there is to say of an entry beside the class folders: a file that lies too high, a folder left out."""
    if entry.is_symlink() and not Path(entry.path).exists():
        return f"{entry.name} (a link that leads nowhere)"
    if entry.name.startswith("."):
        is_class_like = entry.name not in LITTER and _is_folder(entry)
        return f"{entry.name} (a hidden folder)" if is_class_like else None
    return entry.name if _is_named_like(entry.name, kind) and not _is_folder(entry) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _leads_back(entry: os.DirEntry[str], folder: str) -> bool:
    """Return whether a folder is a link to one of its own parents: following it would list all files endlessly."""
    if not entry.is_symlink():
        return False
    here, there = os.path.realpath(folder), os.path.realpath(entry.path)
    return os.path.commonpath([here, there]) == there


def _is_named_like(name: str, kind: Kind) -> bool:
    return os.path.splitext(name)[1].lower() in kind.extensions  # noqa: PTH122 - a Path each costs seconds


def visible(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder but for dot-files; `._*` are what macOS leaves in archives.

    Raises:
        UserError: The folder may not be read.
    """
    return (entry for entry in entries_of(folder) if not entry.name.startswith("."))


def entries_of(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yield all that is in a folder.

    Raises:
        UserError: The folder may not be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None
