"""Tables over many runs: the best first, a table for each set of files and protocol, and what seeds alone change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mvrec.compare.outcomes import TableRun, check_comparable
from mvrec.compare.result import configuration_changes, ranked
from mvrec.compare.scored import CANNOT, SEED, ScoredRun
from mvrec.compare.statistics import Interval
from mvrec.compare.text import Cells, difference_text, interval_text, unit_of
from mvrec.errors import UserError

NUMBERS = ("low", "high", "difference", "difference_low", "difference_high", "p")  # the same in a CSV
RESULTS = ("95 % interval", "difference to the best", "its 95 % interval", "p")  # columns of a table after the score


@dataclass(frozen=True)
class Table:
    """The runs that can be compared with one another.

    Attributes:
        runs: The best first.
        rows: The header, and a row per run.
        values: Score and `NUMBERS` of each run.
        unranked: The runs in the given order.
        remark: Why they are not in the first table; "" for the first one.
    """

    runs: list[ScoredRun]
    rows: Cells
    values: list[list[float | None]]
    unranked: list[ScoredRun]
    remark: str = ""

    @property
    def lines(self) -> list[str]:
        """The table as text, and the mean over runs that differ by seed alone."""
        return [*self.headings, *aligned(self.rows), *self.cautions, *seed_lines(self.runs)]

    @property
    def metric(self) -> str:
        """The score that ranks the runs."""
        return self.runs[0].metric

    @property
    def headings(self) -> list[str]:
        """The files and the protocol of the scores, and why a column is missing."""
        first = self.runs[0]
        number = len(self.runs)
        same = "" if number == 1 else f", the same in {'both' if number == 2 else f'all {number}'} runs"
        lines = [f"{first.counted} {first.noun}{same}; {first.scored_on}"]
        without = [run for run in self.runs if run.measure is None]
        if without and len(self.runs) > 1:
            lines.append(f"differences without interval and test{without[0].hint}")
        return [*([self.remark] if self.remark else []), *lines]

    @property
    def cautions(self) -> list[str]:
        """A remark on the luck of the best of many runs."""
        if len(self.runs) < 3:
            return []
        return [f"the best of {len(self.runs)} runs looks better than it is: test it on files that did not choose it"]


def tables(runs: Sequence[ScoredRun], *, is_strict: bool = False) -> list[Table]:
    """Return a table for each set of runs on the same files under the same protocol, the one of most runs first.

    Args:
        runs: At least one.
        is_strict: Whether all must be comparable.

    Raises:
        UserError: They are not.
    """
    sets: list[list[TableRun]] = []
    for run in map(TableRun, runs):
        for members in sets:
            try:
                check_comparable(members[0], run)
            except UserError:
                if is_strict:
                    raise
                continue
            members.append(run)
            break
        else:
            sets.append([run])
    sets.sort(key=len, reverse=True)
    return [_table(members, _remark(sets[0][0], members[0])) for members in sets]


def _remark(first: TableRun, other: TableRun) -> str:
    try:
        check_comparable(first, other)
    except UserError as error:
        return f"not comparable with the runs above: {str(error).partition(CANNOT)[2]}"
    return ""


def _table(members: Sequence[TableRun], remark: str) -> Table:
    """Return the table of runs that can be compared; columns without any value are left out."""
    row_of = {id(member.run): member for member in members}
    ordered = ranked([member.run for member in members])
    best = ordered[0]
    settings = configuration_changes(ordered)
    rows: Cells = [["run", best.metric, *RESULTS, *(key for key, _ in settings)]]
    values: list[list[float | None]] = []
    for place, run in enumerate(ordered):
        member = row_of[id(run)]
        value = run.metrics.get(best.metric, math.nan)
        difference = (None, None, None) if run is best else member.difference(row_of[id(best)])
        values.append(_numbers(value, member.interval, *difference))
        score = "none" if math.isnan(value) else run.report.metric_text(best.metric, value)
        cells = [run.name, score, *_texts(member.interval, *difference, unit=unit_of(run))]
        rows.append([*cells, *(texts[place] for _, texts in settings)])
    shown = [column for column in range(len(rows[0])) if column < 2 or any(row[column] for row in rows[1:])]
    rows = [[row[column] for column in shown] for row in rows]
    return Table(ordered, rows, values, [member.run for member in members], remark)


def _numbers(
    value: float, extent: Interval | None, difference: float | None, interval: Interval | None, p: float | None
) -> list[float | None]:
    return [value, *(extent or (None, None)), difference, *(interval or (None, None)), p]


def _texts(
    extent: Interval | None, difference: float | None, interval: Interval | None, p: float | None, *, unit: str | None
) -> list[str]:
    texts = [interval_text(each, unit) if each else "" for each in (extent, interval)]
    changed = "" if difference is None else difference_text(difference, unit)
    return [texts[0], changed, texts[1], "" if p is None else f"{p:.3g}"]


def seed_lines(runs: Sequence[ScoredRun]) -> list[str]:
    """Return mean and standard deviation of each set of runs that differ by seed alone, the best first.

    Args:
        runs: Runs that can be compared, the best first.
    """
    sets: dict[tuple[tuple[str, str], ...], list[ScoredRun]] = {}
    for run in runs:
        if not math.isnan(run.metrics.get(runs[0].metric, math.nan)):
            settings = tuple((key, value) for key, value in run.settings.items() if key != SEED)
            sets.setdefault(settings, []).append(run)
    repeated = [members for members in sets.values() if len({run.settings.get(SEED) for run in members}) > 1]
    if not repeated:
        return []
    metric, sign = runs[0].metric, 1 if runs[0].is_error else -1
    values = {id(members): [run.metrics[metric] for run in members] for members in repeated}
    repeated.sort(key=lambda members: sign * fmean(values[id(members)]))
    changed = [key for key, _ in configuration_changes([members[0] for members in repeated]) if key != SEED]
    header = ["runs that differ by seed alone", f"mean {metric}", "standard deviation", "from", "to", *changed]
    rows = [header]
    for members in repeated:
        scores = values[id(members)]
        texts = [members[0].report.metric_text(metric, value) for value in (fmean(scores), min(scores), max(scores))]
        spread = difference_text(stdev(scores), unit_of(members[0]), signed=False)
        names = f"{len(members)}: {', '.join(run.name for run in members)}"
        rows.append([names, texts[0], spread, *texts[1:], *(members[0].settings.get(key, "-") for key in changed)])
    return ["", *aligned(rows)]


def aligned(rows: Cells) -> list[str]:
    """Return rows as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def table_file(parts: Sequence[Table]) -> Cells:
    """Return all tables as one of plain numbers, such as 0.12 for 12 %, and all settings that differ.

    The column `table` numbers the tables; a cell without a value is empty.
    """
    settings = configuration_changes([run for part in parts for run in part.runs])
    scores = list(dict.fromkeys(part.metric for part in parts))
    lines: Cells = [["table", "run", *scores, *NUMBERS, *(key for key, _ in settings)]]
    for number, part in enumerate(parts, 1):
        for run, (score, *others) in zip(part.runs, part.values, strict=True):
            cells = [_plain(score) if name == part.metric else "" for name in scores]
            texts = [values[len(lines) - 1] for _, values in settings]
            lines.append([str(number), run.name, *cells, *map(_plain, others), *texts])
    return lines


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
