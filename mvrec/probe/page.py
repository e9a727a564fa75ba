"""A probe's result as one HTML file."""

from mvrec.messages import counted
from mvrec.probe.result import RULES, Result, advice
from mvrec.report.charts import Panel, line_chart
from mvrec.report.markup import Html, table, tag
from mvrec.report.page import page
from mvrec.report.sections import Section


def probe_page(result: Result) -> str:
    """Return the page: the advice, the probes, the learning curve, and what cross-validation saw."""
    counts = f"{result.files} files of train, {len(result.truth)} of {result.split}"
    subtitle = f"{counts} \N{MIDDLE DOT} {result.protocol}"
    notes = [] if result.has_weights else ["The network has no weights: these are the features of random ones."]
    if result.left_out:
        notes.append(f"Left out because unreadable: {counted(result.left_out, 'files')}.")
    sections = [
        Section("Advice", Html(tag("p", tag("b", advice(result))) + tag("p", RULES, class_="faint"))),
        Section("Probes", _probes(result)),
        Section("Learning curve", _curve(result)),
        Section("Cross-validation", _settings(result)),
    ]
    return page(result.network, "probe", sections, subtitle=subtitle, notes=notes)


def _probes(result: Result) -> Html:
    rows = [("chance", "", f"{100 * result.chance:.2f} %", "", "")]
    for probe in result.probes:
        interval = result.interval(probe)
        extent = f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else ""
        fit = "" if probe.fit is None else f"{100 * probe.fit:.2f} %"
        rows.append((probe.name, probe.setting, f"{100 * result.score(probe):.2f} %", extent, fit))
    header = ("probe", "setting", f"{result.metric} of {result.split}", "95 % interval", "in training")
    return table(header, rows, numeric={2, 3, 4})


def _curve(result: Result) -> Html:
    if len(result.points) < 2:
        return Html("")
    counts = [point.per_class for point in result.points]
    scores, low, high = ([100 * getattr(point, key) for point in result.points] for key in ("score", "low", "high"))
    panel = Panel(
        f"linear probe, {result.metric} in %",
        {"mean over draws": (counts, scores)},
        bands={"mean over draws": (low, high)},
        across="labels per class",
        levels={"chance": 100 * result.chance, "enough": 100 * result.enough},
        caption="band: 95 % interval of the mean over draws of labels; the last point has all labels",
    )
    rows = [
        (point.per_class, f"{point.files:.0f}", f"{100 * point.score:.2f}", f"{100 * point.low:.2f}",
         f"{100 * point.high:.2f}", point.draws)
        for point in result.points
    ]  # fmt: skip
    header = ("labels per class", "files", f"{result.metric} in %", "lower end", "upper end", "draws")
    return Html(tag("div", line_chart(panel), class_="grid") + table(header, rows, numeric=set(range(6))))


def _settings(result: Result) -> Html:
    rows = [
        (probe.name, setting, f"{100 * score:.2f} %", "chosen" if setting == probe.setting else "")
        for probe in result.probes
        for setting, score in probe.scores.items()
    ]
    return table(("probe", "setting", "mean of the folds", ""), rows, numeric={2})
