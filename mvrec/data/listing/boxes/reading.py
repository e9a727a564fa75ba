"""Lists of boxes in any of the known formats."""

from collections.abc import Iterator
from pathlib import Path

from mvrec.data.listing.boxes.ava import is_ava, read_ava
from mvrec.data.listing.boxes.own import read_own
from mvrec.data.listing.boxes.rows import BoxRow
from mvrec.data.listing.lists import open_text


def read_boxes(path: Path) -> Iterator[BoxRow]:
    """Yield the rows of a list of boxes, whose format its ending and its first line tell.

    Args:
        path: The list: a CSV with a header, or one in AVA's form without.

    Raises:
        UserError: A missing or malformed list, with file and line.
    """
    with open_text(path) as file:
        first = file.readline()
    yield from read_ava(path) if is_ava(first) else read_own(path)
