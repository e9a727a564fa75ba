"""Class names: where they come from, and which number a label means."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.lists import LABEL_SEPARATOR, SEVERAL
from mvrec.errors import UserError, nearest
from mvrec.files import at_home

SHIPPED = ("kinetics400", "imagenet1k")
WNID = re.compile(r"n\d{8}")
# SHA-256 of the 1000 sorted WordNet ids of ILSVRC2012, one per line: other thousands of ids do not get its names.
_ILSVRC2012_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
_QUOTES = str.maketrans("", "", "\"'`\u2018\u2019\u201c\u201d")


def normalised(name: str) -> str:
    """A class name for comparison: without quotes and case, with underscores as blanks, letters composed.

    Folders of Kinetics are called `riding_a_bike` or `riding a bike`, SlowFast's lists have
    `"massaging person's head"` with the quotes. macOS stores an accent behind its letter.
    """
    composed = unicodedata.normalize("NFC", name.translate(_QUOTES).replace("_", " ").casefold())
    return " ".join(composed.split())


def comparable(ours: Sequence[str], theirs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Normalise two lists of classes for comparison; a list in which that makes two names equal stays as it is."""
    lists = [normalised(name) for name in ours], [normalised(name) for name in theirs]
    if any(len(set(plain)) < len(plain) for plain in lists):
        return list(ours), list(theirs)
    return lists


class ClassNames:
    """Class names in label order, and the number that a label means.

    Args:
        names: In label order, each once.
        aliases: Other labels for them with their numbers, such as WordNet ids.
        multi_label: Whether a file may have several of these classes, or none; `None` where the list is to say.
        source: The list that has said so, for messages.

    Attributes:
        names: In label order.
        aliases: As passed.
        multi_label: As passed.
        source: As passed.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        aliases: Mapping[str, int] | None = None,
        multi_label: bool | None = None,
        source: str = "",
    ) -> None:
        self.names = tuple(names)
        self.aliases = dict(aliases or {})
        self.multi_label, self.source = multi_label, source
        self._exact = {**self.aliases, **{name: number for number, name in enumerate(self.names)}}
        self._loose: dict[str, int] = {}
        ambiguous = set()
        for number, name in enumerate(self.names):
            if self._loose.setdefault(normalised(name), number) != number:
                ambiguous.add(normalised(name))
        for name in ambiguous:
            del self._loose[name]

    def number(self, label: str, *, where: str) -> int:
        """Return the class that a label means: its name, an alias, its name but for spelling, or its number.

        Raises:
            UserError: It means none, with the nearest name.
        """
        if (number := self._exact.get(label)) is not None:
            return number
        if (number := self._loose.get(normalised(label))) is not None:
            return number
        try:
            number = int(label)
        except ValueError:
            hint = nearest(label, self.names)
            if LABEL_SEPARATOR in label and all(part.strip() in self._exact for part in label.split(LABEL_SEPARATOR)):
                hint = f" (several classes per file: in a list with a column {SEVERAL!r})"
            raise UserError(f"{where}: {label!r} is not one of the {len(self.names)} classes{hint}") from None
        if not 0 <= number < len(self.names):
            raise UserError(f"{where}: label {number} is outside 0..{len(self.names) - 1}")
        return number


def known_class_names(classes: str | Sequence[str]) -> list[str]:
    """Return the names behind `data.classes`: themselves, a shipped list, or a file of names.

    The shipped lists are those that torchvision's weights carry: 400 of Kinetics in alphabetical order, 1000 of
    ImageNet in the order of their WordNet ids.

    Raises:
        UserError: Neither a shipped list nor a file with names.
    """
    if not isinstance(classes, str):
        return list(classes)
    if classes in SHIPPED:
        from torchvision.models import ResNet18_Weights  # takes a second to import: only where it is asked for
        from torchvision.models.video import R3D_18_Weights

        weights = {"kinetics400": R3D_18_Weights.KINETICS400_V1, "imagenet1k": ResNet18_Weights.IMAGENET1K_V1}
        return unique_names(weights[classes].meta["categories"])
    path = at_home(classes)
    names = read_class_names(path)
    if not names:
        problem = "there are no names in it" if path.is_file() else "there is no such file"
        raise UserError(f"data.classes={classes}: {problem} (or one of the lists {', '.join(SHIPPED)})")
    return names


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names that stand more than once get their number: ImageNet has had two classes "crane"."""
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return [f"{name} ({number})" if name in repeated else name for number, name in enumerate(names)]


def wordnet_aliases(labels: Iterable[str], names: Sequence[str], *, where: str) -> dict[str, int]:
    """Return ImageNet's WordNet ids as labels for 1000 names: the sorted ids are in the order of the names.

    Args:
        labels: All labels of a split; nothing is returned when they are no WordNet ids.
        names: The names of `imagenet1k`.
        where: What messages begin with.

    Raises:
        UserError: Not the 1000 ids of ILSVRC2012, for which the names would be wrong.
    """
    ids = sorted(set(labels))
    if not ids or len(names) != 1000 or any(WNID.fullmatch(name) for name in names):
        return {}
    if not all(WNID.fullmatch(label) for label in ids):
        return {}
    if hashlib.sha256("\n".join(ids).encode()).hexdigest() != _ILSVRC2012_WNIDS:
        raise UserError(
            f"{where}: {len(ids)} WordNet ids that are not the 1000 of ILSVRC2012, whose names data.classes=imagenet1k "
            "gives: leave it out, or pass a file with the names of these classes"
        )
    return {label: number for number, label in enumerate(ids)}


def class_names_of(labels: Mapping[str, str], *, are_names: bool = False, multi_label: bool = False) -> list[str]:
    """Return the classes that labels speak of: names sorted, or "0".."n-1" when all labels of a list are numbers.

    Args:
        labels: The labels with the place of their first row.
        are_names: They are names of folders, which are names even where they are numbers.
        multi_label: A file may have several of them; then numbers may leave out classes that no file has.

    Raises:
        UserError: A negative or broken number, which would otherwise pass for a name and make names of all numbers;
            numbers that leave one out; or a name with bytes that are not UTF-8.
    """
    for label, where in labels.items():
        if any("\udc80" <= letter <= "\udcff" for letter in label):  # what bytes become that are not
            raise UserError(f"{where}: class {label!r} is not UTF-8")
    numbers = all(label.isdecimal() for label in labels)
    if are_names:
        return sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)
    for label, where in labels.items():
        if label.startswith("-") and label[1:].isdecimal():
            raise UserError(f"{where}: label {label} is negative")
    if numbers:
        return _numbered(labels, may_have_gaps=multi_label)
    broken = next((label for label in labels if not label.isdecimal() and _is_number(label)), None)
    if broken is not None and all(_is_number(label) for label in labels):
        raise UserError(f"{labels[broken]}: label {broken} is not a whole number")
    return sorted(labels)


def _numbered(labels: Mapping[str, str], *, may_have_gaps: bool) -> list[str]:
    """Return numbers from "0" to the highest one."""
    found = {int(label): where for label, where in labels.items()}
    most = max(found, default=-1)
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None and not may_have_gaps:
        raise UserError(
            f"{found[most]}: label {most} is a class number, but no row has {missing}: name all {most + 1} classes in "
            "a file classes.txt (one per line) or data.classes, or number the classes from 0 on without gaps"
        )
    return [str(number) for number in range(most + 1)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
