"""From the three tars of ImageNet (ILSVRC2012) to lists for reading in place, or to folders of images."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path, remove_leftovers, write_atomically
from mvrec.messages import CommandParser
from mvrec.prep import console
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, without_leftovers, write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import ArchiveMember

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
# The organisers' sums.
MD5 = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
CLASSES, IMAGES = 1000, {"train": 1_281_167, "val": 50_000}
_CHUNK_BYTES = 1 << 22
_FILES_PER_JOB = 200
_VAL_NAME = re.compile(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG")


class Image(NamedTuple):
    """An image in a tar.

    Attributes:
        member: Its place in the tar.
        wnid: The WordNet id of its class.
    """

    member: "ArchiveMember"
    wnid: str


def check_md5(folder: Path, journal: Journal) -> None:
    """Compare the tars with the published sums; skip unchanged files that the journal knows.

    Raises:
        UserError: A sum differs; with both sums.
    """
    todo = [name for name in MD5 if not _known_md5(folder / name, journal)]
    total = sum(stamp(folder / name)[0] for name in todo)
    with console.progress(total, unit="B", label="md5") as bar:
        for name in todo:
            digest = hashlib.md5(usedforsecurity=False)
            with (folder / name).open("rb") as file:
                while data := file.read(_CHUNK_BYTES):
                    digest.update(data)
                    bar.update(len(data))
            if digest.hexdigest() != MD5[name]:
                raise UserError(
                    f"{folder / name}: its md5 is {digest.hexdigest()}, the published one is {MD5[name]}: "
                    "it is damaged or another version; download it again, or pass --no-md5"
                )
            journal.add(f"md5 {(folder / name).absolute()}", stamp=stamp(folder / name), md5=MD5[name])


def _known_md5(path: Path, journal: Journal) -> bool:
    record = journal.get(f"md5 {path.absolute()}")
    return record is not None and record["stamp"] == stamp(path) and record["md5"] == MD5[path.name]


def train_images(path: Path, wnids: Sequence[str]) -> list[Image]:
    """Return the training images, `n01440764.tar/n01440764_10026.JPEG` in the tar of tars, by class and name.

    Args:
        path: The tar.
        wnids: The classes of the development kit.

    Raises:
        UserError: The file is not a tar, damaged, or has an image of another class.
    """
    from mvrec.data.listing.archive import list_tar

    classes, images = set(wnids), []
    with console.progress(0, unit="image", label=path.name) as bar:
        for member in list_tar(path):
            if _is_junk(member.name):
                continue
            wnid = member.name.split("/")[0].removesuffix(".tar")
            if wnid not in classes:
                raise UserError(f"{path}: {member.name!r} is of no class of the development kit")
            images.append(Image(member, wnid))
            bar.update()
    return sorted(images, key=lambda image: (image.wnid, image.member.name))


def val_images(path: Path, wnids: Sequence[str]) -> list[Image]:
    """Return the validation images with their classes.

    Args:
        path: The tar.
        wnids: The class of each image, in the order of image numbers.

    Raises:
        UserError: The tar is damaged, or the development kit lacks an image's number.
    """
    from mvrec.data.listing.archive import list_tar

    images = []
    for member in list_tar(path):
        if _is_junk(member.name):
            continue
        match = _VAL_NAME.fullmatch(member.name)
        if match is None or not 1 <= int(match[1]) <= len(wnids):
            raise UserError(f"{path}: {member.name!r} is not one of the {len(wnids)} validation images")
        images.append(Image(member, wnids[int(match[1]) - 1]))
    return sorted(images, key=lambda image: image.member.name)


def _is_junk(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def counts(splits: Mapping[str, Sequence[Image]], wnids: Sequence[str], *, any_size: bool) -> dict[str, dict[str, int]]:
    """Count images per split and class.

    Raises:
        UserError: Numbers differ from the published ones, unless `any_size`; or a class has no image.
    """
    numbers = {}
    for split, images in splits.items():
        per_class = Counter(image.wnid for image in images)
        numbers[split] = {wnid: per_class[wnid] for wnid in wnids}
        empty = [wnid for wnid in wnids if not per_class[wnid]]
        if empty and split == "train":
            raise UserError(f"{len(empty)} of {len(wnids)} classes have no {split} images, {empty[0]} for one")
        if not any_size and (len(images), len(wnids)) != (IMAGES[split], CLASSES):
            raise UserError(
                f"{split}: {len(images)} images of {len(wnids)} classes instead of {IMAGES[split]} of {CLASSES} "
                "(--any-size accepts them)"
            )
    return numbers


# -- unpacking -------------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """Images to write into a folder."""

    folder: Path
    images: tuple[Image, ...]


def unpack(splits: Mapping[str, Sequence[Image]], folder: Path, *, workers: int) -> list[str]:
    """Write `folder/<split>/<wnid>/<image>`; skip files that exist with the same bytes.

    Returns:
        The failures.
    """
    jobs = list(_jobs(splits, folder))
    failures = []
    with (
        without_leftovers(job.folder for job in jobs),
        console.progress(sum(map(len, splits.values())), unit="image", label="unpack") as bar,
        closing(run_jobs(write_images, jobs, workers=workers, limits=Limits(seconds=None, memory=None))) as results,
    ):
        for job, result in results:
            if isinstance(result, Failure):
                failures.append(f"{job.folder}: {result.cause}")
            bar.update(len(job.images))
    return failures


def _jobs(splits: Mapping[str, Sequence[Image]], folder: Path) -> Iterator[Job]:
    for split, images in splits.items():
        for wnid, group in groupby(sorted(images, key=lambda image: image.wnid), key=lambda image: image.wnid):
            members = list(group)
            for begin in range(0, len(members), _FILES_PER_JOB):
                yield Job(folder / split / wnid, tuple(members[begin : begin + _FILES_PER_JOB]))


def write_images(job: Job) -> int:
    """Write the missing images of a job; return their number.

    Raises:
        DecodeError: The tar cannot be read.
    """
    written = 0
    for image in sorted(job.images, key=lambda image: image.member.offset):
        target = job.folder / image.member.name.rpartition("/")[2]
        content = image.member.read()
        # The size alone would accept a file that a power cut left full of zeros.
        if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
            continue
        with atomic_path(target) as part:
            part.write_bytes(content)
        written += 1
    return written


# -- the command -----------------------------------------------------------------------------------------------------


def write_lists(splits: Mapping[str, Sequence[Image]], wnids: Sequence[str], root: Path, out: Path) -> list[Path]:
    """Write `train.csv`, `val.csv` and `classes.txt` (the sorted WordNet ids: a class's number is its place).

    Paths are relative if the lists are next to the tars, else absolute.
    """
    from mvrec.data.listing.lists import Row, write_rows

    is_root = root.resolve() == out.resolve()
    written = []
    for split, images in splits.items():
        target = out / f"{split}.csv"
        remove_leftovers(target)
        rows = []
        for member, wnid in images:
            archive = member.archive.name if is_root else str(member.archive.absolute())
            rows.append(Row(f"{archive}/{member.name}", wnid, offset=member.offset, size=member.size))
        write_rows(target, rows)
        written.append(target)
    remove_leftovers(out / "classes.txt")
    write_atomically(out / "classes.txt", "".join(f"{wnid}\n" for wnid in wnids))
    return [*written, out / "classes.txt"]


def arguments() -> CommandParser:
    """Build the parser."""
    parser = console.parser("imagenet", __doc__ or "")
    parser.add_argument("root", type=at_home, help=f"the folder with {TRAIN}, {VAL} and {DEVKIT}")
    parser.add_argument("--out", type=at_home, help="folder of lists and report (by default next to the tars)")
    parser.add_argument("--unpack", type=at_home, metavar="DIR", help="write the images into folders instead of lists")
    parser.add_argument("--no-md5", action="store_true", help="do not compare the tars with the published sums")
    parser.add_argument("--any-size", action="store_true", help="accept other numbers of classes and images")
    return parser


def main(words: list[str]) -> int:
    """Prepare ImageNet; return the exit code."""
    options = arguments().parse_args(words)
    from mvrec.data.sets.imagenet_devkit import validation_wnids

    root: Path = options.root
    out: Path = options.out or options.unpack or root
    for name in MD5:
        if not (root / name).is_file():
            raise UserError(f"{root / name}: no such file; registered users get the tars from image-net.org")
    with Journal(out / "imagenet.jsonl", dry=options.dry_run) as journal:
        if not options.no_md5 and not options.dry_run:
            check_md5(root, journal)
        val_wnids = validation_wnids(root / DEVKIT)
        wnids = sorted(set(val_wnids))
        splits = {"train": train_images(root / TRAIN, wnids), "val": val_images(root / VAL, val_wnids)}
        numbers = counts(splits, wnids, any_size=options.any_size)
        if options.dry_run:
            print(_summary(numbers))
            result = f"be unpacked into {options.unpack}" if options.unpack else f"be listed in {out}"
            print(f"\n{sum(map(len, splits.values()))} images would {result}; the md5 sums were not compared")
            return console.ALL_FINE
        failures = unpack(splits, options.unpack, workers=options.workers) if options.unpack else []
        written = [] if options.unpack else write_lists(splits, wnids, root, out)
        write_json(out / "imagenet.json", {"md5": not options.no_md5, "images": numbers, "failures": failures})
    print(_summary(numbers))
    for line in failures:
        print(line, file=sys.stderr)
    print("", *(f"list: {path}" for path in written), f"report: {out / 'imagenet.json'}", sep="\n")
    return console.SOME_BAD if failures else console.ALL_FINE


def _summary(numbers: Mapping[str, Mapping[str, int]]) -> str:
    lines: list[list[Any]] = [
        [split, sum(1 for count in per_class.values() if count), sum(per_class.values()), min(per_class.values()),
         max(per_class.values())]
        for split, per_class in numbers.items()
    ]  # fmt: skip
    return console.table(["split", "classes", "images", "fewest per class", "most"], lines)
