"""Charts of a report as inline SVG, which follow the page's colours and need no drawing library."""

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mvrec.report.markup import Html, join, tag

MOST_POINTS = 400  # of a line; a screen shows no more
MOST_SCATTERED = 2000  # points of a scatter
MARKED_POINTS = 30  # a line of fewer points marks them

_WIDTH, _HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 34


@dataclass(frozen=True)
class Panel:
    """One chart of lines.

    Attributes:
        title: The title.
        lines: Steps and values of each line, by name.
        logarithmic: Whether the value axis is logarithmic; it skips values that are not above 0.
        across: The name of the steps.
        levels: Values drawn as dashed lines across the chart, by name.
        caption: A remark below the chart.
        bands: Lower and upper ends around a line at each of its steps, by the line's name.
    """

    title: str
    lines: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    logarithmic: bool = False
    across: str = "optimiser step"
    levels: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Axis:
    """An axis of a chart."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        value = math.log10(value) if self.logarithmic else value
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)


def line_chart(panel: Panel) -> Html:
    """Return a chart of lines with its legend; a line of many points keeps its peaks."""
    lines = {
        name: [(step, value) for step, value in zip(*line, strict=True) if value > 0 or not panel.logarithmic]
        for name, line in panel.lines.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Html("")
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points] + list(panel.levels.values())
    values += [value for ends in panel.bands.values() for end in ends for value in end]
    across = _Axis(*_widened(min(steps), max(steps)), _LEFT, _WIDTH - _RIGHT)
    low, high = _widened(min(values), max(values), logarithmic=panel.logarithmic)
    up = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, panel.logarithmic)
    drawn = [_grid(across, up, panel.across)]
    for number, (name, points) in enumerate(lines.items()):
        if name in panel.bands:
            drawn.append(_band(panel.lines[name][0], panel.bands[name], across, up, f"band line{number % 6}"))
        drawn.append(_line(points, across, up, f"line line{number % 6}"))
    for value in panel.levels.values():
        y = f"{up.place(value):.1f}"
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="level"))
    last = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in lines.items())
    picture = tag("svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{panel.title}: {last}")
    keys = [tag("li", name, class_=f"key line{number % 6}") for number, name in enumerate(lines)]
    keys += [tag("li", f"{name} {value:.4g}", class_="key level") for name, value in panel.levels.items()]
    remark = tag("p", panel.caption, class_="faint") if panel.caption else None
    return tag("figure", tag("figcaption", panel.title), picture, tag("ul", *keys, class_="legend"), remark)


def _grid(across: _Axis, up: _Axis, label: str) -> Html:
    parts = []
    for value in ticks(up.low, up.high, logarithmic=up.logarithmic):
        y = f"{up.place(value):.1f}"
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{value:.4g}", x=_LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for value in ticks(across.low, across.high, most=5):
        if value == int(value):
            x = f"{across.place(value):.1f}"
            parts.append(tag("text", _short_count(int(value)), x=x, y=_HEIGHT - _BOTTOM + 14, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", label, x=middle, y=_HEIGHT - 4, text_anchor="middle"))
    return join(parts)


def scatter_chart(name: str, pairs: Sequence[tuple[float, float]]) -> Html:
    """Return predicted over true values, one point per file, with the line where both are equal.

    Args:
        name: The name of the values.
        pairs: True and predicted value of each file; of more than `MOST_SCATTERED` only every n-th is drawn.
    """
    drawn_pairs = pairs[:: math.ceil(len(pairs) / MOST_SCATTERED)]
    low, high = _widened(min(map(min, drawn_pairs)), max(map(max, drawn_pairs)))
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    side, left, bottom = 380, 58, 340
    across, up = _Axis(low, high, left, side - 10), _Axis(low, high, bottom, 10)
    parts = [tag("line", x1=left, y1=bottom, x2=side - 10, y2=10, class_="equal")]
    for value in ticks(low, high, most=5):
        x, y = f"{across.place(value):.1f}", f"{up.place(value):.1f}"
        parts.append(tag("line", x1=left, x2=side - 10, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{value:.4g}", x=left - 6, y=y, dy="0.35em", text_anchor="end"))
        parts.append(tag("text", f"{value:.4g}", x=x, y=bottom + 15, text_anchor="middle"))
    parts += [
        tag(
            "circle",
            cx=f"{across.place(true):.1f}",
            cy=f"{up.place(predicted):.1f}",
            r="2.6",
            class_="line line0 point",
        )
        for true, predicted in drawn_pairs
    ]
    middle = (left + side - 10) / 2
    parts.append(tag("text", "true", x=middle, y=bottom + 32, text_anchor="middle"))
    parts.append(tag("text", "predicted", transform=f"translate(12 {bottom / 2}) rotate(-90)", text_anchor="middle"))
    about = f"{name}: predicted over true values of {len(drawn_pairs)} files"
    picture = tag("svg", *parts, viewBox=f"0 0 {side} {side}", role="img", aria_label=about)
    rest = f", {len(drawn_pairs)} of {len(pairs)} files" if len(drawn_pairs) < len(pairs) else ""
    return tag("figure", tag("figcaption", tag("bdi", name), rest), picture)


def _short_count(value: int) -> str:
    return f"{value // 1000}k" if value >= 10_000 and value % 1000 == 0 else str(value)


def _line(points: list[tuple[int, float]], across: _Axis, up: _Axis, style: str) -> Html:
    marked = len(points) < MARKED_POINTS
    places = [(across.place(step), up.place(value)) for step, value in _thinned(points)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [tag("polyline", points=text, class_=style)]
    if marked:
        drawn += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.2", class_=style) for x, y in places]
    return join(drawn)


def _band(
    steps: Sequence[int], ends: tuple[Sequence[float], Sequence[float]], across: _Axis, up: _Axis, style: str
) -> Html:
    low, high = (list(zip(steps, end, strict=True)) for end in ends)
    text = " ".join(f"{across.place(step):.1f},{up.place(value):.1f}" for step, value in [*low, *reversed(high)])
    return tag("polygon", points=text, class_=style)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most about `MOST_POINTS` points: the lowest and highest of each stretch, in order."""
    if len(points) <= MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / MOST_POINTS)
    thinned = []
    for begin in range(0, len(points), stretch):
        part = range(begin, min(begin + stretch, len(points)))
        extremes = {min(part, key=lambda place: points[place][1]), max(part, key=lambda place: points[place][1])}
        thinned += [points[place] for place in sorted(extremes)]
    return thinned


