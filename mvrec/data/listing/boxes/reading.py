"""Lists of boxes in any of the known formats."""

from collections.abc import Iterator
from pathlib import Path

from mvrec.data.listing.boxes.own import read_own
from mvrec.data.listing.boxes.rows import BoxRow


def read_boxes(path: Path) -> Iterator[BoxRow]:
    """Yield the rows of a list of boxes, whose format its ending and its first line tell.

    Args:
        path: The list.

    Raises:
        UserError: A missing or malformed list, with file and line.
    """
    yield from read_own(path)
