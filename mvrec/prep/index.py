"""From any layout of a data set to lists and classes.txt, with missing, repeated and leaking files.

Annotations of objects in images become COCO JSON, `train.json` and so on.
"""

import functools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError
from mvrec.files import at_home, remove_leftovers, write_atomically
from mvrec.messages import CommandParser
from mvrec.prep import boxes, console, masks, objects, sources
from mvrec.prep.console import shown
from mvrec.prep.journal import Journal, write_json
from mvrec.prep.repeats import Place, Repeats, find_repeats
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.layouts import Layout
    from mvrec.data.listing.lists import Row

LAYOUTS = (
    "auto",
    "kinetics",
    "ucf101",
    "hmdb51",
    "ssv2",
    "imagenet",
    "videos",
    "images",
    *masks.LAYOUTS,
    *objects.LAYOUTS,
    *boxes.LAYOUTS,
)
_NAMED = 10


def find_layout(
    root: Path,
    name: str = "auto",
    *,
    annotations: Path | None = None,
    number: int = 1,
    val_fraction: float | None = None,
    group: str = "auto",
) -> "Layout":
    """Return the layout of a data set on disk.

    Args:
        root: The data set.
        name: One of `LAYOUTS`; "auto" takes the first one with a split.
        annotations: The folder of its lists, if it is not the usual one.
        number: The number of the official split of UCF101 and HMDB51.
        val_fraction: Share of val for class folders without splits; by default that of `mvrec fit --data.root`.
        group: Files that such a split keeps together; see `groups`.

    Raises:
        UserError: The folder is missing, or has no known layout.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    split = {"val_fraction": val_fraction, "group": group}
    for candidate in _candidates(root, name, annotations=annotations, number=number, split=split):
        if any(candidate.has(split) for split in sources.SPLITS):
            return candidate
    raise UserError(
        f"{root}: no layout that is known{'' if name == 'auto' else f' as {name}'}; --layout names the known ones"
    )


def _candidates(
    root: Path, name: str, *, annotations: Path | None, number: int, split: dict[str, Any]
) -> Iterator["Layout"]:
    from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
    from mvrec.data.sets.folder import find_folder_layout
    from mvrec.data.sets.hmdb51 import HMDB51Lists
    from mvrec.data.sets.imagenet import ImageNetLayout
    from mvrec.data.sets.kinetics_layouts import find_kinetics_layout
    from mvrec.data.sets.something_something import SomethingSomethingLists
    from mvrec.data.sets.ucf101 import UCF101Lists

    def includes(*names: str) -> bool:
        return name in names

    if includes("auto", "ucf101"):
        yield UCF101Lists(root, split=number, annotations=annotations)
    if includes("auto", "hmdb51"):
        yield HMDB51Lists(root, split=number, annotations=annotations)
    if includes("auto", "ssv2"):
        yield SomethingSomethingLists(root, annotations=annotations)
    holds_images = includes("auto") and _holds_images(root)
    if includes("imagenet") or holds_images:
        yield ImageNetLayout(root)
    if includes("kinetics") or (includes("auto") and not holds_images):
        yield find_kinetics_layout(root, annotations=annotations)
    if includes("auto", "videos", "images"):
        kind = IMAGES if includes("images") or holds_images else VIDEOS
        yield find_folder_layout(root, kind, **split)


def _holds_images(root: Path) -> bool:
    """Return whether a data set has images: by ImageNet's tars, its first row, or its first file."""
    if any(root.glob("ILSVRC2012_img_*.tar")):
        return True
    try:
        source = sources.read_source(root) if sources.has_lists(root) else None
    except UserError:  # another kind of list; its reader will report the fault
        source = None
    names = (row.path for rows in source.rows.values() for row in rows) if source else sources.media_files(root)
    kinds = (sources.media_kind(name, prefer="") for name in names)  # a GIF says nothing
    return next((kind == "image" for kind in kinds if kind), False)


@dataclass
class Split:
    """The files of a split.

    Attributes:
        place: The source of its rows.
        rows: Rows with an existing file.
        missing: The others: label (in a multi-label list all of them, joined) and the missing path.
    """

    place: str
    rows: list["Row"] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    multi_label: bool = False

    @property
    def expected(self) -> int:
        """The number of rows, including those with a missing file."""
        return len(self.rows) + len(self.missing)

    def missing_labels(self) -> Iterator[str]:
        """Yield every label of every missing file."""
        from mvrec.data.listing.lists import Row

        for label, path in self.missing:
            yield from Row(path, label, multi_label=self.multi_label).labels


