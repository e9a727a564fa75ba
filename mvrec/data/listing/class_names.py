"""Class names: their sources, and the class that a label means."""

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
# SHA-256 of the 1000 sorted WordNet ids of ILSVRC2012, one per line: any other 1000 ids get no names.
_ILSVRC2012_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
# Words of the sides and turns that a mirrored picture swaps, in a few languages.
_SIDES = re.compile(
    r"\b(left|right|leftwards?|rightwards?|clockwise|counter-?clockwise|anti-?clockwise|c?cw|links|rechts|gauche|droite|"
    r"izquierda|derecha|sinistra|destra|esquerda|direita)\b|лев|прав|[左右]"
)
# Letters and numbers, which no mirror leaves as they are: 3 and E look like each other in it, 2 like nothing.
_CHARACTERS = re.compile(r"[a-z\u03b1-\u03c9\u0430-\u044f]|zero|one|two|three|four|five|six|seven|eight|nine")
_DIGITS = frozenset("0123456789")
_QUOTES = str.maketrans("", "", "\"'`\u2018\u2019\u201c\u201d")


def normalised(name: str) -> str:
    """Normalise a class name for comparison: no quotes or case, blanks for underscores, composed letters.

    Folders of Kinetics are called `riding_a_bike` or `riding a bike`, SlowFast's lists have
    `"massaging person's head"` with the quotes. macOS stores an accent after its letter.
    """
    composed = unicodedata.normalize("NFC", name.translate(_QUOTES).replace("_", " ").casefold())
    return " ".join(composed.split())


def mirrored_classes(class_names: Iterable[str]) -> list[str]:
    """Return the names of what a mirrored picture changes into something else: sides, turns, letters and digits.

    Numbers are digits only as the ten folders of them; else they number classes of any kind.
    """
    names = list(class_names)
    if set(names) == _DIGITS:
        return names
    return [name for name in names if _SIDES.search(normalised(name)) or _CHARACTERS.fullmatch(normalised(name))]


def comparable(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], list[str]]:
    """Normalise two lists of classes for comparison, unless that makes two names of one list equal."""
    lists = [normalised(name) for name in first], [normalised(name) for name in second]
    if any(len(set(plain)) < len(plain) for plain in lists):
        return list(first), list(second)
    return lists


class ClassNames:
    """Class names in label order, and the class number of a label.

    Args:
        names: In label order, without repeats.
        aliases: Other labels with their numbers, such as WordNet ids.
        multi_label: Whether a file may have several classes, or none; `None` leaves it to the list.
        source: The list that decided it, for messages.

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
        """Return the class of a label: a name, an alias, a name but for spelling, or a number.

        Raises:
            UserError: The label means no class; with the nearest name.
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
    """Return the names that `data.classes` means: a list of names, a shipped list, or a file of names.

    The shipped lists are those of torchvision's weights: 400 of Kinetics in alphabetical order, 1000 of ImageNet in
    the order of their WordNet ids.

    Raises:
        UserError: Neither a shipped list nor a file with names.
    """
    if not isinstance(classes, str):
        return list(classes)
    if classes in SHIPPED:
        from torchvision.models import ResNet18_Weights  # slow to import, and rarely needed
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
    """Return the names with a number added to repeated ones: ImageNet has had two classes "crane"."""
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return [f"{name} ({number})" if name in repeated else name for number, name in enumerate(names)]


def wordnet_aliases(labels: Iterable[str], names: Sequence[str], *, where: str) -> dict[str, int]:
    """Return the class number of ImageNet's WordNet ids for 1000 names: both have the same order.

    Args:
        labels: All labels of a split; the result is empty if they are not WordNet ids.
        names: The names of `imagenet1k`.
        where: Prefix of messages.

    Raises:
        UserError: The ids are not the 1000 of ILSVRC2012, so the names would be wrong.
    """
    ids = sorted(set(labels))
    if not ids or len(names) != 1000 or any(WNID.fullmatch(name) for name in names):
        return {}
    if not all(WNID.fullmatch(label) for label in ids):
        return {}
    if hashlib.sha256("\n".join(ids).encode()).hexdigest() != _ILSVRC2012_WNIDS:
        raise UserError(
            f"{where}: {len(ids)} WordNet ids that are not the 1000 of ILSVRC2012, whose names data.classes=imagenet1k "
            "gives: leave data.classes unset, or set it to a file with the names of these classes"
        )
    return {label: number for number, label in enumerate(ids)}


def spelt_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that differ only in spelling (see `normalised`), if there are two."""
    earlier: dict[str, str] = {}
    for name in names:
        if (other := earlier.setdefault(normalised(name), name)) != name:
            return other, name
    return None


def class_names_of(labels: Mapping[str, str], *, are_names: bool = False, multi_label: bool = False) -> list[str]:
    """Return the classes of labels: sorted names, or "0".."n-1" if all labels of a list are numbers.

    Args:
        labels: Each label with the place of its first row.
        are_names: Whether the labels are folder names, which are names even if they are numbers.
        multi_label: Whether a file may have several classes; then a number may have no file.

    Raises:
        UserError: A negative or broken number, which would otherwise turn all numbers into names; a missing number; or
            a name with bytes that are not UTF-8.
    """
    for label, where in labels.items():
        if any("\udc80" <= letter <= "\udcff" for letter in label):  # Python's form of bytes that are not UTF-8
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
        raise UserError(
            f"{labels[broken]}: label {broken} is not a whole number; numbers to predict go into a column "
            "'value' instead of 'label', with --model Regression"
        )
    return sorted(labels)


def _numbered(labels: Mapping[str, str], *, may_have_gaps: bool) -> list[str]:
    """Return numbers from "0" to the highest label."""
    places = {int(label): where for label, where in labels.items()}
    most = max(places, default=-1)
    missing = next((number for number in range(len(places)) if number not in places), None)
    if missing is not None and not may_have_gaps:
        raise UserError(
            f"{places[most]}: label {most} is a class number, but no row has {missing}: name all {most + 1} classes in "
            "a file classes.txt (one per line) or data.classes, or number the classes from 0 on without gaps"
        )
    return [str(number) for number in range(most + 1)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
