"""The forms in which `mvrec recognize` writes results: a table for people, CSV, JSON lines, COCO JSON."""

import argparse
import csv
from pathlib import Path
from typing import IO, Any

from mvrec.errors import UserError
from mvrec.files import json_text
from mvrec.inference.actions.drawing import LEAST_SCORE
from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.objects.results import CORNERS, ObjectPrediction
from mvrec.inference.results import Prediction
from mvrec.tasks.outputs import TaskOutputs
from mvrec.tasks.regions import Regions

BOX_COLUMNS = ("path", "time", *CORNERS, "label", "person", "score")  # of a list of boxes, as training reads it
OBJECT_COLUMNS = ("path", "time", *CORNERS, "label", "score", "track")


class Writer:
    """Writes results as they come.

    Args:
        file: Where to.
        outputs: Of the task.
        options: `top` is the number of predictions per result, where they have an order.
    """

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        self.file, self.outputs, self.options, self.top = file, outputs, options, options.top

    def write(self, result: Any) -> None:
        """Write one result."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write the rest after the last result; by default nothing."""


class TableWriter(Writer):
    """A line per result, for people."""

    def write(self, result: Prediction) -> None:
        """Write source, time span and prediction."""
        span = ""
        if result.start_seconds is not None or result.end_seconds is not None:
            end = "end" if result.end_seconds is None else _clock(result.end_seconds)
            span = f"  {_clock(result.start_seconds or 0)}-{end}"
        text = f"unreadable: {result.error}" if result.output is None else result.output.text(self.top)
        self.file.write(f"{result.source}{span}  {text}\n")


class CsvWriter(Writer):
    """A row per result, with the columns of `predictions.csv`."""

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(["path", "start_seconds", "end_seconds", *outputs.columns(self.top), "error"])

    def write(self, result: Prediction) -> None:
        """Write times in seconds, empty if there are none."""
        span = ["" if value is None else f"{value:.3f}" for value in (result.start_seconds, result.end_seconds)]
        cells = [""] * len(self.outputs.columns(self.top)) if result.output is None else result.output.cells(self.top)
        self._rows.writerow([result.source, *span, *cells, result.error])


class JsonWriter(Writer):
    """A JSON object per line."""

    def write(self, result: Prediction) -> None:
        """Write numbers in full."""
        line = result.as_dict(self.top)
        if result.error:
            line = {**self.outputs.no_fields(), **line}
        self.file.write(json_text(line) + "\n")


class PeopleTableWriter(Writer):
    """A line per key frame and person, for people."""

    def write(self, result: ActionPrediction) -> None:
        """Write source, time, person and actions."""
        if result.error:
            self.file.write(f"{result.source}  unreadable: {result.error}\n")
        least = least_action(self.options)
        for person in result.people:
            actions = [f"{name} {100 * score:.1f} %" for name, score in person.top(self.top) if score >= least]
            text = ", ".join(actions) or f"no action of {100 * least:g} % or more"
            self.file.write(f"{result.source}  {_clock(result.seconds)}  {person.name}: {text}\n")


class PeopleCsvWriter(Writer):
    """A row per key frame, person and action, in the form of a list of boxes."""

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        self._rows = csv.DictWriter(file, BOX_COLUMNS, lineterminator="\n")
        self._rows.writeheader()

    def write(self, result: ActionPrediction) -> None:
        """Write boxes in pixels; a video that cannot be read has no row."""
        for row in result.as_rows(self.top):
            numbers = {"time": f"{row['time']:.3f}", "score": f"{row['score']:.6f}"}
            self._rows.writerow({**row, **{name: f"{row[name]:.2f}" for name in CORNERS}, **numbers})


class PeopleJsonWriter(Writer):
    """A JSON object per key frame and person."""

    def write(self, result: ActionPrediction) -> None:
        """Write numbers in full."""
        lines = [{"path": result.source, "error": result.error}] if result.error else result.as_dicts(self.top)
        self.file.write("".join(json_text(line) + "\n" for line in lines))


class ObjectCsvWriter(Writer):
    """A row per object, in the form of a list of boxes; an image without objects has a row without a box."""

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        self._rows = csv.DictWriter(file, OBJECT_COLUMNS, lineterminator="\n")
        self._rows.writeheader()

    def write(self, result: Prediction) -> None:
        """Write boxes in pixels; an image that cannot be read has no row."""
        if not isinstance(result, ObjectPrediction):
            return
        for row in result.as_rows():
            digits = {"time": 3, "score": 6, **dict.fromkeys(CORNERS, 2)}
            numbers = {name: f"{row[name]:.{count}f}" for name, count in digits.items() if row[name] is not None}
            self._rows.writerow({**row, **numbers})


class CocoWriter(Writer):
    """A data set in COCO's form: images, the objects in them with their scores, and classes.

    Names of images below the folder of the output are relative to it.
    """

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        ids = list(getattr(outputs, "class_ids", None) or range(1, len(outputs.class_names) + 1))
        self._categories = [{"id": number, "name": name} for number, name in zip(ids, outputs.class_names, strict=True)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def write(self, result: Prediction) -> None:
        """Keep the objects of an image; one that cannot be read is left out."""
        if not isinstance(result, ObjectPrediction):
            return
        if result.start_seconds is not None:
            raise UserError(f"{result.source} is a video, and COCO's form is for images: --format jsonl or csv")
        regions, number = result.objects, len(self._images) + 1
        height, width = regions.size
        self._images.append({"id": number, "file_name": self._name(result.source), "height": height, "width": width})
        for row in range(len(regions)):
            self._annotations.append(
                {"id": len(self._annotations) + 1, "image_id": number, **self._object(regions, row)}
            )

    def finish(self) -> None:
        """Write the file."""
        content = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        self.file.write(json_text(content) + "\n")

    def _object(self, regions: Regions, row: int) -> dict[str, Any]:
        left, top, right, bottom = regions.boxes[row].tolist()
        values: dict[str, Any] = {
            "category_id": self._categories[int(regions.labels[row])]["id"],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "score": float(regions.scores[row]),
        }
        if regions.masks is not None:
            from faster_coco_eval.core import mask as rle  # compiled, which only masks need

            mask = regions.masks[row]
            counts = mask["counts"].decode("ascii")
            values |= {"area": float(rle.area(mask)), "segmentation": {"size": list(mask["size"]), "counts": counts}}
        return values

    def _name(self, source: str) -> str:
        folder = Path(self.options.output).resolve().parent if self.options.output else None
        path = Path(source).resolve()
        return path.relative_to(folder).as_posix() if folder is not None and path.is_relative_to(folder) else source


WRITERS = {"table": TableWriter, "csv": CsvWriter, "jsonl": JsonWriter}
ACTION_WRITERS = {"table": PeopleTableWriter, "csv": PeopleCsvWriter, "jsonl": PeopleJsonWriter}
OBJECT_WRITERS = {"table": TableWriter, "csv": ObjectCsvWriter, "jsonl": JsonWriter, "coco": CocoWriter}


def least_action(options: argparse.Namespace) -> float:
    """Return the least score of an action that is drawn or printed."""
    return LEAST_SCORE if options.min_action is None else options.min_action


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{tenths / 10:04.1f}"