def _widened(low: float, high: float, *, logarithmic: bool = False) -> tuple[float, float]:
    """Return the ends of an axis, apart even if all values are equal."""
    if low == high:
        return (low / 2, high * 2) if logarithmic else (low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1))
    return low, high


def ticks(low: float, high: float, *, most: int = 6, logarithmic: bool = False) -> list[float]:
    """Return round numbers in `low..high`, at most `most` of them on a linear axis.

    Args:
        low: Lower end.
        high: Upper end, above it.
        most: The largest number of ticks.
        logarithmic: Powers of ten, with 2 and 5 in between if there are few.
    """
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 2, 5)):
            values = [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]
            if len(values) >= 3:
                return values[:: math.ceil(len(values) / most)]
        # Less than a decade: linear ticks are as good.
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def bar(share: float) -> Html:
    """Return a bar of 0..1 of its column's width; the number is printed next to it."""
    return tag("span", class_="bar", style=f"width:{100 * min(max(share, 0.0), 1.0):.1f}%", aria_hidden="true")


def change_bar(change: float) -> Html:
    """Return a bar of a change of -1..1: from the column's middle to the right, or of a loss to the left and red."""
    length = 50 * min(abs(change), 1.0)
    begin = 50 - length * (change < 0)
    kind = "bar loss" if change < 0 else "bar"
    drawn = tag("span", class_=kind, style=f"margin-left:{begin:.1f}%;width:{length:.1f}%") if change else Html("")
    return tag("span", drawn, class_="changebar", aria_hidden="true")


def jpeg_data(content: bytes) -> str:
    """Return a JPEG as a URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def png_data(pixels: npt.NDArray[np.uint8]) -> str:
    """Return an image (H, W, 3) as the URI of a PNG."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
