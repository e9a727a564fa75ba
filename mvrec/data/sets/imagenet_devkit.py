"""ImageNet's development kit: which class each validation image is of."""

import io
import tarfile
from pathlib import Path
from typing import Any

from mvrec.errors import UserError, install_hint

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def validation_wnids(devkit: Path) -> list[str]:
    """Return the WordNet id of every validation image, in the order of their numbers.

    The kit's ground truth has the kit's own class numbers, which are not the places in the sorted ids: sea snake is 490
    there and 65 in every model. So they are looked up in `meta.mat`.

    Args:
        devkit: `ILSVRC2012_devkit_t12.tar.gz`, or the folder that it unpacks to.

    Raises:
        UserError: The kit is missing, lacks one of the two files, or does not know a number; or scipy is not there.
    """
    content = {name: _read(devkit, name) for name in (_TRUTH, _META)}
    wnid_of = _wnids(content[_META], where=f"{devkit}/data/{_META}")
    wnids = []
    for line, text in enumerate(content[_TRUTH].decode("ascii", "replace").split("\n"), start=1):
        if not (number := text.strip()):
            continue
        if not number.isdecimal() or int(number) not in wnid_of:
            raise UserError(f"{devkit}/data/{_TRUTH}:{line}: {number[:80]!r} is not the number of a class in {_META}")
        wnids.append(wnid_of[int(number)])
    return wnids


def _read(devkit: Path, name: str) -> bytes:
    """A file of the kit, wherever in it."""
    try:
        if devkit.is_dir():
            found = sorted(devkit.rglob(name))
            if found:
                return found[0].read_bytes()
        else:
            with tarfile.open(devkit) as archive:
                for member in archive:
                    if member.name.rpartition("/")[2] == name and (file := archive.extractfile(member)) is not None:
                        return file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{devkit}: not ImageNet's development kit: {error}") from None
    raise UserError(f"{devkit}: not ImageNet's development kit: no {name} in it")


def _wnids(meta: bytes, *, where: str) -> dict[int, str]:
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"{where}: reading it needs scipy: {install_hint('imagenet')}") from None
    try:
        synsets: Any = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        return {int(number): str(wnid) for number, wnid, children in rows if int(children) == 0}
    except Exception as error:  # whatever a broken file makes of loadmat
        raise UserError(f"{where}: not the list of ImageNet's classes: {error}") from None
