"""The content of a run directory for a report, and the sections that a task adds."""

import csv
import json
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mvrec.data.views.protocol import kind_of
from mvrec.errors import DecodeError
from mvrec.report.charts import jpeg_data
from mvrec.report.file_results import FileResults
from mvrec.report.markup import Html, join, table, tag

# The exceptions of readers at damaged files; those of arrays are zip files.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error)
SHOWN_FAILURES = 50  # files that a page lists
Read = TypeVar("Read")
Thumbnails = Callable[[Any], Sequence[bytes]]  # for a row with `path` and `span`


@dataclass(frozen=True)
class Section:
    """A section of the report; skipped if it is empty."""

    title: str
    content: Html

    @property
    def anchor(self) -> str:
        """The name of links to it."""
        return self.title.lower().replace(" ", "-")


@dataclass
class RunResults:
    """The content of a run directory.

    Attributes:
        run_dir: The directory.
        score: The content of `metrics.json`, or what other files say about it; empty if they do not.
        validation: `validation.json`, the last validation of training.
        environment: `environment.json`.
        data: `data.json`.
        parameter_groups: `parameter_groups.json`.
        unreadable: Path and cause of training files that could not be read.
        configs: The text of each configuration, by file name.
        notes: Texts about missing, damaged or outdated files.
    """

    run_dir: Path
    score: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    parameter_groups: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    configs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """The name of the scored files: "videos" or "images"."""
        protocol = self.score.get("protocol") or self.data.get("protocol") or {}
        return str(self.score.get("noun") or (f"{kind_of(protocol).noun}s" if protocol else "files"))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to test."""
        places = [self.run_dir / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        return next((place for place in places if place.is_file()), None)

    def read(self, name: str, read: Callable[[Path], Read]) -> Read | None:
        """Read a file of the run; return `None` if it is missing, or damaged, which a note says."""
        path = self.run_dir / name
        if not path.is_file():
            return None
        try:
            return read(path)
        except DAMAGE as error:
            self.notes.append(f"{name} is damaged and was skipped ({error or type(error).__name__})")
            return None


class TaskReport(ABC):
    """A task's part of the report of a run; it reads the task's files.

    Args:
        results: The run directory.

    Attributes:
        monitors: Scores that rank validations; the first that a run has counts.
    """

    monitors: tuple[str, ...] = ()

    def __init__(self, results: RunResults) -> None:
        self.results = results

    def read_files(self) -> None:
        """Read the files that are otherwise read when they are needed, so that notes name the damaged ones."""
        for name in self._parts():
            getattr(self, name)

    def forget_files(self) -> None:
        """Free the memory of these files; they are read again when they are needed."""
        for name in self._parts():
            vars(self).pop(name, None)

    def _parts(self) -> list[str]:
        kinds = type(self).__mro__
        return [name for kind in kinds for name, value in vars(kind).items() if isinstance(value, cached_property)]

    @abstractmethod
    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return the task's sections, between the training curves and the data.

        Args:
            thumbnails: Returns pictures of a file, or raises `DecodeError`.
            most_mistakes: The largest number of mistakes.
        """

    @property
    def was_tested(self) -> bool:
        """Return whether there are results of a test."""
        return bool(self.results.score)

    def subtitle(self) -> list[str]:
        """Return the phrases below the run's name."""
        return []

    def in_headline(self, name: str) -> bool:
        """Return whether a metric is shown at once; others are in a table that opens."""
        return True

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        return name.replace("_", " ")

    def metric_text(self, name: str, value: float) -> str:
        """Return a metric's value for readers."""
        return f"{value:.4f}"

    def metric_note(self, name: str, value: float, counted: int) -> str | None:
        """Return a remark on a metric of so many samples, such as its interval."""
        return None

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as wrong"

    def file_results(self) -> FileResults | None:
        """Return results of files from which the score that ranks runs can be computed for any draw of files.

        `None` by default: of tasks whose score is a mean over files, and of runs without such a file.
        """
        return None

    def figures(self, folder: Path) -> list[str]:
        """Draw PNGs into a folder; return their names."""
        return []


def film(row: Any, thumbnails: Thumbnails, *, about: str) -> tuple[Html, str]:
    """Return pictures of a file, or why there are none, and the style of the box around them.

    Args:
        row: The file, with `path` and `span`.
        thumbnails: See `TaskReport.sections`.
        about: A description for readers without pictures.
    """
    try:
        pictures = thumbnails(row)
    except DecodeError as error:
        return tag("div", f"no picture: {error.cause}", class_="missing"), "mistake"
    shown = [
        tag("img", src=jpeg_data(picture), alt=f"{about}, picture {place} of {len(pictures)}")
        for place, picture in enumerate(pictures, 1)
    ]
    return tag("div", *shown, class_="film"), "mistake still" if len(pictures) == 1 else "mistake"


def failures_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """Return the files that could not be read as a table, of which the first ones are shown; nothing without any."""
    if not rows:
        return Html("")
    parts = [table(header, rows[:SHOWN_FAILURES])]
    if len(rows) > SHOWN_FAILURES:
        parts.append(tag("p", f"{len(rows) - SHOWN_FAILURES} more are in predictions.csv."))
    return join(parts)


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file by column names."""
    # Names of files need not be UTF-8; with surrogates they can still be opened.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        for row in csv.DictReader(file, restval="", strict=True):
            yield {str(key): value for key, value in row.items()}


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def read_groups(path: Path) -> list[dict[str, Any]]:
    """Return the parameter groups of a run."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [{**group, "names": list(group.get("names", ()))} for group in content]


def read_unreadable(path: Path) -> list[tuple[str, str]]:
    """Return path and cause of each unreadable training file, once; several processes and resumes may repeat one."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted({str(entry["path"]): str(entry["cause"]) for entry in entries}.items())


def chosen_on(results: RunResults) -> bool:
    """Return whether the score is of the files by which the checkpoint was chosen."""
    return bool(results.score.get("split_chose_checkpoint"))


def number(value: Any) -> float | None:
    """Return a value of a JSON file as a finite number, or `None`."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value of a JSON file as a mapping; an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}
