"""The lists of boxes in a root, by their names and first lines; needs no torch."""

from collections.abc import Iterator
from pathlib import Path

from mvrec.data.listing.boxes.ava import is_ava
from mvrec.data.listing.boxes.cvat import is_cvat
from mvrec.data.listing.boxes.own import is_own
from mvrec.data.listing.lists import open_text
from mvrec.errors import UserError

ENDINGS = (".csv", ".tsv", ".xml")
SPLITS = ("train", "val", "test")
WHOLE = ("boxes", "annotations")  # names of the one list of a root without splits
# Public data sets by the files of their releases, with the data modules that read them.
RELEASES = {
    "AVA": ("ava_train_v2.*.csv", "annotations/ava_train_v2.*.csv"),
    "UCF101_24": ("UCF101v2-GT.pkl", "UCF101-GT.pkl"),
    "JHMDB": ("JHMDB-GT.pkl",),
}


def release_of(root: Path) -> str | None:
    """Return the data module of the public data set whose release is in a root; `None` for any other."""
    for name, patterns in RELEASES.items():
        if any(any(root.glob(pattern)) for pattern in patterns):
            return name
    return None


def lists_in(folder: Path) -> list[Path]:
    """Return the lists of a folder, sorted, without hidden files."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != ".")


def is_box_list(path: Path) -> bool:
    """Return whether a file is a list of boxes, or a folder's first list is.

    Raises:
        UserError: It cannot be opened.
    """
    if path.is_dir():
        return any(is_box_list(entry) for entry in lists_in(path)[:1])
    if path.suffix.lower() == ".xml" or is_cvat(path):
        return is_cvat(path)
    with open_text(path) as file:
        line = file.readline()
    return is_own(line) or is_ava(line)


def find_lists(root: Path) -> dict[str, Path]:
    """Return the list of boxes of each split, or the one for all with the key "": files, or folders of lists.

    Raises:
        UserError: A split has two lists.
    """
    lists = {split: path for split in SPLITS if (path := _only(root, split)) is not None}
    whole = None if lists else next((path for stem in WHOLE if (path := _only(root, stem)) is not None), None)
    return lists if whole is None else {"": whole}


def has_boxes(root: Path) -> bool:
    """Return whether a root has boxes to train on: lists of its own, not the release of a public data set.

    A list that is named for boxes is one, whatever it holds, so that its faults are named.

    Raises:
        UserError: A list cannot be opened.
    """
    named, *others = (list(_candidates(root, stem)) for stem in (WHOLE[0], *WHOLE[1:], "train"))
    return release_of(root) is None and (bool(named) or any(is_box_list(path) for paths in others for path in paths))


def _candidates(root: Path, stem: str) -> Iterator[Path]:
    """Yield the lists of a name, and the folder of this name if it holds lists."""
    yield from (path for ending in ENDINGS if (path := root / f"{stem}{ending}").is_file())
    if lists_in(root / stem):
        yield root / stem


def _only(root: Path, stem: str) -> Path | None:
    paths = [*_candidates(root, stem)]
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]} are both lists of boxes: remove one of them")
    return paths[0] if paths else None
