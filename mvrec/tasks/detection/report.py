"""The parts of a report about a test of detection: classes, curves, mistakes, confusions, and the worst images."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mvrec.errors import DecodeError
from mvrec.report.charts import Panel, bar, jpeg_data, line_chart
from mvrec.report.file_results import FileResults
from mvrec.report.markup import Html, join, name_of, table, tag
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, csv_rows, failures_table, mapping
from mvrec.tasks.classification.report import confusion_section
from mvrec.tasks.classification.run_results import read_confusion
from mvrec.tasks.detection.predictions import BACKGROUND, CURVES, WORST
from mvrec.tasks.detection.scores import MASKS, in_headline
from mvrec.tasks.ranked_claims import CLAIMS, read_claims

FOUND, MISSED, FALSE, CROWD = "#1a7f37", "#c21e14", "#1f5fbf", "#8a8a8a"
_SIZES = {"small": "small objects (below 32² pixels)", "medium": "medium objects", "large": "large objects (from 96²)"}
_MISTAKES = {
    "right": "right",
    "location": "wrong place: it overlaps an object of its class by 0.1 to 0.5",
    "class": "wrong class: it overlaps an object of another class by 0.5 or more",
    "duplicate": "duplicate: a better detection has the object",
    "background": "on the background",
    "missed": "objects that nothing of the above touches",
}


@dataclass(frozen=True)
class ClassScore:
    """A row of `per_class.csv`; values are nan without objects, those of masks also without masks."""

    name: str
    boxes: float
    boxes_50: float
    masks: float
    objects: int
    right: int
    wrong: int


@dataclass(frozen=True)
class ImageRow:
    """A row of `predictions.csv`, with the names that `Thumbnails` read.

    Attributes:
        path: The file, as recorded by the run.
        objects: True objects without crowds.
        right: Right detections from the best score on.
        wrong: Wrong ones.
        missed: Objects that no detection touches.
        error: Why the file could not be read, or "".
    """

    path: str
    objects: int = 0
    right: int = 0
    wrong: int = 0
    missed: int = 0
    error: str = ""
    span: tuple[float | None, float | None] = (None, None)

    @property
    def balance(self) -> float:
        """Precision and recall as one number (F1), 0..1; 1 without objects and detections."""
        whole = self.right + self.wrong + self.objects
        return 2 * self.right / whole if whole else float(not self.error)


class DetectionReport(TaskReport):
    """Classes, curves, mistakes, confusions, and the images with the most mistakes."""

    monitors = ("val/map", "val/mask_map")

    def __init__(self, results: RunResults) -> None:
        super().__init__(results)
        self.classes = results.read("per_class.csv", read_classes) or []
        self.curves = results.read(CURVES, read_curves) or {}
        self.confusion = results.read("confusion.csv", read_confusion)

    @cached_property
    def worst(self) -> list[dict[str, Any]]:
        """The images with the most mistakes."""
        return self.results.read(WORST, read_worst) or []

    @cached_property
    def images(self) -> list[ImageRow]:
        """The rows of `predictions.csv`."""
        return self.results.read("predictions.csv", read_images) or []

    def subtitle(self) -> list[str]:
        """Return the number of classes, and how outputs became objects."""
        return [
            f"objects of {len(self.classes)} classes" if self.classes else "",
            str(self.results.score.get("rule") or ""),
        ]

    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return classes, curves, mistakes, confusions, the worst images, and unreadable files."""
        return [
            Section("Classes", classes_table(self.classes) if self.classes else Html("")),
            Section("Precision and recall", self._curves()),
            Section("Mistakes", self._mistakes()),
            Section("Confusions", self._confusions()),
            Section("Worst images", self._worst(most_mistakes, thumbnails)),
            Section("Files that could not be read", failures_table(("file", "cause"), self._failed())),
        ]

    def _failed(self) -> list[tuple[Html, str]]:
        return [(name_of(row.path), row.error) for row in self.images if row.error]

    def file_results(self) -> FileResults | None:
        """Return the claims of all detections."""
        return self.results.read(CLAIMS, read_claims)

    def in_headline(self, name: str) -> bool:
        """Return whether a figure is one of the first that papers print."""
        return in_headline(name)

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        of = "masks" if name.startswith(MASKS) else "boxes"
        figure, _, part = name.removeprefix(MASKS).partition("_")
        if figure == "map":
            where = f"at IoU 0.{part}".rstrip("0") if part.isdigit() else _SIZES.get(part, "")
            return f"AP of {of}{where and f', {where}'}"
        where = f"{part} detections an image" if part.isdigit() else _SIZES.get(part, part)
        return f"Recall of {of}, {where}"

    def metric_text(self, name: str, value: float) -> str:
        """Return shares in percent."""
        return f"{100 * value:.2f} %"

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as missed objects"

    @property
    def _score(self) -> str:
        """The score from which mistakes are counted, as text."""
        return f"{float(self.results.score.get('best_score') or 0):.2f}"

    def _curves(self) -> Html:
        panels = [
            Panel(
                f"Precision of {noun} over recall (%), mean of the classes",
                {label: self.curves[f"{beginning}precision{ending}"] for ending, label in _LINES.items()},
                across="recall (%)",
            )
            for beginning, noun in (("", "boxes"), (MASKS, "masks"))
            if f"{beginning}precision" in self.curves
        ]
        return tag("div", *map(line_chart, panels), class_="grid") if panels else Html("")

    def _mistakes(self) -> Html:
        counts = mapping(self.results.score.get("at_best_score"))
        if not counts:
            return Html("")
        text = (
            f"Detections with a score of {self._score} or more, with which precision and recall are balanced best; "
            "kinds as in Bolya et al. 2020."
        )
        rows = [(text, counts.get(name, 0)) for name, text in _MISTAKES.items()]
        return join([tag("p", text), table(("kind", "number"), rows, numeric={1})])

    def _confusions(self) -> Html:
        if self.confusion is None:
            return Html("")
        text = (
            f"Detections of {self._score} or more, at an overlap of 0.5. {BACKGROUND} down are detections without an "
            "object, across objects without a detection."
        )
        return join([tag("p", text), confusion_section(self.confusion, counted="objects")])

    def _worst(self, most: int, thumbnails: Thumbnails) -> Html:
        entries = self.worst[:most]
        if not entries:
            return Html("")
        text = (
            f"The {len(entries)} {self.results.noun} with the most mistakes among detections of {self._score} or "
            "more. True objects are green if they are found, else red; wrong detections are blue and dashed, with "
            "their numbers."
        )
        shown = tag("div", *(image_with_boxes(entry, thumbnails) for entry in entries), class_="mistakes")
        return join([tag("p", text), shown])


