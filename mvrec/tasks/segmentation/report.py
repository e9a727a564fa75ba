"""The parts of a report about a test of segmentation: classes, confusions, and the worst images with their maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvrec.data.views.targets import NOT_LABELLED
from mvrec.report.charts import bar, png_data
from mvrec.report.file_results import FileResults
from mvrec.report.markup import Html, folded, join, name_of, table, tag
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, csv_rows, failures_table, film
from mvrec.tasks.classification.report import confusion_section
from mvrec.tasks.classification.run_results import read_confusion
from mvrec.tasks.segmentation.colours import colours
from mvrec.tasks.segmentation.image_counts import IMAGES, read_counts
from mvrec.tasks.segmentation.predictions import WORST

MOST_SIDE = 320  # pixels of a map in the page
_TITLES = {"miou": "Mean intersection over union (mIoU)", "mean_accuracy": "Mean class accuracy"}

Maps = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageScore:
    """A row of `predictions.csv`.

    Attributes:
        number: Its place in the list.
        path: The file, as recorded by the run.
        accuracy: Share of the labelled pixels with the right class; nan without labelled pixels.
        error: Why the file could not be read, or "".
        miou: Mean intersection over union of the classes in it; nan without labelled pixels.
        pixels: Labelled pixels; 0 for a file that could not be read.
    """

    number: int
    path: str
    accuracy: float
    error: str
    miou: float = math.nan
    pixels: int = 0
    span: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class ClassScore:
    """A row of `per_class.csv`; values are nan where they are undefined."""

    name: str
    iou: float
    accuracy: float
    pixels: int


class SegmentationReport(TaskReport):
    """Classes, confusions, and the images with the fewest right pixels."""

    monitors = ("val/miou",)

    def __init__(self, results: RunResults) -> None:
        super().__init__(results)
        self.classes = results.read("per_class.csv", read_classes) or []
        self.confusion = results.read("confusion.csv", read_confusion)

    @cached_property
    def images(self) -> list[ImageScore]:
        """The rows of `predictions.csv`."""
        return self.results.read("predictions.csv", read_images) or []

    @cached_property
    def maps(self) -> dict[str, Maps]:
        """The maps of the worst images."""
        return self.results.read(WORST, read_maps) or {}

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [row.name for row in self.classes]

    def subtitle(self) -> list[str]:
        """Return the number of classes, and the score of chance."""
        guess = (self.results.score.get("chance") or {}).get("miou")
        return [
            f"{len(self.classes)} classes per pixel" if self.classes else "",
            f"the most frequent class everywhere: mIoU {100 * guess:.1f} %" if guess else "",
        ]

    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return classes, confusions, the worst images, and unreadable files."""
        return [
            Section("Classes", self._classes()),
            Section(
                "Confusions",
                Html("") if self.confusion is None else confusion_section(self.confusion, counted="pixels"),
            ),
            Section("Worst images", self._worst(most_mistakes, thumbnails)),
            Section("Files that could not be read", self._failures()),
        ]

    def file_results(self) -> FileResults | None:
        """Return the pixels of each image by class."""
        return self.results.read(IMAGES, read_counts)

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        return _TITLES.get(name, name.replace("_", " ").capitalize())

    def metric_text(self, name: str, value: float) -> str:
        """Return shares in percent."""
        return f"{100 * value:.2f} %"

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as missed pixels of their classes"

    def _classes(self) -> Html:
        if not self.classes:
            return Html("")
        palette = colours(len(self.classes))
        total = max(sum(row.pixels for row in self.classes), 1)
        heads = [("", None), ("class", None), ("IoU", "num"), ("", "barcell"), ("accuracy", "num"), ("pixels", "num")]
        body = [
            tag(
                "tr",
                tag("td", _swatch(palette[number])),
                tag("td", name_of(row.name)),
                tag("td", _percent(row.iou), class_="num"),
                tag("td", "" if math.isnan(row.iou) else bar(row.iou), class_="barcell"),
                tag("td", _percent(row.accuracy), class_="num"),
                tag("td", f"{100 * row.pixels / total:.1f} %", class_="num"),
            )
            for number, row in enumerate(self.classes)
        ]
        head = tag("tr", *(tag("th", text, scope="col", class_=style) for text, style in heads))
        whole = tag("table", tag("thead", head), tag("tbody", *body), class_="classes")
        return tag("div", whole, class_="scroll", tabindex="0")

    def _worst(self, most: int, thumbnails: Thumbnails) -> Html:
        rows = [row for row in self.images if str(row.number) in self.maps and not math.isnan(row.accuracy)]
        rows = sorted(rows, key=lambda row: (row.accuracy, row.path))[:most]
        if not rows:
            return Html("")
        text = (
            f"The {len(rows)} {self.results.noun} with the fewest right pixels: the image, its true classes, the "
            "predicted ones, and the wrong pixels in red. Pixels without a class are black."
        )
        shown = [self._image(row, self.maps[str(row.number)], thumbnails) for row in rows]
        return join([tag("p", text), self._legend(), tag("div", *shown, class_="mistakes")])

    def _legend(self) -> Html:
        palette = colours(len(self.classes))
        rows = [(_swatch(palette[number]), name_of(name)) for number, name in enumerate(self.names)]
        return folded("The colours of the classes", table(("", "class"), rows))

    def _image(self, row: ImageScore, maps: Maps, thumbnails: Thumbnails) -> Html:
        pictures, _ = film(row, thumbnails, about=f"{row.path}, {100 * row.accuracy:.1f} % right")
        predicted, true = smaller(maps)
        palette = np.zeros((NOT_LABELLED + 1, 3), np.uint8)
        palette[: len(self.classes)] = colours(len(self.classes))
        parts = [("true classes", palette[true]), ("predicted classes", palette[predicted])]
        parts.append(("wrong pixels", difference(predicted, true)))
        drawn = [tag("img", src=png_data(pixels), alt=name, title=name) for name, pixels in parts]
        wrong = _mistaken(predicted, true, self.names)
        lines = [
            tag("p", f"{100 * row.accuracy:.1f} % of the pixels right"),
            *([tag("p", wrong)] if wrong else []),
            tag("p", name_of(row.path), class_="path"),
        ]
        return tag("div", pictures, tag("div", *drawn, class_="film"), tag("div", *lines), class_="mistake")

    def _failures(self) -> Html:
        rows = [(name_of(row.path), row.error) for row in self.images if row.error]
        return failures_table(("file", "cause"), rows)


