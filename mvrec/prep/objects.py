"""Images with objects: their annotations as COCO JSON, classes, sizes, and faulty boxes and images."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvrec.errors import UserError
from mvrec.files import remove_leftovers
from mvrec.messages import counted
from mvrec.prep import console
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, write_json
from mvrec.prep.repeats import Repeats, find_repeats
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.objects.layouts import ObjectLayout
    from mvrec.data.listing.objects.table import ObjectTable

LAYOUTS = ("objects",)
SIDES = {"small": 0.0, "medium": 32.0, "large": 96.0}  # COCO's sizes by the root of the area, from this on
_NAMED = 20  # classes in the table; report.json has all
_REPEATS = {  # of one image, and of several
    "duplicates": ("image repeats within a split", "images repeat within a split"),
    "leaks": ("image is in more than one split", "images are in more than one split"),
}
# fmt: off
FAULTS = {  # of one image, and of several
    "missing": ("image is missing", "images are missing"),
    "unreadable": ("image cannot be read", "images cannot be read"),
    "size": ("image has another size than its annotations say", "images have other sizes than their annotations say"),
}
# fmt: on


class Images(NamedTuple):
    """The images of all splits, as they are on disk.

    Attributes:
        sizes: Height and width of each by its path.
        faults: The faulty ones by kind, with a text about each.
    """

    sizes: dict[str, tuple[int, int]]
    faults: dict[str, dict[str, str]]


def find_data(options: argparse.Namespace) -> "ObjectLayout | None":
    """Return the layout of a root with objects in images; `None` for a root without.

    Raises:
        UserError: Two annotations of a split, or a malformed file.
    """
    if options.layout not in ("auto", *LAYOUTS) or not options.root.exists():
        return None
    from mvrec.data.listing.objects.finding import find_sources
    from mvrec.data.listing.objects.layouts import find_object_layout
    from mvrec.data.loading.images import image_size

    if options.layout == "auto" and not find_sources(options.root):
        return None
    return find_object_layout(options.root, image_size, val_fraction=options.val_fraction, bad_boxes="drop")


def refuse(root: Path, *, job: str, reason: str) -> None:
    """Refuse a job that would part images from their objects.

    Raises:
        UserError: The root has annotations of objects.
    """
    from mvrec.data.listing.objects.finding import find_sources

    if sources := find_sources(root):
        place = next(iter(sources.values())).place
        raise UserError(f"mvrec prep {job}: {place} has objects of the images in {root}, {reason}")


def index(layout: "ObjectLayout", options: argparse.Namespace) -> int:
    """Write the annotations of a data set as COCO JSON, and what is wrong with them; return the exit code."""
    from mvrec.data.listing.layouts import SPLITS
    from mvrec.data.listing.objects.coco import write_coco
    from mvrec.data.listing.objects.media import relative

    tables = {split: layout.table(split) for split in SPLITS if layout.has(split)}
    for _, note in layout.notes:
        print(shown(note), file=sys.stderr)
    images = _images(layout.root, tables, options)
    tables = {split: _sized(table, images.sizes) for split, table in tables.items()}
    good = {split: _good(table, images) for split, table in tables.items()}
    if options.dry_run:
        print(summary(report(layout, tables, images, None)))
        print(f"\nannotations and report would go to {options.out}; nothing was hashed or written")
        return console.ALL_FINE
    repeats = _repeats(layout.root, good, options)
    content = report(layout, tables, images, repeats)
    written = []
    for split, table in good.items():
        target = options.out / f"{split}.json"
        if target.exists() and target.resolve() == Path(layout.place(split)).resolve():
            raise UserError(
                f"{target} has the annotations of this data set and would be overwritten: choose another --out"
            )
        options.out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        write_coco(target, table, [relative(layout.root / path, options.out) for path in table.paths()])
        written.append(target)
    write_json(options.out / "report.json", content)
    print(summary(content))
    lines = (f"annotations: {shown(path)}" for path in written)
    print(f"\nreport: {options.out / 'report.json'}", *lines, sep="\n")
    is_bad = content["faults"] or content["image_faults"] or repeats.leaks or repeats.unread
    return console.SOME_BAD if is_bad else console.ALL_FINE


def image_facts(path: str) -> tuple[int, int]:
    """Return height and width of an image.

    Raises:
        DecodeError: It cannot be read.
    """
    from mvrec.data.loading.images import image_size

    return image_size(Path(path))


def _images(root: Path, tables: "dict[str, ObjectTable]", options: argparse.Namespace) -> Images:
    """Read the headers of all images, in processes that can be killed."""
    import mvrec.data.loading.images  # noqa: F401 - before processes are forked

    sizes, faults = {}, {kind: {} for kind in FAULTS}  # type: ignore[var-annotated]
    names = {os.fspath(root / path): path for table in tables.values() for path in table.paths()}
    present = [path for path in names if os.path.isfile(path)]  # noqa: PTH113 - a Path each costs seconds
    for path in names.keys() - set(present):
        faults["missing"][names[path]] = path
    limits = Limits(options.timeout, options.memory)
    with (
        console.progress(len(present), unit="image") as bar,
        closing(run_jobs(image_facts, present, workers=options.workers, limits=limits)) as outcomes,
    ):
        for path, result in outcomes:
            if isinstance(result, Failure):
                faults["unreadable"][names[path]] = f"{path}: {result.cause}"
            else:
                sizes[names[path]] = result
            bar.update()
    for table in tables.values():
        for path, height, width in zip(table.paths(), table.heights.tolist(), table.widths.tolist(), strict=True):
            size = sizes.get(path, (height, width))
            if height and width and size != (height, width):
                text = f"{root / path}: {size[1]}x{size[0]} pixels, and {width}x{height} in {table.source}"
                turned = ", which is the size before its EXIF block turns it" if size == (width, height) else ""
                faults["size"][path] = f"{text}{turned}"
    return Images(sizes, {kind: dict(sorted(of_kind.items())) for kind, of_kind in faults.items() if of_kind})


def _sized(table: "ObjectTable", sizes: dict[str, tuple[int, int]]) -> "ObjectTable":
    """Return a table with the sizes of images that the annotations do not say."""
    import numpy as np

    if (table.heights > 0).all() and (table.widths > 0).all():
        return table
    actual = np.array([sizes.get(path, (0, 0)) for path in table.paths()], np.int32).reshape(-1, 2)
    is_unknown = (table.heights == 0) | (table.widths == 0)
    heights, widths = (
        np.where(is_unknown, actual[:, at], side) for at, side in enumerate((table.heights, table.widths))
    )
    return replace(table, heights=heights, widths=widths)


def _good(table: "ObjectTable", images: Images) -> "ObjectTable":
    """Return the table of the images without faults, and without objects outside them."""
    import numpy as np

    from mvrec.data.listing.objects.faults import without_faults

    faulty = {path for of_kind in images.faults.values() for path in of_kind}
    present = table.only_images(np.array([path not in faulty for path in table.paths()], np.bool_))
    return without_faults(present, "drop")[0]


def _repeats(root: Path, tables: "dict[str, ObjectTable]", options: argparse.Namespace) -> Repeats:
    """Return the images that are in two splits, or twice in one."""
    from mvrec.data.listing.lists import Row

    rows = {split: [Row(path, "") for path in table.paths()] for split, table in tables.items()}
    with Journal(options.out / "index.jsonl") as journal:
        limits = Limits(options.timeout, options.memory)
        return find_repeats(rows, root, None if options.no_hash else journal, workers=options.workers, limits=limits)


def report(
    layout: "ObjectLayout", tables: "dict[str, ObjectTable]", images: Images, repeats: Repeats | None
) -> dict[str, Any]:
    """Return the content of `report.json`."""
    counts = {split: table.class_counts().tolist() for split, table in tables.items()}
    names = next(iter(tables.values())).class_names
    content: dict[str, Any] = {
        "layout": layout.title,
        "root": str(layout.root.resolve()),
        "splits": {split: _facts(table) for split, table in tables.items()},
        "objects_per_class": {
            name: {split: of_split[number] for split, of_split in counts.items()} for number, name in enumerate(names)
        },
        "objects_per_size": {split: _of_sizes(table) for split, table in tables.items()},
        "faults": [_entry(kind, count, first) for kind, (count, first) in _object_faults(layout, tables).items()],
        "image_faults": {kind: list(of_kind.values()) for kind, of_kind in images.faults.items()},
    }
    if repeats is not None:
        content["compared_by"] = "content" if repeats.by_content else "path"
        for kind in _REPEATS:
            groups = getattr(repeats, kind)
            content[kind] = [[{"split": place.split, "path": place.row.path} for place in group] for group in groups]
    return content


def _entry(kind: str, count: int, first: str) -> dict[str, Any]:
    return {"kind": kind, "count": count, "first": first}


def _object_faults(layout: "ObjectLayout", tables: "dict[str, ObjectTable]") -> dict[str, tuple[int, str]]:
    """Return count and first text of the faults that the layout has left out, and of those that the sizes show."""
    from mvrec.data.listing.objects.faults import HARMLESS, find_faults

    faults = [fault for fault in layout.faults if fault.kind not in HARMLESS]
    faults += [fault for table in tables.values() for fault in find_faults(table) if fault.kind not in HARMLESS]
    counts: Counter[str] = Counter()
    for fault in faults:
        counts[fault.kind] += len(fault.objects)
    firsts = {fault.kind: fault.first for fault in reversed(faults)}
    return {kind: (count, firsts[kind]) for kind, count in counts.items()}  # type: ignore[index]


def _facts(table: "ObjectTable") -> dict[str, Any]:
    """Return the numbers of a split."""
    import numpy as np

    pairs = [
        (width, height) for height, width in zip(table.heights.tolist(), table.widths.tolist(), strict=True) if height
    ]
    ordered = sorted(pairs, key=lambda size: size[0] * size[1])
    return {
        "images": len(table),
        "without_objects": int((np.diff(table.starts) == 0).sum()),
        "objects": table.num_objects,
        "crowds": int(table.crowd.sum()),
        "with_shape": int(table.shapes.present.sum()),
        "sizes": [f"{width}x{height}" for width, height in (ordered[0], ordered[-1])] if ordered else [],
    }


def _of_sizes(table: "ObjectTable") -> dict[str, int]:
    import numpy as np

    number = np.searchsorted(np.square([*SIDES.values()]), table.areas, side="right") - 1
    counts = np.bincount(number.clip(0), minlength=len(SIDES))
    return dict(zip(SIDES, counts.tolist(), strict=True))


def summary(content: dict[str, Any]) -> str:
    """Return the tables of splits, classes and sizes, and a line for each kind of fault."""
    from mvrec.data.listing.objects.faults import NOUNS

    splits = content["splits"]
    text = f"{content['layout']} in {shown(content['root'])}\n\n"
    text += console.table(
        ["split", "images", "without objects", "objects", "crowds", "with shape", "sizes"],
        [
            [split, *list(facts.values())[:-1], " to ".join(dict.fromkeys(facts["sizes"]))]
            for split, facts in splits.items()
        ],
    )
    counts = content["objects_per_class"]
    ordered = sorted(counts.items(), key=lambda entry: (-sum(entry[1].values()), entry[0]))
    lines = [[shown(name), *of_split.values()] for name, of_split in ordered[:_NAMED]]
    text += "\n\n" + console.table(["objects of class", *splits], lines)
    text += f"\nand {len(ordered) - _NAMED} more in report.json" if len(ordered) > _NAMED else ""
    sizes = content["objects_per_size"]
    lines = [[size, *(of_split[size] for of_split in sizes.values())] for size in SIDES]
    text += "\n\n" + console.table(["objects of size", *splits], lines)
    return text + "".join(f"\n\n{line}" for line in _fault_lines(content, NOUNS))


def _fault_lines(content: dict[str, Any], nouns: dict[Any, tuple[str, str]]) -> Iterator[str]:
    for fault in content["faults"]:
        single, several = nouns[fault["kind"]]
        count = fault["count"]
        yield f"{count} {single if count == 1 else several}, for example {shown(fault['first'])}"
    for kind, texts in content["image_faults"].items():
        single, several = FAULTS[kind]
        yield f"{len(texts)} {single if len(texts) == 1 else several}, for example {shown(texts[0])}"
    for kind, (single, several) in _REPEATS.items():
        if groups := content.get(kind, []):
            example = " = ".join(shown(place["path"]) for place in groups[0][:3])
            yield f"{len(groups)} {single if len(groups) == 1 else several}, for example {example}"
    if missing := [name for name, of_split in content["objects_per_class"].items() if of_split.get("train") == 0]:
        yield f"no object in train for {counted(len(missing), 'classes')}, for example {shown(missing[0])}"