def find_splits(layout: "Layout") -> dict[str, Split]:
    """Return the rows of every split, sorted into those with an existing file and those without.

    Raises:
        UserError: A list is malformed, or a class folder has no files.
    """
    splits: dict[str, Split] = {}
    for name in sources.SPLITS:
        if not layout.has(name):
            continue
        split = Split(layout.place(name))
        listed = set()
        for row in layout.rows(name):
            listed.add(row.line)
            split.multi_label = row.multi_label
            if _is_there(sources.file_of(layout.root, row)):
                split.rows.append(row)
            else:
                split.missing.append((row.label, row.path))
        split.missing += _never_downloaded(layout, name, listed)
        # Where val reads the test list (UCF101, HMDB51) it would leak into itself.
        if all(split.rows != other.rows or split.missing != other.missing for other in splits.values()):
            splits[name] = split
    return splits


def _is_there(file: "FilePath") -> bool:
    from mvrec.data.listing.archive import ArchiveMember

    if isinstance(file, ArchiveMember):
        return file.archive.is_file() and file.archive.stat().st_size >= file.offset + file.size
    return Path(file).is_file()


def _never_downloaded(layout: "Layout", split: str, listed: set[int]) -> list[tuple[str, str]]:
    """Return label and YouTube id of the videos of an annotation CSV without a row."""
    from mvrec.data.listing.lists import csv_lines, open_text
    from mvrec.data.sets.kinetics_layouts import AnnotatedVideos

    path = layout.csv_of(split) if isinstance(layout, AnnotatedVideos) else None
    if path is None:
        return []
    with open_text(path) as file:
        lines = csv_lines(path, file, delimiter=",")
        columns = [column.lower() for column in next(lines)[1]]
        label, video = columns.index("label"), columns.index("youtube_id")
        return [(fields[label], fields[video]) for line, fields in lines if line not in listed]


# -- output ----------------------------------------------------------------------------------------------------------


def class_names(layout: "Layout", splits: dict[str, Split]) -> list[str]:
    """Return the layout's class names, else those of the training split's labels, or of the first split."""
    from mvrec.data.listing.class_names import class_names_of

    if names := layout.class_names():
        return names
    rows = next(split.rows for split in splits.values())
    return class_names_of({label: row.where for row in reversed(rows) for label in row.labels})


def write_lists(splits: dict[str, Split], names: Sequence[str], root: Path, out: Path) -> list[Path]:
    """Write `<split>.csv` and `classes.txt`; paths below `out` are relative to it, others absolute."""
    from mvrec.data.listing.lists import write_rows

    written = []
    for name, split in splits.items():
        target = out / f"{name}.csv"
        remove_leftovers(target)
        write_rows(target, (row._replace(path=_from(out, root, row.path)) for row in split.rows))
        written.append(target)
    remove_leftovers(out / "classes.txt")
    write_atomically(out / "classes.txt", "".join(f"{name}\n" for name in names))
    return [*written, out / "classes.txt"]


def _from(out: Path, root: Path, path: str) -> str:
    absolute = os.path.abspath(root / path)  # noqa: PTH100 - without following links
    base = os.path.join(os.path.abspath(out), "")  # noqa: PTH100, PTH118
    return absolute.removeprefix(base)


def report(layout: "Layout", splits: dict[str, Split], names: Sequence[str], repeats: Repeats | None) -> dict[str, Any]:
    """Return the content of `report.json`."""
    from mvrec.data.listing.class_names import ClassNames

    classes = ClassNames(names)
    named = functools.cache(lambda label, where: names[classes.number(label, where=where)])
    per_class: dict[str, dict[str, dict[str, int]]] = {}
    for name, split in splits.items():
        available = Counter(named(label, split.place) for row in split.rows for label in row.labels)
        missing = Counter(named(label, split.place) for label in split.missing_labels())
        for label in names:
            counts = {
                "expected": available[label] + missing[label],
                "found": available[label],
                "missing": missing[label],
            }
            per_class.setdefault(label, {})[name] = counts
    content: dict[str, Any] = {
        "layout": layout.title,
        "root": str(layout.root.resolve()),
        "splits": {
            name: {
                "from": split.place,
                "expected": split.expected,
                "found": len(split.rows),
                "missing": len(split.missing),
            }
            for name, split in splits.items()
        },
        "classes": per_class,
        "missing": {name: [[label, path] for label, path in split.missing] for name, split in splits.items()},
    }
    if repeats is not None:
        content["compared_by"] = "content" if repeats.by_content else "path"
        content["unread"] = [list(pair) for pair in repeats.unread]
        for kind in ("duplicates", "leaks", "conflicts"):
            groups: list[list[Place]] = getattr(repeats, kind)
            content[kind] = [
                [{"split": place.split, "path": place.row.path, "label": place.row.label} for place in group]
                for group in groups
            ]
    return content


