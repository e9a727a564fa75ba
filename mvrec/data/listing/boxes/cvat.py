"""Annotations of CVAT as XML: tracks of videos, and boxes of single images."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from mvrec.data.listing.boxes.rows import BoxRow, read_number
from mvrec.data.listing.file_kinds import VIDEO_EXTENSIONS
from mvrec.errors import UserError

SecondsOf = Callable[[str, int], float]  # the time of a frame of a video
ROOT = "annotations"  # the outermost element
CORNERS = ("xtl", "ytl", "xbr", "ybr")
NO_VALUE = frozenset(["", "none", "no", "false", "__undefined__", "undefined", "n/a", "-"])
_CHUNK = 1 << 20
_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_SOUGHT_IN = 4096  # bytes in which the outermost element begins


@dataclass
class Task:
    """A task of CVAT.

    Attributes:
        number: Its id.
        name: Its name, which for a video is often that of the file.
        source: The file of a video; "" of images.
    """

    number: str = ""
    name: str = ""
    source: str = ""

    @property
    def video(self) -> str:
        """The file of the task's video; "" of images."""
        is_file = PurePosixPath(self.name).suffix.lower() in VIDEO_EXTENSIONS
        return self.source or (self.name if is_file else "")


@dataclass
class Shape:
    """A box that is being read.

    Attributes:
        line: Its line.
        values: The attributes of its element.
        person: Its track.
        label: Its label.
        video: Its video.
        frame: The frame's number in the video, from 0 on.
        tags: The names and values of its annotated attributes.
    """

    line: int
    values: dict[str, str]
    person: str
    label: str
    video: str
    frame: int
    tags: list[tuple[str, str]] = field(default_factory=list)


