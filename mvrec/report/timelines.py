"""Segments of long videos in a page: a bar per video, the true segments above the predicted ones."""

from collections.abc import Container, Mapping, Sequence
from colorsys import hls_to_rgb
from typing import NamedTuple, Protocol

from mvrec.messages import counted
from mvrec.report.charts import bar, ticks
from mvrec.report.markup import Html, folded, join, name_of, table, tag
from mvrec.report.sections import Section

MOST_VIDEOS = 200  # with a bar each
_LEFT, _WIDTH, _LANE, _BELOW = 74, 1000, 22, 20  # pixels: of names of rows, of time, of a row, of the axis
_LETTER = 6.8  # pixels of width
_MANY = 6  # colours at one lightness


class Part(Protocol):
    """A segment of a video."""

    @property
    def start(self) -> float:
        """Its start in seconds."""

    @property
    def end(self) -> float:
        """Its end in seconds."""

    @property
    def name(self) -> str:
        """Its class."""

    @property
    def confidence(self) -> float:
        """The confidence of a predicted one, 0..1."""


class Bar(NamedTuple):
    """A video with its segments.

    Attributes:
        name: Of the video.
        predicted: By start.
        true: By start; `None` if they are not known.
        error: Why the video could not be read, or "".
        seconds: Its end; by default that of the last segment.
    """

    name: str
    predicted: Sequence[Part]
    true: Sequence[Part] | None = None
    error: str = ""
    seconds: float = 0.0


def timeline_sections(
    bars: Sequence[Bar], class_names: Sequence[str], *, score: str = "", precisions: Mapping[str, float] | None = None
) -> list[Section]:
    """Return the sections about timelines.

    Args:
        bars: The videos.
        class_names: Names of all classes, whose order decides the colours of those that are shown.
        score: The score as a line, if the true segments are known.
        precisions: Average precision of each class at a tIoU of 0.5, if they are.
    """
    colours = {name: f"rgb{colour}" for name, colour in colours_of(_shown(bars), class_names).items()}
    unread = [(name_of(video.name), video.error) for video in bars if video.error]
    readable = [video for video in bars if video.predicted or not video.error]
    content = [_legend(readable, colours), *(_video(video, colours) for video in readable[:MOST_VIDEOS])]
    if len(readable) > MOST_VIDEOS:
        more = counted(len(readable) - MOST_VIDEOS, "videos")
        content.append(tag("p", f"Without a bar: {more}, whose segments are in the written file (-o)."))
    return [
        Section("Segments", join([tag("p", score) if score else "", _classes(bars, precisions or {})])),
        Section("Timelines", join(content) if readable else Html("")),
        Section("Videos that could not be read", table(("video", "cause"), unread) if unread else Html("")),
    ]