def summary(content: dict[str, Any]) -> str:
    """Return the tables of a report as text."""
    per_class, splits = content["classes"], content["splits"]
    lines = [
        [name, sum(1 for counts in per_class.values() if counts[name]["found"]), *(counts[k] for k in _COUNTS)]
        for name, counts in splits.items()
    ]
    text = f"{content['layout']} in {shown(content['root'])}\n\n"
    text += console.table(["split", "classes", *_COUNTS], lines)
    worst = sorted(
        ((sum(c["missing"] for c in counts.values()), name, counts) for name, counts in per_class.items()),
        key=lambda entry: (-entry[0], entry[1]),
    )
    worst = [entry for entry in worst if entry[0]][:_NAMED]
    if worst:
        lines = [[shown(name), *(counts[s]["missing"] for s in splits)] for _, name, counts in worst]
        text += "\n\n" + console.table(["most missing", *splits], lines)
    for kind, words in _REPEATS.items():
        groups = content.get(kind, [])
        if groups:
            example = " = ".join(shown(place["path"]) for place in groups[0][:3])
            text += f"\n\n{len(groups)} {words}, for example {example}"
    if content.get("unread"):
        text += f"\n\n{len(content['unread'])} files could not be read, for example {': '.join(content['unread'][0])}"
    return text


_COUNTS = ("expected", "found", "missing")
_REPEATS = {
    "duplicates": "files repeat within a split",
    "leaks": "files are in more than one split",
    "conflicts": "files have more than one class",
}


def arguments() -> CommandParser:
    """Build the parser."""
    parser = console.parser("index", __doc__ or "")
    parser.add_argument("root", type=at_home, help="a data set in any layout")
    parser.add_argument("--out", type=at_home, default=Path("runs/index"), help="folder of lists and report")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="the layout of the data set")
    parser.add_argument("--annotations", type=at_home, help="the folder of its lists or CSVs, if it is elsewhere")
    parser.add_argument(
        "--split-number", type=int, choices=(1, 2, 3), default=1, help="of UCF101, HMDB51, UCF101-24 and JHMDB"
    )
    parser.add_argument(
        "--val-fraction", type=float, help="share of val in folders without splits; by default that of a plan"
    )
    text = "files that stay together in such a split, as data.group names them (default: auto, a guess that is printed)"
    parser.add_argument("--group", default="auto", metavar="RULE", help=text)
    parser.add_argument("--no-hash", action="store_true", help="look only for repeated paths, not for repeated content")
    console.add_limits(parser, seconds=600.0)
    masks.add_arguments(parser)
    boxes.add_arguments(parser)
    return parser


def check_targets(splits: dict[str, Split], out: Path) -> None:
    """Raise `UserError` if a list would overwrite one that is read."""
    for name, split in splits.items():
        target = out / f"{name}.csv"
        if target.exists() and Path(split.place).resolve() == target.resolve():
            raise UserError(f"{target} is a list of this data set and would be overwritten: choose another --out")


def main(words: list[str]) -> int:
    """Index a data set; return the exit code."""
    options = arguments().parse_args(words)
    if options.val_fraction is not None and not 0 <= options.val_fraction < 1:
        raise UserError(f"--val-fraction must lie in 0..1 and not be 1, got {options.val_fraction}")
    from mvrec.data.listing.groups.rules import check_rule

    if (data := masks.find_data(options)) is not None:
        return masks.index(data, options)
    if (annotated := objects.find_data(options)) is not None:
        return objects.index(annotated, options)
    if (boxed := boxes.find_data(options)) is not None:
        return boxes.index(boxed, options)
    layout = find_layout(
        options.root,
        options.layout,
        annotations=options.annotations,
        number=options.split_number,
        val_fraction=options.val_fraction,
        group=check_rule(options.group),
    )
    splits = find_splits(layout)
    for _, note in layout.notes:
        print(note, file=sys.stderr)
    if not any(split.rows for split in splits.values()):
        first = next(iter(splits.values()))
        raise UserError(f"{first.place}: none of its {first.expected} files exists")
    splits = {name: split for name, split in splits.items() if split.rows}
    check_targets(splits, options.out)
    names = class_names(layout, splits)
    if options.dry_run:
        print(summary(report(layout, splits, names, None)))
        print(f"\nlists and report would go to {options.out}; nothing was hashed or written")
        return console.ALL_FINE
    with Journal(options.out / "index.jsonl") as journal:
        limits = Limits(options.timeout, options.memory)
        hashes = None if options.no_hash else journal
        rows = {name: split.rows for name, split in splits.items()}
        repeats = find_repeats(rows, layout.root, hashes, workers=options.workers, limits=limits)
        content = report(layout, splits, names, repeats)
        written = write_lists(splits, names, layout.root, options.out)
        write_json(options.out / "report.json", content)
    print(summary(content))
    print(f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    bad = repeats.leaks or repeats.conflicts or repeats.unread or any(split.missing for split in splits.values())
    return console.SOME_BAD if bad else console.ALL_FINE