def is_cvat(path: Path) -> bool:
    """Return whether a file is XML of CVAT's form."""
    try:
        with path.open("rb") as file:
            return f"<{ROOT}".encode() in file.read(_SOUGHT_IN)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def read_cvat(
    path: Path, seconds_of: SecondsOf, *, every: float | None = 1.0, attributes: Collection[str] | None = None
) -> Iterator[BoxRow]:
    """Yield the boxes of a file in CVAT's form for videos or for images, 1.1.

    A box's actions are the values of its attributes, and the names of those that are ticked; "none", "no" and the like
    are no action. Where a label has no attributes, it is the action itself. Frames in which a track is outside have no
    box.

    Args:
        path: The file.
        seconds_of: The time of a frame of a video, or of a numbered image in a folder.
        every: Seconds from one key frame of a video to the next: the first frame with a box at or after each multiple,
            of the track that comes first in the file. `None` for all frames. Boxes of single images are all read.
        attributes: The attributes that hold actions; all by default.

    Raises:
        UserError: The file cannot be read, or a box is malformed, with file and line.
    """
    reader = _Reader(path, seconds_of, every, attributes)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                reader.parser.Parse(chunk, False)
                yield from reader.take()
        reader.parser.Parse(b"", True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except expat.ExpatError as error:
        raise UserError(f"{path}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from None
    yield from reader.take()


class _Reader:
    """The events of a file's elements, from which rows are made."""

    def __init__(
        self, path: Path, seconds_of: SecondsOf, every: float | None, attributes: Collection[str] | None
    ) -> None:
        self.path, self.seconds_of, self.every, self.attributes = path, seconds_of, every, attributes
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._begin, self._end
        self.parser.CharacterDataHandler = self._text
        self.rows: list[BoxRow] = []
        self.elements: list[str] = []
        self.text = ""
        self.tasks: dict[str, Task] = {}
        self.task = Task()
        self.with_attributes: set[str] = set()  # labels
        self.label = ""  # of the meta part that is being read
        self.track: dict[str, str] = {}
        self.image: dict[str, str] = {}
        self.shape: Shape | None = None
        self.tag = ""
        self.due: dict[tuple[str, int], int] = {}  # key frames by video and multiple of `every`

    def take(self) -> list[BoxRow]:
        """Return the rows so far, once."""
        rows, self.rows = self.rows, []
        return rows

    def where(self) -> str:
        return f"{self.path}:{self.parser.CurrentLineNumber}"

    def _begin(self, name: str, values: dict[str, str]) -> None:
        self.elements.append(name)
        self.text = ""
        if len(self.elements) == 1 and name != ROOT:
            raise UserError(f"{self.where()}: the outermost element is <{name}>, CVAT's is <{ROOT}>")
        if name == "task":
            self.task = Task()
        elif name == "track":
            self.track = values
        elif name == "image":
            self.image = values
        elif name == "box" and (self.track or self.image):
            self.shape = self._shape(values)
        elif name == "attribute" and self.shape is not None:
            self.tag = values.get("name", "")

    def _text(self, text: str) -> None:
        self.text += text

    def _end(self, name: str) -> None:
        self.elements.pop()
        text, self.text = self.text.strip(), ""
        if self.elements and self.elements[0] == ROOT and "meta" in self.elements:
            self._end_of_meta(name, text)
        elif name == "attribute" and self.shape is not None:
            self.shape.tags.append((self.tag, text))
        elif name == "box" and self.shape is not None:
            self.rows += self._rows(self.shape)
            self.shape = None
        elif name == "track":
            self.track = {}
        elif name == "image":
            self.image = {}

    def _end_of_meta(self, name: str, text: str) -> None:
        """Take a fact of a task or of a label."""
        parent = self.elements[-1]
        if parent in ("task", "job") and name in ("id", "name", "source"):
            setattr(self.task, "number" if name == "id" else name, text)
        elif parent == "meta" and name == "source":
            self.task.source = text
        elif parent == "label" and name == "name":
            self.label = text
        elif parent == "attribute" and name == "name" and (self.attributes is None or text in self.attributes):
            self.with_attributes.add(self.label)
        elif name == "task":
            self.tasks[self.task.number] = self.task

    def _shape(self, values: dict[str, str]) -> Shape | None:
        """Return a box that counts; `None` for one outside its frame, or between key frames."""
        if values.get("outside") == "1":
            return None
        place = self.track or self.image
        task = self.tasks.get(place.get("task_id", ""), self.task)
        label = self.track.get("label") or values.get("label", "")
        if self.track:
            video, frame = task.video, self._number(values.get("frame", ""))
        else:
            video, frame = self._image_place(task)
        if not video:
            raise UserError(f"{self.where()}: the file names no video: its <task> needs a <source> or a <name> with it")
        person = values.get("group_id", "") if self.image else f"{task.number}/{self.track.get('id', '')}"
        is_due = bool(self.image) or self._is_due(video, frame)
        return Shape(self.parser.CurrentLineNumber, values, person, label, video, frame) if is_due else None

    def _image_place(self, task: Task) -> tuple[str, int]:
        """Return video and frame of an image: of the task's video, else its folder and the number in its name."""
        name = PurePosixPath(self.image.get("name", ""))
        if task.video:
            return task.video, self._number(self.image.get("id", ""))
        number = _LAST_NUMBER.search(name.stem)
        if number is None or not name.parent.name:
            raise UserError(
                f"{self.where()}: the image {str(name)!r} is not numbered in a folder, as in clip/000001.jpg: its time "
                "is unknown"
            )
        return name.parent.as_posix(), int(number[1])

    def _number(self, text: str) -> int:
        if not text.isdecimal():
            raise UserError(f"{self.where()}: {text!r} is not the number of a frame")
        return int(text)

    def _is_due(self, video: str, frame: int) -> bool:
        """Return whether a frame is the key frame of its part of a video: the first one that a track has there."""
        if self.every is None:
            return True
        part = int(self.seconds_of(video, frame) / self.every + 1e-6)
        return self.due.setdefault((video, part), frame) == frame

    def _rows(self, shape: Shape) -> list[BoxRow]:
        where = f"{self.path}:{shape.line}"
        x1, y1, x2, y2 = (read_number(shape.values.get(name, ""), name, where) for name in CORNERS)
        seconds = self.seconds_of(shape.video, shape.frame)
        row = BoxRow(shape.video, seconds, (x1, y1, x2, y2), False, "", shape.person, source=str(self.path))
        return [row._replace(label=label, line=shape.line) for label in self._actions(shape)]

    def _actions(self, shape: Shape) -> list[str]:
        """Return the actions of a box, [""] without any."""
        tags = [tag for tag in shape.tags if self.attributes is None or tag[0] in self.attributes]
        if not tags and shape.label not in self.with_attributes:
            return [shape.label]
        actions = []
        for name, value in tags:
            actions += [name] if value.lower() == "true" else [value] if value.lower() not in NO_VALUE else []
        return actions or [""]
