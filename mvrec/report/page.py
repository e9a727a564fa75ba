"""The report of a run: one HTML file for any browser, without network or GPU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mvrec.errors import DecodeError
from mvrec.report.charts import Panel, line_chart
from mvrec.report.markup import Html, facts, folded, join, name_of, table, tag
from mvrec.report.score import score_section
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, mapping, number
from mvrec.report.style import STYLE
from mvrec.runs.monitors import mode_of

# A page may load nothing from outside, so not even a class name can make it contact a server.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

MOST_UNREADABLE = 100  # training files to list


def no_thumbnails(row: Any) -> Sequence[bytes]:
    """Raise an error instead of opening a file for its thumbnails."""
    raise DecodeError(row.path, "pictures were not requested")


def render_report(
    report: TaskReport,
    *,
    panels: Sequence[Panel] = (),
    thumbnails: Thumbnails = no_thumbnails,
    most_mistakes: int = 24,
    more: Sequence[Section] = (),
) -> str:
    """Return the report as HTML.

    Args:
        report: The run directory; see `read_run`.
        panels: The training curves.
        thumbnails: Returns the network's view of a file as JPEGs, or raises `DecodeError`.
        most_mistakes: The largest number of mistakes.
        more: Sections after those of the task.
    """
    results = report.results
    of_task = [*report.sections(thumbnails=thumbnails, most_mistakes=most_mistakes), *more]
    sections = _sections(report, panels, of_task)
    return page(results.run_dir.resolve().name, "report", sections, subtitle=_subtitle(report), notes=results.notes)


def page(name: str, kind: str, sections: Sequence[Section], *, subtitle: str = "", notes: Sequence[str] = ()) -> str:
    """Return sections as one HTML file that loads nothing.

    Args:
        name: What the page is about.
        kind: The command that writes it, for the title.
        sections: Empty ones are skipped.
        subtitle: A line below the name.
        notes: Remarks before the sections.
    """
    shown = [section for section in sections if section.content]
    links = [tag("a", section.title, href=f"#{section.anchor}") for section in shown]
    body = [
        tag("header", tag("h1", name_of(name)), tag("p", subtitle, class_="faint"), tag("nav", *links)),
        _notes(notes),
        tag("main", *(_framed(section) for section in shown)),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name} - mvrec {kind}"),
        tag("style", Html(STYLE)),
    ]
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"


def _sections(report: TaskReport, panels: Sequence[Panel], of_task: Sequence[Section]) -> list[Section]:
    results = report.results
    return [
        Section("Score", score_section(report)),
        Section("Training", _training(report, panels)),
        *of_task,
        Section("Data", _data(results)),
        Section("Training files that could not be read", _unreadable(results)),
        Section("Parameter groups", _groups(results.parameter_groups)),
        Section("Environment", _environment(results)),
        Section("Configuration", join(folded(name, tag("pre", text)) for name, text in results.configs.items())),
    ]


def _framed(section: Section) -> Html:
    heading = tag("h2", section.title, id=section.anchor)
    return tag("section", heading, section.content, aria_labelledby=section.anchor)


def _subtitle(report: TaskReport) -> str:
    results = report.results
    version = results.score.get("mvrec") or results.environment.get("mvrec")
    parts = [*report.subtitle(), str(results.data.get("module") or ""), f"mvrec {version}" if version else ""]
    return " \N{MIDDLE DOT} ".join(part for part in parts if part)


def _notes(notes: Sequence[str]) -> Html:
    return tag("div", *(tag("p", note) for note in notes), class_="notes", role="note") if notes else Html("")


def _training(report: TaskReport, panels: Sequence[Panel]) -> Html:
    charts = [chart for panel in panels if (chart := line_chart(panel))]
    if not charts:
        return Html("")
    return join([_best(report, panels), tag("div", *charts, class_="grid")])


def _best(report: TaskReport, panels: Sequence[Panel]) -> Html:
    """Return a sentence about the best validation of the run; among equals the one of best.ckpt."""
    lines = {name: line for panel in panels for name, line in panel.lines.items()}
    losses = dict(zip(*lines.get("val/loss", ((), ())), strict=True))
    for name in report.monitors:
        steps, values = lines.get(name, ((), ()))
        if values:
            sign = -1 if mode_of(name) == "min" else 1
            ranks = [
                (sign * value, -losses.get(step, math.inf), step, value)
                for step, value in zip(steps, values, strict=True)
            ]
            *_, step, score = max(ranks)
            metric = name.removeprefix("val/")
            best = f"{report.metric_title(metric)} {report.metric_text(metric, score)} at step {step}"
            best += _certainty(report, metric, score)
            last = report.metric_text(metric, values[-1])
            return tag("p", f"Best validation: {best}; the last of {len(values)}: {last}.")
    return Html("")


def _certainty(report: TaskReport, metric: str, score: float) -> str:
    """Return count, interval and chance of a validation in brackets, as far as they are recorded."""
    validation = report.results.validation
    note = report.metric_note(metric, score, int(number(validation.get("expected")) or 0))
    chance = number(mapping(validation.get("chance")).get(metric))
    parts = [note, None if chance is None else f"chance {report.metric_text(metric, chance)}"]
    return f" ({'; '.join(part for part in parts if part)})" if any(parts) else ""


def _data(results: RunResults) -> Html:
    """Return the data as recorded by the run, and splits that only the test has read."""
    tested = mapping(results.score.get("data"))
    data = {**results.data, **tested}
    splits = {**mapping(results.data.get("splits")), **mapping(tested.get("splits"))}
    if not data:
        return Html("")
    pairs = [
        ("Module", data.get("module")),
        ("Root", tag("code", data["root"]) if data.get("root") else None),
        ("Layout", data.get("layout")),
    ]
    rows = [
        (name, mapping(split).get("files", ""), tag("code", mapping(split).get("sha256", "")))
        for name, split in splits.items()
    ]
    listing = table(("split", "files", "SHA-256 of its list"), rows, numeric={1}) if rows else Html("")
    return join([facts(pairs), listing])


def _unreadable(results: RunResults) -> Html:
    rows = [(name_of(path), cause) for path, cause in results.unreadable]
    if not rows:
        return Html("")
    parts = [tag("p", "Other files took their places."), table(("file", "cause"), rows[:MOST_UNREADABLE])]
    if len(rows) > MOST_UNREADABLE:
        parts.append(tag("p", f"{len(rows) - MOST_UNREADABLE} more are in unreadable.jsonl."))
    return join(parts)


def _groups(groups: Sequence[dict[str, Any]]) -> Html:
    if not groups:
        return Html("")
    total = sum(int(number(group.get("parameters")) or 0) for group in groups)
    rows = [
        (
            group.get("name", ""),
            group.get("tensors", ""),
            f"{int(number(group.get('parameters')) or 0):,}",
            _rate(group.get("lr")),
            _rate(group.get("weight_decay")),
        )
        for group in groups
    ]
    header = ("group", "tensors", "parameters", "peak learning rate", "weight decay")
    names = [
        folded(
            f"{group.get('name', '')}: the {len(group['names'])} tensors",
            tag("pre", "\n".join(map(str, group["names"]))),
        )
        for group in groups
        if group["names"]
    ]
    return join([tag("p", f"{total:,} parameters."), table(header, rows, numeric={1, 2, 3, 4}), *names])


def _rate(value: Any) -> str:
    rate = number(value)
    return "" if rate is None else f"{rate:.3g}"


def _weights(record: Mapping[str, Any]) -> Html | None:
    if not record:
        return None
    source = record.get("address") or record.get("page")
    return join([tag("code", record.get("file", "")), f" {source}" * bool(source), f" SHA-256 {record.get('sha256')}"])


def _environment(results: RunResults) -> Html:
    environment = results.environment
    if not environment:
        return Html("")
    hosts = [str(host) for host in environment.get("hosts") or ()]
    counted = ", ".join(
        f"{host} ({hosts.count(host)} processes)" if len(hosts) > 1 else host for host in dict.fromkeys(hosts)
    )
    devices = [str(device) for device in environment.get("devices") or ()]
    gpus = ", ".join(f"{devices.count(name)} x {name}" for name in dict.fromkeys(devices)) or "CPU"
    command = environment.get("command")
    packages = mapping(environment.get("packages"))
    return facts(
        [
            ("mvrec", environment.get("mvrec")),
            ("Initial weights", _weights(mapping(environment.get("weights")))),
            ("Revision", tag("code", environment["git_revision"]) if environment.get("git_revision") else None),
            ("Python", environment.get("python")),
            ("Platform", environment.get("platform")),
            ("Hosts", counted),
            ("Devices of a host", gpus),
            ("Slurm job", environment.get("slurm_job_id")),
            ("Command", tag("code", " ".join(map(str, command))) if isinstance(command, list) else None),
            ("Packages", ", ".join(f"{name} {version or '-'}" for name, version in packages.items())),
        ]
    )
