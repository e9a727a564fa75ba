"""Images with masks: their lists, the values in the masks, and a check of every pair."""

import argparse
import functools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import DecodeError, UserError
from mvrec.files import remove_leftovers, write_atomically
from mvrec.messages import counted
from mvrec.prep import console
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.lists import Row
    from mvrec.data.loading.masks import Colours
    from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
    from mvrec.data.sets.segmentation.values import ValueCounts

LAYOUTS = ("masks", "ade20k", "cityscapes", "voc")
STATUSES = ("ok", "corrupt", "missing", "timeout", "form", "size", "value", "unlabelled")
SPLITS = ("train", "val", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for masks, with the names of the data modules' own."""
    group = parser.add_argument_group("images with masks")
    group.add_argument("--image-suffix", default="", help="end of the images' names that the masks' lack")
    group.add_argument("--mask-suffix", default="", help="end of the masks' names that the images' lack")
    group.add_argument("--classes", help="a file with the names of the classes; by default classes.txt of the root")
    group.add_argument("--palette", help="a file with the colours of the classes; by default palette.txt of the root")
    group.add_argument("--ignore", type=int, nargs="*", default=[], help="values of pixels that are not labelled")
    group.add_argument("--reduce-zero-label", action="store_true", help="0 is of no class, classes begin at 1")


def find_data(options: argparse.Namespace) -> "SegmentationData | None":
    """Return the data module of a root with masks; `None` for a root without.

    Raises:
        UserError: The root is missing, or an argument is out of range.
    """
    if not options.root.is_dir():
        return None
    from mvrec import data
    from mvrec.data.listing.mask_layouts import MaskFolders, Naming, find_mask_layout
    from mvrec.data.listing.root import has_masks

    name = options.layout
    if name == "auto" and has_masks(options.root):
        name = "masks"
    if name not in LAYOUTS:
        return None
    shared = {"classes": options.classes, "ignore": options.ignore}
    if name == "masks":
        naming = Naming(options.image_suffix, options.mask_suffix, "skip")
        layout = find_mask_layout(options.root, naming, val_fraction=getattr(options, "val_fraction", None))
        return data.MaskFolder(
            str(options.root),
            palette=options.palette,
            image_suffix=options.image_suffix,
            mask_suffix=options.mask_suffix,
            unpaired="skip",
            val_fraction=layout.val_fraction if isinstance(layout, MaskFolders) else 0.0,
            reduce_zero_label=options.reduce_zero_label,
            **shared,
        )
    kinds = {"ade20k": data.ADE20K, "cityscapes": data.Cityscapes, "voc": data.VOCSegmentation}
    return kinds[name](str(options.root), **shared)


def refuse(root: Path, *, job: str, reason: str) -> None:
    """Refuse a job that would part images from their masks.

    Raises:
        UserError: The root has masks.
    """
    from mvrec.data.listing.root import has_masks

    if has_masks(root):
        raise UserError(f"mvrec prep {job}: {root} has images with masks, {reason}")


def rows_of(data: "SegmentationData") -> dict[str, list["Row"]]:
    """Return the pairs of each split.

    Raises:
        UserError: There are none.
    """
    rows = {split: list(data.files.rows(split)) for split in SPLITS if data.files.has(split)}
    if not any(rows.values()):
        raise UserError(f"{data.root}: no images with masks in it; expected {data.files.expected()}")
    return rows


def unpaired_of(data: "SegmentationData") -> dict[str, list[str]]:
    """Return images without masks, and masks without images, of the folders of a data set."""
    from mvrec.data.listing.mask_layouts import MaskFolders, pair_files

    alone: dict[str, list[str]] = {"images without mask": [], "masks without image": []}
    if isinstance(data.files, MaskFolders):
        for folders in dict.fromkeys(data.files.folders(split) for split in SPLITS if data.files.has(split)):
            pairing = pair_files(*folders, data.files.naming)
            alone["images without mask"] += [str(folders[0] / name) for name in pairing.images]
            alone["masks without image"] += [str(folders[1] / name) for name in pairing.masks]
    return alone


# -- index -------------------------------------------------------------------------------------------------------------


def index(data: "SegmentationData", options: argparse.Namespace) -> int:
    """Write the lists and classes of a data set with masks; return the exit code."""
    from mvrec.data.loading.masks import read_mask
    from mvrec.data.sets.segmentation.values import count_values

    rows, alone = rows_of(data), unpaired_of(data)
    masks = [data.root / row.label for split in rows.values() for row in split]
    read = functools.partial(read_mask, colours=data.colours())
    counts = count_values(masks, read, threads=options.workers)
    coding = data.class_list().coding(counts, where=str(data.root), strict=False)
    text = _index_text(data, rows, alone, counts, coding)
    if options.dry_run:
        print(f"{text}\n\nlists and report would go to {options.out}; nothing was written")
        return console.ALL_FINE
    written = [_write_list(options.out / f"{split}.csv", data, split_rows) for split, split_rows in rows.items()]
    written.append(_write_classes(options.out, data, coding))
    report = {
        "layout": data.files.title,
        "root": str(data.root.resolve()),
        "splits": {split: len(split_rows) for split, split_rows in rows.items()},
        "values": {
            value: {"masks": int(counts.masks[value]), "pixels": int(counts.pixels[value])} for value in counts.present
        },
        "classes": dict(zip(coding.names, coding.values, strict=True)),
        "not_labelled": list(coding.ignored),
        "unreadable": [[str(error.path), error.cause] for error in counts.unreadable],
        **alone,
    }
    write_json(options.out / "report.json", report)
    print(text)
    print(f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    strange = {*counts.present} - {*coding.values, *coding.ignored}
    return console.SOME_BAD if any(alone.values()) or counts.unreadable or strange else console.ALL_FINE


def _index_text(
    data: "SegmentationData",
    rows: dict[str, list["Row"]],
    alone: dict[str, list[str]],
    counts: "ValueCounts",
    coding: Any,
) -> str:
    name_of = {value: shown(name) for name, value in _classes(coding)} | dict.fromkeys(coding.ignored, "(not labelled)")
    total = max(int(counts.pixels.sum()), 1)
    text = f"{data.files.title} in {shown(data.root)}\n\n"
    text += console.table(["split", "pairs"], [[split, len(split_rows)] for split, split_rows in rows.items()])
    lines = [
        [
            value,
            name_of.get(value, "(no class)"),
            int(counts.masks[value]),
            f"{100 * int(counts.pixels[value]) / total:.2f} %",
        ]
        for value in sorted({*counts.present, *coding.values})
    ]
    text += "\n\n" + console.table(["value", "class", "masks", "pixels"], lines)
    failures = [f"{error.path} ({error.cause})" for error in counts.unreadable]
    for noun, files in (*alone.items(), ("masks that cannot be read", failures)):
        if files:
            text += f"\n\n{counted(len(files), noun)}, for example {shown(files[0])}"
    return text


def _write_list(target: Path, data: "SegmentationData", rows: list["Row"]) -> Path:
    """Write a list with the columns path and mask; paths below its folder are relative to it, others absolute."""
    from mvrec.data.listing.lists import write_rows

    if target.exists() and target.resolve() == Path(rows[0].source).resolve():
        raise UserError(f"{target} is a list of this data set and would be overwritten: choose another folder")

    def placed(path: str) -> str:
        absolute = os.path.abspath(data.root / path)  # noqa: PTH100 - without following links
        return absolute.removeprefix(os.path.join(os.path.abspath(target.parent), ""))  # noqa: PTH100, PTH118

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    written = (
        row._replace(path=placed(row.path), label="", others=(("mask", placed(row.label)), *row.others)) for row in rows
    )
    write_rows(target, written)
    return target


def _write_classes(folder: Path, data: "SegmentationData", coding: Any) -> Path:
    """Write the classes with their values, or with their colours if the masks have some."""
    colours = data.colours()
    if colours:
        of_number = {number: colour for colour, number in colours.items()}
        lines = [f"{name} {' '.join(map(str, of_number[value]))}" for name, value in _classes(coding)]
    else:
        lines = [f"{value} {name}" for name, value in _classes(coding)]
    target = folder / ("palette.txt" if colours else "classes.txt")
    remove_leftovers(target)
    write_atomically(target, "".join(f"{line}\n" for line in lines))
    return target


def _classes(coding: Any) -> Iterator[tuple[str, int]]:
    yield from zip(coding.names, coding.values, strict=True)


# -- check -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """An image and its mask on disk."""

    key: str
    image: Path
    mask: Path
    stamp: list[int]


def facts_of(pair: Pair, *, colours: "Colours | None") -> dict[str, Any]:
    """Read a pair; return sizes, values and whether the image is turned, or the status and cause of a faulty one."""
    from mvrec.data.loading.images import is_turned, read_image
    from mvrec.data.loading.masks import MaskError, read_mask, value_counts

    try:
        values = read_mask(pair.mask, colours=colours)
    except DecodeError as error:
        status = "form" if isinstance(error, MaskError) else "corrupt"
        return {"status": status, "cause": f"mask: {error.cause}"}
    try:
        image = read_image(pair.image)
        turned = is_turned(pair.image)
    except DecodeError as error:
        return {"status": "corrupt", "cause": error.cause}
    counts = value_counts(values)
    return {
        "status": "ok",
        "cause": "",
        "image": list(image.shape[:2]),
        "mask": list(values.shape),
        "turned": turned,
        "values": {str(value): int(counts[value]) for value in counts.nonzero()[0]},
    }


def check(data: "SegmentationData", options: argparse.Namespace) -> int:
    """Read every image and its mask, and say what is wrong; return the exit code."""
    rows, alone = rows_of(data), unpaired_of(data)
    limits = Limits(options.timeout, options.memory)
    with Journal(options.out / "masks.jsonl", dry=options.dry_run) as journal:
        if options.dry_run:
            count = sum(map(len, rows.values()))
            print(f"{counted(count, 'images with masks')} to check; nothing was read")
            return console.ALL_FINE
        records = _records(data, rows, journal, workers=options.workers, limits=limits, again=options.again)
        verdicts = _verdicts(data, rows, records)
        good = {split: [row for row, status, _ in judged if status == "ok"] for split, judged in verdicts.items()}
        folders = [folder for folder in (options.write_lists,) if folder is not None]
        written = [
            _write_list(folder / f"{split}.csv", data, good_rows)
            for folder in folders
            for split, good_rows in good.items()
            if good_rows
        ]
        written += [_write_classes(folder, data, _coding(data, records)) for folder in folders]
        write_json(options.out / "report.json", _report(data, verdicts, alone))
    print(_check_text(verdicts, alone, records))
    print(f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    is_bad = any(alone.values()) or any(status != "ok" for judged in verdicts.values() for _, status, _ in judged)
    return console.SOME_BAD if is_bad else console.ALL_FINE


def _records(
    data: "SegmentationData",
    rows: dict[str, list["Row"]],
    journal: Journal,
    *,
    workers: int,
    limits: Limits,
    again: bool,
) -> dict[str, dict[str, Any]]:
    """Return the facts of each pair by its key; those of the journal count while both files stay as they were."""
    records: dict[str, dict[str, Any]] = {}
    pairs: list[Pair] = []
    for row in (row for split in rows.values() for row in split):
        image, mask = data.root / row.path, data.root / row.label
        key = pair_key(image, mask)
        try:
            now = [*stamp(image), *stamp(mask)]
        except OSError as error:
            absent = mask if image.is_file() else image
            records[key] = {"status": "missing", "cause": f"{error.strerror or error}: {absent}"}
            continue
        record = journal.get(key)
        if record is not None and record["stamp"] == now and not (again and record["status"] != "ok"):
            records[key] = record
        else:
            pairs.append(Pair(key, image, mask, now))
    import mvrec.data.loading.images
    import mvrec.data.loading.masks  # noqa: F401 - before processes are forked

    work = functools.partial(facts_of, colours=data.colours())
    with (
        console.progress(len(records) + len(pairs)) as bar,
        closing(run_jobs(work, pairs, workers=workers, limits=limits)) as outcomes,
    ):
        bar.update(len(records))
        for pair, result in outcomes:
            if isinstance(result, Failure):
                status = "timeout" if result.kind == "timeout" else "corrupt"
                result = {"status": status, "cause": result.cause}
            records[pair.key] = {"stamp": pair.stamp, **result}
            journal.add(pair.key, **records[pair.key])
            bar.update()
    return records


def pair_key(image: Path, mask: Path) -> str:
    """Return the key of a pair in a journal."""
    return f"{os.path.abspath(image)}\0{os.path.abspath(mask)}"  # noqa: PTH100


def _coding(data: "SegmentationData", records: dict[str, dict[str, Any]]) -> Any:
    """Return the classes of the values; those of no class are faults of their files."""
    import numpy as np

    from mvrec.data.sets.segmentation.values import ValueCounts

    counts = ValueCounts()
    for key, record in records.items():
        pixels = np.zeros(256, np.int64)
        for value, number in record.get("values", {}).items():
            pixels[int(value)] = number
        counts.add(Path(key.partition("\0")[2]), pixels)
    return data.class_list().coding(counts, where=str(data.root), strict=False)


def _verdicts(
    data: "SegmentationData", rows: dict[str, list["Row"]], records: dict[str, dict[str, Any]]
) -> dict[str, list[tuple["Row", str, str]]]:
    coding = _coding(data, records)
    return {
        split: [
            (row, *judge(row, records[pair_key(data.root / row.path, data.root / row.label)], coding))
            for row in split_rows
        ]
        for split, split_rows in rows.items()
    }


def judge(row: "Row", record: dict[str, Any], coding: Any) -> tuple[str, str]:
    """Return status and cause of a pair, from its facts and the classes of the values."""
    import numpy as np

    from mvrec.data.loading.mask_samples import size_fault

    if record["status"] != "ok":
        return record["status"], record["cause"]
    if record["mask"] != record["image"]:
        return "size", size_fault(row.label, tuple(record["mask"]), tuple(record["image"]))
    counts = np.zeros(256, np.int64)
    for value, number in record["values"].items():
        counts[int(value)] = number
    if (cause := coding.fault(counts)) is not None:
        return "value", cause
    if set(map(int, record["values"])) <= set(coding.ignored):
        return "unlabelled", "no pixel of the mask is labelled"
    return "ok", ""


def _check_text(
    verdicts: dict[str, list[tuple["Row", str, str]]], alone: dict[str, list[str]], records: dict[str, dict[str, Any]]
) -> str:
    counts_of = {split: Counter(status for _, status, _ in judged) for split, judged in verdicts.items()}
    lines = [[split, *(counts[status] for status in STATUSES), counts.total()] for split, counts in counts_of.items()]
    text = console.table(["split", *STATUSES, "all"], lines)
    bad = ((status, cause, row.path) for judged in verdicts.values() for row, status, cause in judged if status != "ok")
    text += console.causes_table(bad, noun="images")
    turned = sum(record.get("turned", False) for record in records.values())
    if turned:
        images = counted(turned, "images turned by EXIF blocks")
        text += f"\n\n{images}: the masks must be those of the turned images"
    for noun, files in alone.items():
        if files:
            text += f"\n\n{counted(len(files), noun)}, for example {shown(files[0])}"
    return text


def _report(
    data: "SegmentationData", verdicts: dict[str, list[tuple["Row", str, str]]], alone: dict[str, list[str]]
) -> dict[str, Any]:
    return {
        "root": str(data.root.resolve()),
        "counts": {split: Counter(status for _, status, _ in judged) for split, judged in verdicts.items()},
        "bad": [
            {"split": split, "path": row.path, "mask": row.label, "status": status, "cause": cause}
            for split, judged in verdicts.items()
            for row, status, cause in judged
            if status != "ok"
        ],
        **alone,
    }
