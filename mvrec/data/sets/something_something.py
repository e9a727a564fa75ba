"""Something-Something v2."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import Layout, first_folder
from mvrec.data.listing.lists import Row, csv_lines, open_text
from mvrec.data.sets.video_data import VideoData
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import Views
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.files import at_home

_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", "")
_LIST_FOLDERS = ("labels", "annotations", "")
_PREFIX = "something-something-v2-"  # in the first release; the second has labels.json, train.json ...


class SomethingSomething(VideoData):
    """Clips of Something-Something v2 (Goyal et al. 2017): 174 classes of hands that move objects.

    The JSON files are in `root/labels` or in `root`, the videos `<id>.webm` in `root/20bn-something-something-v2`,
    `root/videos` or `root`. A clip is one frame of each of as many segments of the video as the clip has frames,
    random in training and the middle one in evaluation; published results are of val, with 1 clip x 3 crops.

    Left and right are classes, so flips are refused.

    Args:
        root: The data set.
        annotations: The folder of the JSON files, if it is elsewhere.
        test_split: The split of `test` and `predict`. The labels of "test" are in `test-answers.csv`, if it exists.
        clip: See `VideoData`.
        augment: See `VideoData`. Flips are refused.
        test_views: See `VideoData`.
        **knobs: See `VideoData`.

    Raises:
        UserError: Flips are enabled; from `setup`: missing or malformed files.
    """

    def __init__(
        self,
        root: str,
        *,
        annotations: str | None = None,
        test_split: Literal["val", "test"] = "val",
        clip: ClipSpec = ClipSpec(num_frames=16, sampling="segments"),  # noqa: B008 - frozen, and shown in --help
        augment: Augment = Augment(flip_probability=0.0),  # noqa: B008
        test_views: Views = Views(num_clips=1, num_crops=3, short_side=224, antialias=False),  # noqa: B008
        **knobs: Any,
    ) -> None:
        super().__init__(root, clip=clip, augment=augment, test_views=test_views, **knobs)
        if augment.flip_probability > 0:
            raise UserError(
                f"data.augment.flip_probability must be 0, got {augment.flip_probability}: mirrored, `Pushing "
                "something from left to right` is another class"
            )
        self._annotations, self._test_split = annotations, test_split

    @property
    def test_split(self) -> Literal["val", "test"]:
        """The split of `test` and `predict`."""
        return self._test_split

    def find_layout(self) -> Layout:
        """Return the JSON files."""
        lists = at_home(self._annotations) if self._annotations is not None else None
        return SomethingSomethingLists(self.root, annotations=lists)


class SomethingSomethingLists(Layout):
    """Labels and splits as JSON; see `SomethingSomething`."""

    title = "the lists of Something-Something"

    def __init__(self, root: Path, *, annotations: Path | None = None) -> None:
        super().__init__(first_folder(root, _VIDEO_FOLDERS), VIDEOS)
        self._folder = annotations or first_folder(root, _LIST_FOLDERS)

    def _file(self, name: str) -> Path:
        plain = self._folder / name
        return plain if plain.is_file() else self._folder / f"{_PREFIX}{name}"

    def _list(self, split: str) -> Path:
        return self._file({"train": "train.json", "val": "validation.json", "test": "test-answers.csv"}[split])

    def has(self, split: str) -> bool:
        """Return whether the split's file exists; that of test is `test-answers.csv`."""
        return self._list(split).is_file()

    def place(self, split: str) -> str:
        """Return the path of the split's file."""
        return str(self._list(split))

    def expected(self) -> str:
        """Return the expected files."""
        return f"{self._folder}/{_PREFIX}labels.json, {_PREFIX}train.json and {_PREFIX}validation.json"

    def missing(self, split: str) -> str:
        """Return the path of the missing file."""
        return f"no {self._list(split)}"

    def class_names(self) -> list[str]:
        """Return the templates of the labels file in the order of their numbers."""
        path = self._file("labels.json")
        labels = _read_json(path, dict)
        numbers = {str(number): name for name, number in labels.items()}
        if set(numbers) != {str(number) for number in range(len(labels))}:
            raise UserError(f"{path}: its {len(labels)} labels are not numbered 0..{len(labels) - 1}, each once")
        return [numbers[str(number)] for number in range(len(labels))]

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the videos of a split, in the order of its file."""
        listed = self._list(split)
        if listed.suffix == ".csv":
            with open_text(listed) as file:
                for line, fields in csv_lines(listed, file, delimiter=";"):
                    if len(fields) != 2 or not all(fields):
                        raise UserError(f"{listed}:{line}: expected `id;label`, got {';'.join(fields)[:80]!r}")
                    yield Row(f"{fields[0]}.webm", fields[1], source=str(listed), line=line)
            return
        for number, entry in enumerate(_read_json(listed, list)):
            place = f"{listed}[{number}]"
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("id", "template")):
                raise UserError(
                    f"{place}: expected an object with the texts `id` and `template`, got {str(entry)[:80]!r}"
                )
            # The splits' templates have the objects in brackets, those of the labels file do not.
            template = entry["template"].replace("[", "").replace("]", "")
            yield Row(f"{entry['id']}.webm", template, source=place)


def _read_json(path: Path, expected: type[Any]) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, expected):
        raise UserError(f"{path}: expected a JSON {'object' if expected is dict else 'array'}")
    return content