_LINES = {"_50": "IoU 0.5", "_75": "IoU 0.75", "": "mean of 0.5 to 0.95"}


def classes_table(classes: Sequence[ClassScore]) -> Html:
    """Return the average precision of classes as bars, the worst first; those without objects are only counted."""
    measured = sorted((row for row in classes if not math.isnan(row.boxes)), key=lambda row: (row.boxes, row.name))
    with_masks = any(not math.isnan(row.masks) for row in measured)
    heads = [("class", None), ("AP of boxes", "num"), ("", "barcell"), ("at IoU 0.5", "num")]
    heads += [("AP of masks", "num")] * with_masks
    heads += [("objects", "num"), ("right", "num"), ("wrong", "num")]
    body = []
    for row in measured:
        numbers = [percent(row.boxes_50), *([percent(row.masks)] * with_masks), row.objects, row.right, row.wrong]
        cells = [tag("td", number, class_="num") for number in numbers]
        bars = tag("td", bar(row.boxes), class_="barcell")
        body.append(tag("tr", tag("td", name_of(row.name)), tag("td", percent(row.boxes), class_="num"), bars, *cells))
    head = tag("tr", *(tag("th", text, scope="col", class_=style) for text, style in heads))
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_="classes")
    parts = [tag("div", whole, class_="scroll", tabindex="0")]
    if absent := len(classes) - len(measured):
        parts.insert(0, tag("p", f"{absent} of {len(classes)} classes have no object and are left out of the means."))
    return join(parts)


