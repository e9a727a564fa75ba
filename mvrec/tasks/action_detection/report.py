"""The parts of a report about a test of action detection: actions, confusions, and the worst key frames with boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mvrec.errors import DecodeError
from mvrec.report.charts import bar, jpeg_data
from mvrec.report.file_results import FileResults
from mvrec.report.markup import Html, join, name_of, tag
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, csv_rows, failures_table
from mvrec.tasks.action_detection.predictions import WORST, read_worst
from mvrec.tasks.classification.report import confusion_section
from mvrec.tasks.classification.run_results import read_confusion
from mvrec.tasks.ranked_claims import CLAIMS, read_claims

RIGHT, WRONG = "#1a7f37", "#c21e14"  # of true boxes whose actions are all found, and of others
ASKED = "#8a8a8a"  # of the boxes that the network was asked about
_TITLES = {"map": "Mean average precision at IoU 0.5 (mAP)"}


@dataclass(frozen=True)
class ActionScore:
    """A row of `per_class.csv`; the value is nan without true boxes."""

    name: str
    value: float
    true_boxes: int
    covered: int


@dataclass(frozen=True)
class FrameRow:
    """A key frame, with the names that `Thumbnails` read."""

    path: str
    span: tuple[float | None, float | None]


@dataclass(frozen=True)
class FrameScore:
    """A row of `predictions.csv`.

    Attributes:
        path: The video, as recorded by the run.
        actions: Actions of all true boxes.
        answered: Those among the answers.
        error: Why the key frame could not be read, or "".
        span: Its time in the list, in seconds, and no end.
    """

    path: str
    actions: int
    answered: int
    error: str
    span: tuple[float | None, float | None]


class ActionReport(TaskReport):
    """Actions, confusions, and the key frames with the fewest found actions."""

    monitors = ("val/map",)

    def __init__(self, results: RunResults) -> None:
        super().__init__(results)
        self.classes = results.read("per_class.csv", read_classes) or []
        self.confusion = results.read("confusion.csv", read_confusion)

    @cached_property
    def worst(self) -> list[dict[str, Any]]:
        """The key frames with the fewest found actions."""
        return self.results.read(WORST, read_worst) or []

    @cached_property
    def frames(self) -> list[FrameScore]:
        """The rows of `predictions.csv`."""
        return self.results.read("predictions.csv", read_frames) or []

    def subtitle(self) -> list[str]:
        """Return the number of actions, and the score of equal answers."""
        guess = (self.results.score.get("chance") or {}).get("map")
        return [
            f"{len(self.classes)} actions per box" if self.classes else "",
            f"equal answers for all boxes: mAP {100 * guess:.1f} %" if guess else "",
        ]

    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return actions, confusions, the worst key frames, and unreadable files."""
        return [
            Section("Actions", classes_table(self.classes) if self.classes else Html("")),
            Section("Confusions", self._confusions()),
            Section("Worst key frames", self._worst(most_mistakes, thumbnails)),
            Section("Files that could not be read", failures_table(("file", "cause"), self._failed())),
        ]

    def file_results(self) -> FileResults | None:
        """Return the claims of all boxes."""
        return self.results.read(CLAIMS, read_claims)

    def _failed(self) -> list[tuple[Html, str]]:
        return [(name_of(row.path), row.error) for row in self.frames if row.error]

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        return _TITLES.get(name, name.replace("_", " "))

    def metric_text(self, name: str, value: float) -> str:
        """Return shares in percent."""
        return f"{100 * value:.2f} %"

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as missed boxes"

    def _confusions(self) -> Html:
        if self.confusion is None:
            return Html("")
        text = (
            "A box with n true actions is answered with the n most probable ones. A true action that is not among them "
            "is taken for the most probable wrong one."
        )
        return join([tag("p", text), confusion_section(self.confusion, counted="boxes")])

    def _worst(self, most: int, thumbnails: Thumbnails) -> Html:
        entries = self.worst[:most]
        if not entries:
            return Html("")
        text = (
            f"The {len(entries)} key frames with the smallest share of found actions. True boxes are green if all "
            "their actions are found, else red; boxes that the network was asked about are grey and dashed."
        )
        return join(
            [tag("p", text), tag("div", *(key_frame(entry, thumbnails) for entry in entries), class_="mistakes")]
        )


