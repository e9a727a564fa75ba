"""`mvrec report`: a run as one HTML file, with its figures next to it."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvrec.data.views.protocol import Protocol, protocol_of
from mvrec.errors import DecodeError, UserError, install_hint
from mvrec.files import at_home, check_target, write_atomically
from mvrec.messages import CommandParser
from mvrec.ranges import COUNT_OR_NONE, check_range
from mvrec.report.charts import Panel
from mvrec.report.folds import pool_runs
from mvrec.report.page import render_report
from mvrec.report.reading import read_run
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, mapping
from mvrec.report.timelines import Bar, timeline_sections
from mvrec.runs.curves import draw_curves, panels_of, read_columns


def main(arguments: list[str]) -> None:
    """Render a run directory as one HTML file that needs no network, with its figures as PNGs in RUN/report.

    Shown are the training curves, and of a run that `mvrec test` has scored the score with its protocol, the classes,
    the confusions and the worst mistakes with what the network saw. Neither a GPU nor the network is needed.

    The runs of a cross-validation (--data.fold 1/5 to 5/5), each scored by `mvrec test`, are put together: each file
    counts once.
    """
    parser = CommandParser(prog="mvrec report", description=main.__doc__)
    text = "the run directory; several, of a cross-validation, get one report with the score of all their files"
    parser.add_argument("runs", type=at_home, metavar="RUN", nargs="+", help=text)
    parser.add_argument(
        "-o",
        "--output",
        type=at_home,
        metavar="FILE",
        help="the HTML file (default: RUN/report.html, of several runs folds/report.html next to them)",
    )
    parser.add_argument("--root", type=at_home, metavar="DIR", help="where the data are now, if they have moved")
    parser.add_argument("--mistakes", type=int, default=24, metavar="N", help="how many mistakes to show (default: 24)")
    text = "segments of long videos, as mvrec recognize --timeline -o FILE.csv writes them: a bar per video"
    parser.add_argument("--segments", type=at_home, metavar="FILE.csv", help=text)
    text = "the true ones (path,label,start,end) in a row above, and their score"
    parser.add_argument("--truth", type=at_home, metavar="LIST", help=text)
    options = parser.parse_args(arguments)
    check_range("--mistakes", options.mistakes, COUNT_OR_NONE)
    if options.truth is not None and options.segments is None:
        raise UserError("--truth is for segments: add --segments FILE.csv, which mvrec recognize --timeline -o writes")
    if options.root is not None and not options.root.is_dir():
        raise UserError(f"--root={options.root}: there is no such directory")
    several = len(options.runs) > 1
    run = options.runs[0].parent / "folds" if several else options.runs[0]
    output = options.output or run / "report.html"
    if options.output is not None:
        check_target(output, flag="--output")
    if several:
        run = output.parent
        for line in pool_runs(options.runs, run):
            print(f"mvrec: {line}")  # noqa: T201
    report = read_run(run)
    results = report.results
    panels = _panels(results)
    more = _timelines(report, options.segments, options.truth)
    pictures = pictures_of(report, options.root)
    try:
        figures = _figures(report, output.with_suffix(""))
        shown = {"panels": panels, "thumbnails": pictures, "most_mistakes": options.mistakes, "more": more}
        write_atomically(output, render_report(report, **shown))
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error} (-o FILE puts it elsewhere)") from None
    for note in results.notes:
        print(f"mvrec: {note}")  # noqa: T201
    figure_text = f", figures in {output.with_suffix('')}: {', '.join(figures)}" if figures else ""
    print(f"{output} ({output.stat().st_size / 1e3:.0f} kB){figure_text}")  # noqa: T201


def _timelines(report: TaskReport, path: Path | None, truth_path: Path | None) -> list[Section]:
    """Return the sections about segments of long videos.

    Raises:
        UserError: A file cannot be read.
    """
    if path is None:
        return []
    from mvrec.inference.timeline.flags import Truth
    from mvrec.inference.timeline.segments_file import read_segments

    results = report.results
    names = [str(name) for name in results.score.get("class_names") or results.data.get("class_names") or ()]
    videos = read_segments(path, names)
    truth = None if truth_path is None else Truth(truth_path, names)
    if truth is not None and videos:
        truth.check_videos(videos, where=f"those of {path}")
    figures = None if truth is None else truth.score(videos)
    sources = [*videos, *sorted(set(truth.spans if truth else ()) - set(videos))]
    bars = [Bar(source, videos.get(source, ()), None if truth is None else truth.of(source)) for source in sources]
    return timeline_sections(
        bars,
        names,
        score="" if figures is None else str(figures),
        precisions=None if figures is None else figures.by_class,
    )


def _panels(results: RunResults) -> list[Panel]:
    """Return the training curves; a note says if they cannot be read."""
    path = results.run_dir / "metrics.csv"
    if not path.is_file():
        return []
    try:
        columns = read_columns(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        results.notes.append(f"metrics.csv is damaged and was left out ({error})")
        return []
    return [
        Panel(
            curves.title,
            {name: columns[name] for name in curves.names},
            curves.logarithmic,
            levels=curves.levels,
            caption=curves.caption,
        )
        for curves in panels_of(columns, results.validation)
    ]


def pictures_of(report: TaskReport, root: Path | None) -> Thumbnails:
    """Return the function for pictures of a file; also fill in the protocol's text if the test wrote none."""
    results = report.results
    recorded = mapping(results.score.get("protocol")) or mapping(results.data.get("protocol"))
    protocol: Protocol | None = None
    try:
        protocol = protocol_of(recorded) if recorded else None
    except ValueError as error:
        results.notes.append(f"no pictures of the mistakes: {error}")
    if protocol is not None and report.was_tested:
        results.score.setdefault("protocol_text", str(protocol))

    def of_row(row: Any) -> Sequence[bytes]:
        if protocol is None:
            raise DecodeError(row.path, "the run's protocol is not known")
        from mvrec.inference.thumbnails import find_file, thumbnails  # torch, which only pictures need

        return thumbnails(find_file(row.path, root), protocol, span=row.span)

    return of_row


def _figures(report: TaskReport, folder: Path) -> list[str]:
    """Draw the PNGs; returns the names of those there are."""
    results = report.results
    if importlib.util.find_spec("matplotlib") is None:
        results.notes.append(f"no PNGs with the report: {install_hint('plot')}")
        return []
    drawn = []
    metrics = results.run_dir / "metrics.csv"
    readable = metrics.is_file() and not any(note.startswith("metrics.csv is damaged") for note in results.notes)
    if readable and draw_curves(metrics, folder / "curves.png"):
        drawn.append("curves.png")
    return [*drawn, *report.figures(folder)]