def colours_of(shown: Container[str], class_names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return colours as far apart as the number of classes allows, RGB 0..255.

    Args:
        shown: Names of the classes that are shown.
        class_names: Names of all classes, whose order decides.
    """
    names = [name for name in class_names if name in shown]
    colours = {}
    for rank, name in enumerate(names):
        lightness = 0.62 if len(names) <= _MANY else 0.78 if rank % 2 else 0.52
        red, green, blue = hls_to_rgb((0.33 + rank / len(names)) % 1, lightness, 0.7)
        colours[name] = (round(255 * red), round(255 * green), round(255 * blue))
    return colours


def _shown(bars: Sequence[Bar]) -> set[str]:
    return {part.name for video in bars for part in (*_true(video), *video.predicted)}


def _classes(bars: Sequence[Bar], precisions: Mapping[str, float]) -> Html:
    counts = [
        [part.name for video in bars for part in parts(video)] for parts in (_true, lambda video: video.predicted)
    ]
    names = sorted({*counts[0], *counts[1]})
    if not names:
        return tag("p", "No segments.")
    if not precisions:
        return table(("class", "segments"), [(name_of(name), counts[1].count(name)) for name in names], numeric={1})
    rows = [
        (
            name_of(name),
            *(names_of_parts.count(name) for names_of_parts in counts),
            _percent(precisions[name]) if name in precisions else "",
            tag("div", bar(precisions[name]), class_="barcell") if name in precisions else "",
        )
        for name in names
    ]
    header = ("class", "true segments", "predicted", "average precision at tIoU 0.5", "")
    return table(header, rows, numeric={1, 2, 3})


def _true(video: Bar) -> Sequence[Part]:
    return video.true or ()


def _legend(bars: Sequence[Bar], colours: Mapping[str, str]) -> Html:
    shown = _shown(bars)
    keys = [
        tag("li", tag("i", class_="swatch", style=f"background:{colour}"), name_of(name))
        for name, colour in colours.items()
        if name in shown
    ]
    return tag("ul", *keys, class_="legend")


def _video(video: Bar, colours: Mapping[str, str]) -> Html:
    """Return a video as a picture, with its segments as a table that opens."""
    seconds = max([video.seconds, *(part.end for part in (*_true(video), *video.predicted))])
    heading = tag("figcaption", name_of(video.name))
    if not seconds:
        return tag("figure", heading, tag("p", "no segments", class_="faint"))
    top, drawn = 0, []
    for title, parts in (("true", video.true), ("predicted", video.predicted)):
        if parts is None:
            continue
        lanes = _lanes(parts)
        drawn.append(tag("text", title, x=0, y=top + _LANE - 7))
        for part, lane in zip(parts, lanes, strict=True):
            about = _about(part, is_true=title == "true")
            drawn.append(_segment(part, about, top + lane * _LANE, seconds, colours))
        top += (max(lanes, default=0) + 1) * _LANE + 3
    axis = [
        join(
            [
                tag("line", x1=_place(at, seconds), x2=_place(at, seconds), y1=0, y2=top, class_="grid"),
                tag("text", _clock(at), x=_place(at, seconds), y=top + 14, text_anchor="middle"),
            ]
        )
        for at in ticks(0, seconds, most=10)
        if at <= seconds
    ]
    picture = tag("svg", *axis, *drawn, viewBox=f"0 0 {_LEFT + _WIDTH + 12} {top + _BELOW}", role="img")
    rows = [
        (
            *(kind, _clock(part.start), _clock(part.end), name_of(part.name)),
            *("" if kind == "true" else _percent(part.confidence), _overlap(part, others)),
        )
        for kind, parts, others in (("true", _true(video), video.predicted), ("predicted", video.predicted, video.true))
        for part in parts
    ]
    header = ("", "from", "to", "class", "confidence", "best tIoU with its class")
    if video.true is None:
        listing = table(header[1:-1], [row[1:-1] for row in rows], numeric={0, 1, 3})
    else:
        listing = table(header, rows, numeric={1, 2, 4, 5})
    return tag("figure", heading, tag("div", picture, class_="scroll"), folded("segments", listing), class_="timeline")


def _about(part: Part, *, is_true: bool) -> str:
    text = f"{part.name}, {_clock(part.start)} to {_clock(part.end)}"
    return text if is_true else f"{text}, {_percent(part.confidence)}"


def _segment(part: Part, about: str, top: int, seconds: float, colours: Mapping[str, str]) -> Html:
    left, right = _place(part.start, seconds), _place(part.end, seconds)
    fill = colours.get(part.name, "grey")
    shape = tag(
        "rect", x=f"{left:.1f}", y=top, width=f"{max(right - left - 1, 1):.1f}", height=_LANE - 2, fill=fill, rx=2
    )
    fitting = int((right - left - 8) / _LETTER)
    text = part.name if len(part.name) <= fitting else f"{part.name[: fitting - 1]}\N{HORIZONTAL ELLIPSIS}"
    label = tag("text", text, x=f"{left + 4:.1f}", y=top + _LANE - 8, class_="inside") if fitting > 2 else ""
    return tag("g", tag("title", about), shape, label)


def _lanes(parts: Sequence[Part]) -> list[int]:
    """Return the row of each segment, so that those that overlap in time are one below the other."""
    ends: list[float] = []
    lanes = []
    for part in parts:
        free = next((lane for lane, end in enumerate(ends) if end <= part.start), len(ends))
        ends[free : free + 1] = [part.end]
        lanes.append(free)
    return lanes


def _overlap(part: Part, others: Sequence[Part] | None) -> str:
    shares = [
        max(0.0, min(part.end, other.end) - max(part.start, other.start))
        / max(max(part.end, other.end) - min(part.start, other.start), 1e-9)
        for other in others or ()
        if other.name == part.name
    ]
    return f"{max(shares, default=0.0):.2f}"


def _place(seconds: float, whole: float) -> float:
    return _LEFT + _WIDTH * seconds / whole


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(10 * seconds), 600)
    return f"{minutes}:{tenths / 10:04.1f}"