def image_with_boxes(entry: Mapping[str, Any], thumbnails: Thumbnails) -> Html:
    """Return an image of `worst.json` with its boxes, and a line for each mistake."""
    row = ImageRow(str(entry["path"]))
    wrong = [box for box in entry["detected"] if box["mistake"]]
    unfound = [box for box in entry["true"] if box["fate"] in ("missed", "covered")]
    colours = {"found": FOUND, "crowd": CROWD}
    boxes = [outline(box["corners"], colours.get(box["fate"], MISSED)) for box in entry["true"]]
    boxes += [outline(box["corners"], FALSE, number=number) for number, box in enumerate(wrong, 1)]
    try:
        picture = tag("img", src=jpeg_data(thumbnails(row)[0]), alt=f"objects in {row.path}", style="width:100%")
        drawn = tag("div", picture, *boxes, style="position:relative;line-height:0;margin-bottom:.5rem")
    except DecodeError as error:
        drawn = tag("div", f"no picture: {error.cause}", class_="missing")
    lines = [
        tag("p", f"{number}. ", name_of(box["class"]), f" {box['score']:.2f}: {_SHORT[box['mistake']]}")
        for number, box in enumerate(wrong, 1)
    ]
    if unfound:
        names = join(part for box in unfound for part in (", ", name_of(box["class"])))
        lines.append(tag("p", "not found: ", Html(names.removeprefix(", "))))
    return tag("div", drawn, tag("div", *lines, tag("p", name_of(row.path), class_="path")), class_="mistake")


_SHORT = {
    "location": "wrong place",
    "class": "wrong class",
    "duplicate": "duplicate",
    "background": "background",
}


def outline(corners: Sequence[float], colour: str, *, number: int | None = None) -> Html:
    """Return a box over a picture, from corners in shares of it; dashed and with its number if it has one."""
    left, top, right, bottom = (100 * min(max(share, 0.0), 1.0) for share in corners)
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    border = f"border:{2 if number is None else 1}px {'solid' if number is None else 'dashed'} {colour}"
    text = "" if number is None else tag("b", number, style=f"background:{colour};color:#fff;padding:0 .25em")
    style = f"position:absolute;box-sizing:border-box;line-height:1;font-size:.7rem;{place};{border}"
    return tag("span", text, style=style)


def read_classes(path: Path) -> list[ClassScore]:
    """Return the rows of `per_class.csv`."""
    return [
        ClassScore(
            row["class"],
            _share(row["ap"]),
            _share(row["ap_50"]),
            _share(row.get("mask_ap", "")),
            *(int(row[name]) for name in ("objects", "right", "wrong")),
        )
        for row in csv_rows(path)
    ]


def read_curves(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return recall in percent and precision of each column of `precision_recall.csv`; none without objects."""
    rows = list(csv_rows(path))
    names = [name for name in rows[0] if name != "recall"] if rows else []
    curves = {
        name: ([round(100 * float(row["recall"])) for row in rows], [_share(row[name]) for row in rows])
        for name in names
    }
    return {name: curve for name, curve in curves.items() if not any(map(math.isnan, curve[1]))}


def read_worst(path: Path) -> list[dict[str, Any]]:
    """Return the entries of `worst.json`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [{"path": entry["path"], "true": entry["true"], "detected": entry["detected"]} for entry in content]


def read_images(path: Path) -> list[ImageRow]:
    """Return the rows of `predictions.csv`."""
    names = ("objects", "right", "wrong", "missed")
    return [
        ImageRow(row["path"], **{name: int(row[name] or 0) for name in names}, error=row["error"])  # type: ignore[arg-type]
        for row in csv_rows(path)
    ]


def percent(value: float) -> str:
    """Return a share in percent; nothing for nan."""
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _share(cell: str) -> float:
    return float(cell) if cell else math.nan
