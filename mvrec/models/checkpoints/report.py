"""A report about each tensor of a load."""

from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
SHOWN = 3  # names per list in a one-line summary


@dataclass(frozen=True)
class Resized:
    """A tensor that was copied in another shape."""

    name: str
    stored: Shape
    target: Shape

    def __str__(self) -> str:
        return f"{self.name} {self.stored} -> {self.target}"


@dataclass(frozen=True)
class LoadReport:
    """The origin of a network's weights, by the network's names.

    Attributes:
        source: The file, or "state dict".
        layout: The file's layout.
        entry: The network's place in the file, "" for the top level.
        loaded: All names loaded from the file, including those of the next three lists.
        renamed: The number of tensors with other names in the file.
        reshaped: Equal numbers in another shape.
        interpolated: Position tables of another size.
        inflated: Kernels repeated over time (image to video) or summed over it (video to image).
        missing: Names that the file lacks: they keep their initial values.
        mismatched: Names with an incompatible shape in the file: they keep their initial values.
        unexpected: The file's names that the network lacks.
        ignored: The file's names outside such networks, such as losses.
    """

    source: str
    layout: str
    entry: str = ""
    loaded: tuple[str, ...] = ()
    renamed: int = 0
    reshaped: tuple[Resized, ...] = ()
    interpolated: tuple[Resized, ...] = ()
    inflated: tuple[Resized, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[Resized, ...] = ()
    unexpected: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network comes from the file."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        where = f"{self.source}[{self.entry}]" if self.entry else self.source
        parts = [f"{where}: {self.layout} layout, {len(self.loaded)} of {total} tensors loaded"]
        if self.renamed:
            parts.append(f"{self.renamed} under other names")
        for text, items in (
            ("reshaped", self.reshaped),
            ("interpolated", self.interpolated),
            ("inflated", self.inflated),
            (_left_out(self.missing), self.missing),
            ("of another shape and left at their initial values", self.mismatched),
            ("in the file without a place in the network", self.unexpected),
            ("ignored", self.ignored),
        ):
            if items:
                parts.append(f"{len(items)} {text} ({listed(items)})")
        return ", ".join(parts)


def _left_out(names: Sequence[str]) -> str:
    is_head = all(name.startswith("head.") for name in names)
    return "of a new head" if is_head else "not from the file and left at their initial values"


def listed(items: Sequence[object]) -> str:
    """Return the first few items of a list, and the number of the others."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
