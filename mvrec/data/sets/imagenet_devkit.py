"""ImageNet's development kit: the classes of the validation images."""

import io
import tarfile
from pathlib import Path
from typing import Any

from mvrec.errors import UserError, install_hint

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def validation_wnids(devkit: Path) -> list[str]:
    """Return the WordNet id of every validation image, in the order of their numbers.

    The kit's ground truth uses the kit's own class numbers, which differ from the order of the sorted ids: sea snake
    is 490 there and 65 in every model. `meta.mat` translates them.

    Args:
        devkit: `ILSVRC2012_devkit_t12.tar.gz`, or its unpacked folder.

    Raises:
        UserError: The kit or one of its two files is missing, a number is unknown, or scipy is not installed.
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
    """Return a file of the kit, at any depth."""
    try:
        if devkit.is_dir():
            files = sorted(devkit.rglob(name))
            if files:
                return files[0].read_bytes()
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
    except Exception as error:  # loadmat raises any error on a broken file
        raise UserError(f"{where}: not the list of ImageNet's classes: {error}") from None
