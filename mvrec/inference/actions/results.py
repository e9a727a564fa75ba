"""Results of action detection: the people of a key frame, and what each of them does."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.results import Result


@dataclass(frozen=True, eq=False)
class Person:
    """A person in a key frame.

    Attributes:
        name: The person's name in the list of boxes, or the number of the track.
        box: Left, top, right and bottom in pixels of the frame.
        box_score: The score of a detector; `None` if there was none.
        probabilities: float64 (K,), of each action; a person may do several.
        class_names: Names of the actions in label order.
    """

    name: str
    box: tuple[float, float, float, float]
    box_score: float | None
    probabilities: npt.NDArray[np.float64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the most probable actions with their probabilities, at most `k`."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.class_names[number], float(self.probabilities[number])) for number in order]

    @property
    def label(self) -> str:
        """The most probable action."""
        return self.top(1)[0][0]


class Sighting(NamedTuple):
    """The boxes of people at a moment.

    Attributes:
        seconds: The moment.
        corners: float32 (N, 4), left, top, right and bottom in pixels of the frame.
        scores: float32 (N,), of a detector; NaN for boxes without.
        names: (N,), "" for a person whose name is unknown.
    """

    seconds: float
    corners: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ActionPrediction(Result):
    """The people of a key frame and their actions.

    Attributes:
        start_seconds: The time of the key frame.
        people: The people.
        sightings: All boxes from this key frame to before the next one, for drawing.
    """

    people: tuple[Person, ...] = ()
    sightings: tuple[Sighting, ...] = field(default=(), repr=False)

    @property
    def seconds(self) -> float:
        """The time of the key frame."""
        return self.start_seconds or 0.0

    def as_rows(self, k: int = 5) -> list[dict[str, Any]]:
        """Return a row of plain values per person and action, at most `k` actions: `pandas.DataFrame` takes them.

        The columns are those of a list of boxes, which `mvrec.data.VideoBoxes` reads.
        """
        return [
            {
                **{"path": self.source, "time": self.seconds},
                **dict(zip(("x1", "y1", "x2", "y2"), person.box, strict=True)),
                **{"label": label, "person": person.name, "score": score},
            }
            for person in self.people
            for label, score in person.top(k)
        ]

    def as_dicts(self, k: int = 5) -> list[dict[str, Any]]:
        """Return plain values per person, as the lines of `mvrec recognize --format jsonl` have them."""
        return [
            {
                **{
                    "path": self.source,
                    "time": self.seconds,
                    "person": person.name,
                    "box": [round(side, 2) for side in person.box],
                },
                **{"box_score": person.box_score, "actions": dict(person.top(k))},
            }
            for person in self.people
        ]

    def __str__(self) -> str:
        if self.error:
            return f"{self.source}: unreadable: {self.error}"
        return f"{self.source} at {self.seconds:.2f} s: {'; '.join(map(_in_words, self.people)) or 'nobody'}"


def _in_words(person: Person) -> str:
    return f"{person.name} {', '.join(f'{name} {100 * score:.1f} %' for name, score in person.top(3))}"
