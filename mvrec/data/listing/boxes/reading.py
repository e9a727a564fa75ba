"""Lists of boxes in any of the known formats."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mvrec.array_pickles import ENDINGS as PICKLES
from mvrec.data.listing.boxes.ava import is_ava, read_ava
from mvrec.data.listing.boxes.cvat import SecondsOf, is_cvat, read_cvat
from mvrec.data.listing.boxes.finding import ENDINGS, lists_in
from mvrec.data.listing.boxes.own import read_own
from mvrec.data.listing.boxes.pickles import read_proposals
from mvrec.data.listing.boxes.rows import BoxRow
from mvrec.data.listing.lists import open_text
from mvrec.errors import UserError


class FrameRule(NamedTuple):
    """The way from boxes of single frames to those of key frames.

    Attributes:
        seconds_of: The time of a frame of a video; `None` if it is unknown.
        every: Seconds from one key frame of a video to the next; `None` takes all frames.
        attributes: CVAT's attributes that hold actions; `None` for all.
    """

    seconds_of: SecondsOf | None = None
    every: float | None = 1.0
    attributes: Collection[str] | None = None


def read_boxes(path: Path, rule: FrameRule = FrameRule()) -> Iterator[BoxRow]:  # noqa: B008 - a tuple
    """Yield the rows of a list of boxes, whose format its ending and its first line tell.

    Args:
        path: The list: a CSV with a header, one in AVA's form without, CVAT's XML, or a pickle of mmaction2's
            proposals; or a folder of such lists.
        rule: The way from frames of tracks to key frames.

    Raises:
        UserError: A missing or malformed list, with file and line.
    """
    if path.is_dir():
        lists = lists_in(path)
        if not lists:
            raise UserError(f"{path}: there are no lists of boxes in it, which end with {' '.join(ENDINGS)}")
        for entry in lists:
            yield from read_boxes(entry, rule)
        return
    if path.suffix.lower() in PICKLES:
        yield from read_proposals(path)
        return
    if is_cvat(path):
        if rule.seconds_of is None:
            raise UserError(f"{path}: CVAT numbers frames, whose times are unknown here: use a CSV with times")
        yield from read_cvat(path, rule.seconds_of, every=rule.every, attributes=rule.attributes)
        return
    with open_text(path) as file:
        first = file.readline()
    yield from read_ava(path) if is_ava(first) else read_own(path)