def difference(predicted: Maps, true: Maps) -> Maps:
    """Return wrong pixels in red, right ones in light grey, unlabelled ones in black: (H, W, 3)."""
    pixels = np.full((*true.shape, 3), 225, np.uint8)
    pixels[predicted != true] = (200, 30, 20)
    pixels[true == NOT_LABELLED] = 0
    return pixels


def smaller(maps: Maps) -> Maps:
    """Return maps (..., H, W) of at most `MOST_SIDE` pixels a side, by leaving out pixels."""
    step = max(-(-max(maps.shape[-2:]) // MOST_SIDE), 1)
    return maps[..., ::step, ::step]


def _mistaken(predicted: Maps, true: Maps, names: Sequence[str]) -> str:
    """Return the most frequent confusion of an image; "" if there is none."""
    wrong = (predicted != true) & (true < len(names)) & (predicted < len(names))
    if not wrong.any():
        return ""
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    place = int(counts.argmax())
    return f"mostly {names[pairs[0, place]]} taken for {names[pairs[1, place]]}"


def _swatch(colour: npt.NDArray[np.uint8]) -> Html:
    red, green, blue = colour.tolist()
    style = f"display:inline-block;width:1em;height:1em;background:rgb({red},{green},{blue})"
    return tag("span", "", style=style)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def read_images(path: Path) -> list[ImageScore]:
    """Return the rows of `predictions.csv`."""
    return [
        ImageScore(
            number,
            row["path"],
            _share(row["pixel_accuracy"]),
            row["error"],
            _share(row["miou"]),
            int(row["labelled_pixels"] or 0),
        )
        for number, row in enumerate(csv_rows(path))
    ]


def read_classes(path: Path) -> list[ClassScore]:
    """Return the rows of `per_class.csv`."""
    return [
        ClassScore(row["class"], _share(row["iou"]), _share(row["accuracy"]), int(row["pixels"]))
        for row in csv_rows(path)
    ]


def read_maps(path: Path) -> dict[str, Maps]:
    """Return the maps of `worst.npz` by sample id: predicted over true classes, uint8 (2, H, W)."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _share(cell: str) -> float:
    return float(cell) if cell else math.nan
