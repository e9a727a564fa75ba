"""HTML that cannot be broken by what it shows: whatever is not marked as HTML already is escaped."""

import html
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mvrec.files import shown

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Elements without content. Those of SVG end with a slash: without it, what follows would be taken for their content.
_EMPTY = {"meta", "img", "circle", "line", "polyline", "rect", "image"}


class Html(str):
    """Text that is HTML already and is taken as it is."""

    __slots__ = ()


def escaped(content: Any) -> Html:
    """Anything as HTML; `None` as nothing.

    Control characters and the lone surrogates of undecodable file names, which no HTML file may hold, are made visible.
    """
    if isinstance(content, Html):
        return content
    if content is None:
        return Html("")
    return Html(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown(str(content))), quote=True))


def join(parts: Iterable[Any]) -> Html:
    """Return parts, one after the other."""
    return Html("".join(escaped(part) for part in parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        children: Its content; plain text is escaped.
        attributes: `class_` is `class`, other underscores are hyphens; one that is `None` is left out.
    """
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    opening = f"<{name}{''.join(parts)}"
    return Html(f"{opening} />" if name in _EMPTY else f"{opening}>{join(children)}</{name}>")


def name_of(text: Any) -> Html:
    """A name or path of the data, in whichever direction its script is written."""
    return tag("bdi", text)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Collection[int] = ()) -> Html:
    """A table that scrolls sideways where the page is narrow.

    Args:
        header: One cell per column.
        rows: Their cells.
        numeric: Columns that are aligned to the right.
    """
    side = ["num" if column in numeric else None for column in range(len(header))]
    head = [tag("th", cell, scope="col", class_=side[column]) for column, cell in enumerate(header)]
    body = [tag("tr", *(tag("td", cell, class_=side[column]) for column, cell in enumerate(row))) for row in rows]
    return tag("div", tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)), class_="scroll", tabindex="0")


def folded(summary: Any, *content: Any) -> Html:
    """Return content that is shown when its line is clicked."""
    return tag("details", tag("summary", summary), *content)


def facts(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """A list of names and values; those without a value are left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in shown))
