"""Fill the tables of docs/performance.md from the files of benchmarks/results.

python benchmarks/page.py                # rewrite the page
python benchmarks/page.py --check        # exit 1 if the page is not what the files give
python benchmarks/page.py --measure 30   # run all benchmarks that fit into 30 minutes, then rewrite it

A table stands between `<!-- table NAME -->` and `<!-- end -->`, where NAME is the stem of its files: a block for every
machine that has one, headed by machine, versions, date, load and command. `<!-- table NAME by subject -->` has a column
per subject, with ratios in the cells. The text around the tables, with the conclusions, is written by hand.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from results.figures import FOLDER, Figures, Row

PAGE = FOLDER.parents[1] / "docs/performance.md"
# What `--measure` runs, with flags, and minutes on two cores, above which it is stopped.
BENCHMARKS: dict[str, tuple[tuple[str, ...], float]] = {
    "images": ((), 1),
    "decode": ((), 4),
    "evaluation_decode": (("--quick",), 2),
    "training_clip": (("--quick",), 2),
    "busy": (("--quick",), 3),
    "large_pages": (("--quick",), 2),
    "mvit": (("--quick",), 5),
    "image_networks": (("--quick",), 2),
    "startup": (("--quick",), 4),
    "roofline": (("--quick",), 1),
    "run": (("--quick",), 6),
    "evaluation_run": (("--quick",), 4),
    "decoder_memory": (("--quick",), 3),
}
LEFT_OUT = {
    "gpu": "needs a GPU: python benchmarks/gpu.py --json",
    "cost_curves": "most of an hour, and a page of its own: docs/cost_curves.md",
    "detection": "minutes, and a GPU would say more: python benchmarks/detection.py --json",
    "segmentation": "minutes per head, and a GPU would say more: python benchmarks/segmentation.py --json",
    "small_sets": "hours of training, and a page of its own: docs/small_sets.md",
}
MARKED = re.compile(r"(<!-- table (\w+)( by subject)? -->\n).*?(<!-- end -->)", re.DOTALL)


def number(value: float) -> str:
    """Return a figure with three digits, or more where it has them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(row: Row) -> str:
    """Return the ratios of all runs."""
    runs = row.ratio if isinstance(row.ratio, list) else [] if row.ratio is None else [row.ratio]
    return ", ".join(f"{each:.2f}" for each in runs)


def span(row: Row) -> str:
    if row.low is None or row.high is None:
        return ""
    write = number if row.ratio is None else "{:.2f}".format
    return f"{write(row.low)} to {write(row.high)}"


def figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}".strip()


def goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{row.goal:g}" if row.ratio is not None else f"below {row.goal:g}"


def markdown(lines: list[list[str]]) -> str:
    """Return a table of its header and rows, without the columns that are empty in all rows."""
    header, *body = lines
    columns = [place for place in range(len(header)) if any(line[place] for line in body)]
    rows = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(row[place] for place in columns) + " |" for row in rows)


def by_row(rows: list[Row]) -> str:
    """Return a table with a line per row."""
    more = list(dict.fromkeys(name for row in rows for name in row.more))
    lines = [["What", "Measure", "Peer", "mvrec", "Peer's", "Ratio", "Range", "Goal", *more, "Remark"]]
    for row in rows:
        others = [number(value) if isinstance(value, int | float) else value or "" for value in map(row.more.get, more)]
        pair = [figure(row.mvrec, row.unit), figure(row.other, row.unit)]
        lines.append([row.subject, row.measure, row.peer, *pair, ratio(row), span(row), goal(row), *others, row.note])
    return markdown(lines)


def by_subject(rows: list[Row]) -> str:
    """Return a table with a line per measure and a column per subject."""
    cells = {(row.measure, row.subject): ratio(row) for row in rows}
    subjects, measures = (list(dict.fromkeys(names)) for names in ((r.subject for r in rows), (m for m, _ in cells)))
    goals = {row.measure: goal(row) for row in rows if row.goal is not None}
    lines = [["Measure", "Goal", *subjects]]
    lines += [[name, goals.get(name, ""), *(cells.get((name, each), "") for each in subjects)] for name in measures]
    return markdown(lines)


def heading(about: dict) -> str:
    """Return machine, versions, date, load and command of a file in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    facts = [f"**{about['machine']}**: {about['processor']}"]
    facts += [f"{about['cores']} cores"] if about.get("cores") else []
    facts += [versions] if versions else []
    facts += [about["date"]] if about.get("date") else []
    if about.get("load"):
        facts.append(f"load {' to '.join(f'{each:g}' for each in about['load'])}")
    facts += [f"`{about['command']}`", *([f"from the {about['source']}"] if about.get("source") else [])]
    return f"{'; '.join(facts)}."


def table(name: str, *, pivot: bool, folder: Path = FOLDER) -> str:
    """Return all blocks of a table, or how to measure it."""
    blocks = []
    for path in sorted(folder.glob(f"*/{name}.json")):
        measured = Figures.read(path)
        missing = "".join(f"\n\nLeft out: {line}." for line in measured.about.get("left_out", ()))
        blocks.append(f"{heading(measured.about)}\n\n{(by_subject if pivot else by_row)(measured.rows)}{missing}")
    return "\n\n".join(blocks) or f"Not measured yet: `python benchmarks/{name}.py --json`."


def filled(page: str, folder: Path = FOLDER) -> str:
    """Return the page with the tables of the files in a folder."""
    return MARKED.sub(lambda m: f"{m[1]}\n{table(m[2], pivot=bool(m[3]), folder=folder)}\n\n{m[4]}", page)


def measured(minutes: float) -> list[str]:
    """Run the benchmarks that fit into so many minutes; return a line for each that is left out or failed."""
    missing = [f"{name}: {reason}" for name, reason in LEFT_OUT.items()]
    end = time.monotonic() + 60 * minutes
    for name, (flags, expected) in BENCHMARKS.items():
        path, left = FOLDER.parent / f"{name}.py", (end - time.monotonic()) / 60
        if left < expected:
            missing.append(f"{name}: {left:.1f} minutes were left, it needs up to {expected:g}")
            continue
        print(f"\n# {name} {' '.join(flags)}, up to {expected:g} minutes", flush=True)
        try:
            code = subprocess.run([sys.executable, str(path), *flags, "--json"], timeout=60 * expected).returncode
        except subprocess.TimeoutExpired:
            missing.append(f"{name}: stopped after {expected:g} minutes, with the rows measured by then")
        else:
            missing += [f"{name}: failed with exit code {code}"] if code else []
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if something would change")
    parser.add_argument("--measure", type=float, metavar="MINUTES", help="run all benchmarks that fit")
    options = parser.parse_args()
    missing = [] if options.measure is None else measured(options.measure)
    page = PAGE.read_text()
    if filled(page) != page:
        if options.check:
            sys.exit("docs/performance.md differs from benchmarks/results: run python benchmarks/page.py")
        PAGE.write_text(filled(page))
    print(*(f"left out: {line}" for line in missing), sep="\n", end="\n" if missing else "")


if __name__ == "__main__":
    main()