def classes_table(classes: Sequence[ActionScore]) -> Html:
    """Return the average precision of actions as bars, the worst first; those without true boxes are only counted."""
    measured = sorted((row for row in classes if not math.isnan(row.value)), key=lambda row: (row.value, row.name))
    heads = [("action", None), ("average precision", "num"), ("", "barcell"), ("true boxes", "num"), ("covered", "num")]
    body = [
        tag(
            "tr",
            tag("td", name_of(row.name)),
            tag("td", f"{100 * row.value:.1f} %", class_="num"),
            tag("td", bar(row.value), class_="barcell"),
            tag("td", row.true_boxes, class_="num"),
            tag("td", row.covered, class_="num"),
        )
        for row in measured
    ]
    head = tag("tr", *(tag("th", text, scope="col", class_=style) for text, style in heads))
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_="classes")
    parts = [tag("div", whole, class_="scroll", tabindex="0")]
    if absent := len(classes) - len(measured):
        parts.insert(0, tag("p", f"{absent} of {len(classes)} actions have no true box and are left out of the mean."))
    return join(parts)


def key_frame(entry: dict[str, Any], thumbnails: Thumbnails) -> Html:
    """Return a key frame of `worst.json` with its boxes, and a line for each true box."""
    row = FrameRow(str(entry["path"]), (entry["seconds_in_file"], None))
    boxes = [outline(box["corners"], ASKED, dashed=True) for box in entry["boxes"]]
    boxes += [
        outline(box["corners"], RIGHT if _is_right(box) else WRONG, number=number)
        for number, box in enumerate(entry["true"], 1)
    ]
    try:
        picture = tag("img", src=jpeg_data(thumbnails(row)[0]), alt=f"key frame of {row.path}", style="width:100%")
        drawn = tag("div", picture, *boxes, style="position:relative;line-height:0;margin-bottom:.5rem")
    except DecodeError as error:
        drawn = tag("div", f"no picture: {error.cause}", class_="missing")
    lines = [tag("p", f"{number}. {box_text(box)}") for number, box in enumerate(entry["true"], 1)]
    where = tag(
        "p", name_of(row.path), f" at {entry['seconds']:g} s" if entry["seconds"] is not None else "", class_="path"
    )
    return tag("div", drawn, tag("div", *lines, where), class_="mistake")


def outline(corners: Sequence[float], colour: str, *, dashed: bool = False, number: int | None = None) -> Html:
    """Return a box over a picture, from corners in shares of the frame, with a number in its corner."""
    left, top, right, bottom = (100 * min(max(share, 0.0), 1.0) for share in corners)
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    border = f"border:{1 if dashed else 2}px {'dashed' if dashed else 'solid'} {colour}"
    text = "" if number is None else tag("b", number, style=f"background:{colour};color:#fff;padding:0 .25em")
    style = f"position:absolute;box-sizing:border-box;line-height:1;font-size:.75rem;{place};{border}"
    return tag("span", text, style=style)


def box_text(box: dict[str, Any]) -> str:
    """Return the true actions of a box and the answers."""
    true = ", ".join(box["actions"])
    if box["answers"] is None:
        return f"{true}: no box there was asked about"
    return true if _is_right(box) else f"{true}: answered {', '.join(box['answers'])}"


def _is_right(box: dict[str, Any]) -> bool:
    return box["answers"] is not None and set(box["answers"]) == set(box["actions"])


def read_classes(path: Path) -> list[ActionScore]:
    """Return the rows of `per_class.csv`."""
    return [
        ActionScore(
            row["class"],
            float(row["average_precision"]) if row["average_precision"] else math.nan,
            int(row["true_boxes"]),
            int(row["covered"]),
        )
        for row in csv_rows(path)
    ]


def read_frames(path: Path) -> list[FrameScore]:
    """Return the rows of `predictions.csv`."""
    return [
        FrameScore(
            row["path"],
            int(row["actions"] or 0),
            int(row["found"] or 0),
            row["error"],
            (float(row["start_seconds"]) if row.get("start_seconds") else None, None),
        )
        for row in csv_rows(path)
    ]
