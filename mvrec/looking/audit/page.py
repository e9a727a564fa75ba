"""An audit as one HTML file."""

from collections.abc import Sequence

import numpy as np

from mvrec.looking.audit.findings import File, Finding, counts_of
from mvrec.looking.audit.looks import coloured
from mvrec.looking.audit.reading import Seen
from mvrec.report.charts import bar, png_data
from mvrec.report.markup import Html, name_of, table, tag
from mvrec.report.page import page
from mvrec.report.sections import Section

SHOWN = 60  # groups of files per finding; the JSON has all
ENLARGED = 4  # times, the small pictures that were compared


def audit_page(name: str, files: Sequence[File], reads: Sequence[Seen], every: Sequence[Finding]) -> str:
    """Return the page: faults with their files, then the classes and the lengths of files."""
    sections = [Section("Findings", _overview(every))]
    sections += [
        Section(finding.kind.capitalize(), _files(finding, files, reads)) for finding in every if finding.files
    ]
    sections += [Section("Classes", _classes(files)), Section("Lengths", _lengths(files, reads))]
    return page(name, "data audit", sections, subtitle=f"{len(files)} files")


def _overview(every: Sequence[Finding]) -> Html:
    if not every:
        return tag("p", "Nothing was found.")
    return tag("ul", *(tag("li", tag("b", f"{finding.kind}: "), finding.text) for finding in every))


def _files(finding: Finding, files: Sequence[File], reads: Sequence[Seen]) -> Html:
    groups = list(zip(finding.files, finding.remarks, strict=True))[:SHOWN]
    cards = [_card(group, remark, files, reads) for group, remark in groups]
    more = len(finding.files) - len(cards)
    rest = tag("p", f"{more} more are in the JSON (--json).") if more else Html("")
    return Html(tag("p", finding.text) + tag("div", *cards, class_="mistakes") + rest)


def _card(group: Sequence[int], remark: str, files: Sequence[File], reads: Sequence[Seen]) -> Html:
    parts = []
    for number in group:
        file, look = files[number], reads[number].look
        if look is None:
            parts.append(tag("div", "no picture", class_="missing"))
        else:
            pictures = [picture.repeat(ENLARGED, 0).repeat(ENLARGED, 1) for picture in coloured(look)]
            shown = [
                tag("img", src=png_data(picture), alt=f"{file.path}, frame {place}")
                for place, picture in enumerate(pictures, 1)
            ]
            parts.append(tag("div", *shown, class_="film"))
        parts.append(tag("p", tag("b", f"{file.split}: "), name_of(", ".join(file.labels) or "no class")))
        parts.append(tag("p", name_of(file.path), class_="path"))
    return tag("div", *parts, tag("p", remark), class_="mistake")


def _classes(files: Sequence[File]) -> Html:
    counts = counts_of(files)
    names = sorted({name for of_split in counts.values() for name in of_split})
    most = max((count for of_split in counts.values() for count in of_split.values()), default=1)
    first = next(iter(counts), "train")
    rows = [
        (name_of(name), *(of_split[name] for of_split in counts.values()), _barred(counts[first][name] / most))
        for name in names
    ]
    return table(("class", *counts, ""), rows, numeric=set(range(1, 1 + len(counts)))) if rows else Html("")


def _lengths(files: Sequence[File], reads: Sequence[Seen]) -> Html:
    lengths: dict[str, list[float]] = {}
    for file, each in zip(files, reads, strict=True):
        if each.look is not None and each.look.seconds:
            for name in file.labels:
                lengths.setdefault(name, []).append(each.look.seconds)
    longest = max((max(values) for values in lengths.values()), default=1.0)
    rows = [
        (name_of(name), *(f"{value:.1f}" for value in (min(values), np.median(values), max(values))),
         _barred(float(np.median(values)) / longest))
        for name, values in sorted(lengths.items())
    ]  # fmt: skip
    return table(("class", "shortest, s", "median, s", "longest, s", ""), rows, numeric={1, 2, 3}) if rows else Html("")


def _barred(share: float) -> Html:
    return tag("div", bar(share), class_="barcell")
