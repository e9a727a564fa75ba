"""A run directory as a report reads it, and what a task adds to the report."""

import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mvrec.data.views.protocol import kind_of
from mvrec.report.markup import Html

Read = TypeVar("Read")
Thumbnails = Callable[[Any], Sequence[bytes]]  # of a row with its `path` and `span`


@dataclass(frozen=True)
class Section:
    """A part of the report; one without content is left out."""

    title: str
    content: Html

    @property
    def anchor(self) -> str:
        """What links to it."""
        return self.title.lower().replace(" ", "-")


@dataclass
class RunResults:
    """A run directory.

    Attributes:
        run_dir: The directory.
        score: What `mvrec test` wrote to `metrics.json`, or what the other files tell of it; empty when nothing does.
        environment: `environment.json`.
        data: `data.json`.
        parameter_groups: `parameter_groups.json`.
        configs: The text of each configuration, by file name.
        notes: What is missing, damaged or out of date, for people.
    """

    run_dir: Path
    score: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    parameter_groups: list[dict[str, Any]] = field(default_factory=list)
    configs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """What is scored: "videos" or "images"."""
        protocol = self.score.get("protocol") or self.data.get("protocol") or {}
        return str(self.score.get("noun") or (f"{kind_of(protocol).noun}s" if protocol else "files"))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to test."""
        places = [self.run_dir / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        return next((place for place in places if place.is_file()), None)

    def read(self, name: str, read: Callable[[Path], Read]) -> Read | None:
        """A file of the run; `None` where there is none, or where it is damaged, which a note says."""
        path = self.run_dir / name
        if not path.is_file():
            return None
        try:
            return read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            self.notes.append(f"{name} is damaged and was left out ({error or type(error).__name__})")
            return None


class TaskReport(ABC):
    """What a task adds to the report of a run; it reads the files that its task writes.

    Args:
        results: The run directory.

    Attributes:
        monitors: Scores of a validation that say which is the best, the first that a run has counts.
    """

    monitors: tuple[str, ...] = ()

    def __init__(self, results: RunResults) -> None:
        self.results = results

    @abstractmethod
    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return the task's sections, between the training curves and the data.

        Args:
            thumbnails: Pictures of a file; raises `DecodeError` where there are none.
            most_mistakes: How many mistakes are shown.
        """

    @property
    def was_tested(self) -> bool:
        """Return whether anything is known of a test."""
        return bool(self.results.score)

    def subtitle(self) -> list[str]:
        """What there is to say below the run's name."""
        return []

    def metric_title(self, name: str) -> str:
        """What people call a metric."""
        return name.replace("_", " ")

    def metric_text(self, name: str, value: float) -> str:
        """A metric as people read it."""
        return f"{value:.4f}"

    def metric_note(self, name: str, value: float, counted: int) -> str | None:
        """What belongs beside a metric of so many samples, such as its interval."""
        return None

    def failed_samples(self) -> str:
        """What the score makes of files that could not be read."""
        return "count as wrong"

    def figures(self, folder: Path) -> list[str]:
        """Draw PNGs into a folder; returns the names of those there are."""
        return []


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file by the names of its columns."""
    # Names of files need not be UTF-8; with surrogates in them they can still be opened.
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
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


def chosen_on(results: RunResults) -> bool:
    """Return whether the score is of the files on which the checkpoint was chosen."""
    return bool(results.score.get("split_chose_checkpoint"))


def number(value: Any) -> float | None:
    """A value of a JSON file as a finite number, or `None`."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A value of a JSON file as a mapping; an empty one where it is something else."""
    return value if isinstance(value, Mapping) else {}
