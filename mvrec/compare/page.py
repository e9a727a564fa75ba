"""A comparison as one HTML file."""

from collections.abc import Sequence

from mvrec.compare.result import (
    Change,
    Comparison,
    changes,
    class_changes,
    compare,
    configuration_changes,
    ranked,
    tested,
)
from mvrec.compare.scored import ScoredRun
from mvrec.compare.tables import RESULTS, Table, seed_lines
from mvrec.compare.text import pair_lines
from mvrec.report.charts import Panel, change_bar, line_chart
from mvrec.report.markup import Html, join, name_of, table, tag
from mvrec.report.page import page
from mvrec.report.sections import Section, Thumbnails, film
from mvrec.runs.curves import read_columns

MOST_FILES = 24
MOST_REMARKS = 10  # one per run: its own report has the others


def comparison_page(
    runs: Sequence[ScoredRun], parts: Sequence[Table], thumbnails: Thumbnails, *, notes: Sequence[str] = ()
) -> str:
    """Return the page over runs: the tables, of two runs also all that changed, curves and configurations.

    Args:
        runs: The runs.
        parts: Their tables; see `tables`.
        thumbnails: Pictures of a file; see `TaskReport.sections`.
        notes: Remarks, such as runs that were left out.
    """
    sections = [Section("Runs" if not part.remark else f"Runs {part.runs[0].name}", _table(part)) for part in parts]
    if len(runs) == 2 and len(parts) == 1:
        result = tested(compare(*runs))
        sections += [
            Section("Difference", tag("pre", "\n".join(pair_lines(result)))),
            Section("Classes", _classes(result)),
            Section("Files that changed", _files(result, thumbnails)),
        ]
    sections += [Section("Curves", _curves(runs)), Section("Configuration", _configuration(runs))]
    first = runs[0]
    subtitle = f"{first.counted} {first.noun} \N{MIDDLE DOT} {first.scored_on}"
    remarks = [f"{run.name}: {run.report.results.notes[0]}" for run in runs if run.report.results.notes]
    if len(remarks) > MOST_REMARKS:
        remarks[MOST_REMARKS:] = [f"{len(remarks) - MOST_REMARKS} more runs have remarks: mvrec report RUN"]
    name = " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    return page(name, "compare", sections, subtitle=subtitle, notes=[*notes, *remarks])


def _table(part: Table) -> Html:
    header, *rows = part.rows
    numeric = {place for place, name in enumerate(header) if place == 1 or name in RESULTS}
    body = table(header, [[name_of(row[0]), *row[1:]] for row in rows], numeric=numeric)
    seeds = seed_lines(part.runs)
    return join(
        [
            *(tag("p", line) for line in part.headings),
            body,
            *(tag("p", line) for line in part.cautions),
            tag("pre", "\n".join(seeds[1:])) if seeds else Html(""),
        ]
    )


def _classes(result: Comparison) -> Html:
    rows = class_changes(result.first, result.second)
    if not rows:
        return Html("")
    runs = (result.first, result.second)
    if rows[0].files is None:
        header = ["class", *(f"score in {run.name}" for run in runs), "change in points", ""]
        values = [
            [f"{100 * row.first:.2f} %", f"{100 * row.second:.2f} %", _signed(100 * row.change, 2)] for row in rows
        ]
    else:
        header = ["class", "files", *(f"right in {run.name}" for run in runs), "change", ""]
        values = [
            [str(row.files), f"{row.first:.0f}", f"{row.second:.0f}", _signed(row.second - row.first, 0)]
            for row in rows
        ]
    cells = [
        [name_of(row.name), *texts, tag("div", change_bar(row.change), class_="barcell")]
        for row, texts in zip(rows, values, strict=True)
    ]
    return table(header, cells, numeric=set(range(1, len(header) - 1)))


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def _files(result: Comparison, thumbnails: Thumbnails) -> Html:
    changed = changes(result.first, result.second)
    if not changed:
        return Html("")
    parts = []
    for is_gain, run in ((False, result.first), (True, result.second)):
        side = [change for change in changed if change.is_gain is is_gain]
        title = f"{run.name} is better on {len(side)}" + (f", of which {MOST_FILES}" if len(side) > MOST_FILES else "")
        shown = [_file(change, result, thumbnails) for change in side[:MOST_FILES]]
        parts += [tag("h3", title), tag("div", *shown, class_="mistakes")]
    return join(parts)


def _file(change: Change, result: Comparison, thumbnails: Thumbnails) -> Html:
    pictures, style = film(change.first.row, thumbnails, about=change.path)
    lines = [tag("p", tag("b", "true: "), name_of(change.truth))]
    for run, file in ((result.first, change.first), (result.second, change.second)):
        lines.append(tag("p", tag("b", f"{run.name}: "), name_of(file.answer)))
    return tag("div", pictures, tag("div", *lines, tag("p", name_of(change.path), class_="path")), class_=style)


def _curves(runs: Sequence[ScoredRun]) -> Html:
    columns = {run.name: _columns(run) for run in runs}
    names = ("train/loss", "val/loss", f"val/{runs[0].metric}")
    panels = [
        Panel(name, {run: changed[name] for run, changed in columns.items() if name in changed}, caption="")
        for name in dict.fromkeys(names)
    ]
    charts = [chart for panel in panels if (chart := line_chart(panel))]
    return tag("div", *charts, class_="grid") if charts else Html("")


def _columns(run: ScoredRun) -> dict[str, tuple[list[int], list[float]]]:
    path = run.folder / "metrics.csv"
    try:
        return read_columns(path) if path.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        run.report.results.notes.append(f"metrics.csv is damaged and was left out ({error})")
        return {}


def _configuration(runs: Sequence[ScoredRun]) -> Html:
    ordered = ranked(runs)
    rows = [(tag("code", key), *values) for key, values in configuration_changes(ordered)]
    return table(("key", *(run.name for run in ordered)), rows) if rows else Html("")
