"""HTML that no content can break: all text that is not marked as HTML is escaped."""

import html
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mvrec.files import shown

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Elements without content. SVG's end with a slash; without it they would include what follows.
_EMPTY = {"meta", "img", "circle", "line", "polyline", "rect", "image"}


class Html(str):
    """Text that is HTML already and is not escaped."""

    __slots__ = ()


def escaped(content: Any) -> Html:
    """Return anything as HTML; `None` as an empty text.

    Control characters and surrogates of undecodable file names, which HTML may not contain, are made visible.
    """
    if isinstance(content, Html):
        return content
    if content is None:
        return Html("")
    return Html(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown(str(content))), quote=True))


def join(parts: Iterable[Any]) -> Html:
    """Concatenate parts."""
    return Html("".join(escaped(part) for part in parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Return an element.

    Args:
        name: The element's name.
        children: Its content; plain text is escaped.
        attributes: `class_` is `class`, other underscores are hyphens; a value of `None` is skipped.
    """
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    opening = f"<{name}{''.join(parts)}"
    return Html(f"{opening} />" if name in _EMPTY else f"{opening}>{join(children)}</{name}>")


def name_of(text: Any) -> Html:
    """Return a name or path from the data, in the direction of its script."""
    return tag("bdi", text)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Collection[int] = ()) -> Html:
    """Return a table that scrolls sideways on a narrow page.

    Args:
        header: One cell per column.
        rows: Their cells.
        numeric: Numbers of right-aligned columns.
    """
    side = ["num" if column in numeric else None for column in range(len(header))]
    head = [tag("th", cell, scope="col", class_=side[column]) for column, cell in enumerate(header)]
    body = [tag("tr", *(tag("td", cell, class_=side[column]) for column, cell in enumerate(row))) for row in rows]
    return tag("div", tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)), class_="scroll", tabindex="0")


def folded(summary: Any, *content: Any) -> Html:
    """Return content that appears when its summary is clicked."""
    return tag("details", tag("summary", summary), *content)


def facts(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """Return a list of names and values, without empty values."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in shown))
