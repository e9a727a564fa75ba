"""JSON read entry by entry, so that a large list is never in memory as Python objects."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import stand_in

_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class JsonCursor:
    """A place in a JSON text that moves forward.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, is empty, or is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0
        try:
            if content := stand_in(path):
                raise UserError(f"{path}: the file is {content}")
            self._text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from None

    def peek(self) -> str:
        """Return the next sign after blanks; "" at the end."""
        match = _BLANKS.match(self._text, self.place)
        assert match is not None
        self.place = match.end()
        return self._text[self.place : self.place + 1]

    def value(self) -> Any:
        """Return the whole value at the place, and move behind it.

        Raises:
            UserError: The text is cut short or malformed.
        """
        self.peek()
        try:
            value, self.place = _DECODER.raw_decode(self._text, self.place)
        except json.JSONDecodeError as error:
            self.place = error.pos
            raise self.fault(error.msg) from None
        return value

    def members(self) -> Iterator[str]:
        """Yield the names of an object's members; the caller reads each value before it asks for the next name.

        Raises:
            UserError: The text is cut short or malformed.
        """
        self._skip("{")
        while self.peek() != "}":
            name = self.value()
            if not isinstance(name, str):
                raise self.fault("a name is expected")
            self._skip(":")
            yield name
            self._end_of_entry("}")
        self.place += 1

    def entries(self) -> Iterator[Any]:
        """Yield the values of a list.

        Raises:
            UserError: There is no list, or the text is cut short or malformed.
        """
        self._skip("[")
        while self.peek() != "]":
            yield self.value()
            self._end_of_entry("]")
        self.place += 1

    def fault(self, problem: str) -> UserError:
        """Return the error of a text that cannot be read on from the place."""
        line = self._text.count("\n", 0, self.place) + 1
        is_cut = self.place >= len(self._text.rstrip()) or "Unterminated" in problem
        reason = "it ends in the middle: the file is cut short, fetch or write it again" if is_cut else problem
        return UserError(f"{self.path}:{line}: not valid JSON at character {self.place + 1}: {reason}")

    def _skip(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.fault(f"{sign!r} is expected")
        self.place += 1

    def _end_of_entry(self, end: str) -> None:
        """Move behind a comma, or up to the end."""
        if self.peek() == ",":
            self.place += 1
            if self.peek() == end:
                raise self.fault("a comma without a value behind it")
        elif self.peek() != end:
            raise self.fault(f"',' or {end!r} is expected")
