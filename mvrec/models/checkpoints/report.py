"""What a load did with every tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
SHOWN = 3  # names per list in a one-line summary


@dataclass(frozen=True)
class Resized:
    """A tensor that was not copied as it is."""

    name: str
    stored: Shape
    wanted: Shape

    def __str__(self) -> str:
        return f"{self.name} {self.stored} -> {self.wanted}"


@dataclass(frozen=True)
class LoadReport:
    """Where the weights of a network came from, by the network's own names.

    Attributes:
        source: The file, or "state dict".
        layout: Whose names the file uses.
        entry: Where in the file the network lay, "" for the top level.
        loaded: All names that have their value from the file, those of the three next lists included.
        renamed: How many of them the file calls otherwise.
        reshaped: Same numbers in another shape.
        interpolated: Position tables of another size.
        inflated: Kernels repeated over time (image to video) or summed over it (video to image).
        missing: Names that the file does not have: they keep their initial values.
        mismatched: Names that the file has in a shape that does not fit: they keep their initial values.
        unexpected: The file's names that the network has no place for.
        ignored: The file's names that belong to no network of this kind, such as losses beside it.
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
        """Every tensor of the network has its value from the file."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        where = f"{self.source}[{self.entry}]" if self.entry else self.source
        parts = [f"{where}: {self.layout} layout, {len(self.loaded)} of {total} tensors loaded"]
        if self.renamed:
            parts.append(f"{self.renamed} under other names")
        for what, items in (
            ("reshaped", self.reshaped),
            ("interpolated", self.interpolated),
            ("inflated", self.inflated),
            ("not in the file and left at their initial values", self.missing),
            ("of another shape and left at their initial values", self.mismatched),
            ("in the file without a place in the network", self.unexpected),
            ("ignored", self.ignored),
        ):
            if items:
                parts.append(f"{len(items)} {what} ({listed(items)})")
        return ", ".join(parts)


def listed(items: Sequence[object]) -> str:
    """Return the first few of a list, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
