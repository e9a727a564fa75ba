"""Boxes, names and actions over frames."""

import numpy as np
import pytest

from mvrec.inference.actions.drawing import Label, Scene, drawn
from mvrec.inference.actions.results import ActionPrediction, Person, Sighting
from mvrec.inference.objects.box_drawing import colour_of

NAMES = ("sit", "walk", "wave", "talk")


def sighting(seconds, **lefts):
    corners = np.array([(left, 0, left + 10, 10) for left in lefts.values()], np.float32).reshape(-1, 4)
    return Sighting(seconds, corners, np.full(len(corners), np.nan, np.float32), tuple(lefts))


def key_frame(seconds, sightings, **scores):
    people = [Person(name, (0, 0, 1, 1), None, np.array(values), NAMES) for name, values in scores.items()]
    return ActionPrediction("v", seconds, seconds, people=tuple(people), sightings=tuple(sightings))


@pytest.fixture
def scene() -> Scene:
    """Person a walks to the right for two seconds and comes back after four, b is seen once."""
    first = key_frame(0, [sighting(0, a=0, b=50), sighting(1, a=10)], a=[0.1, 0.9, 0.6, 0.7], b=[0.2, 0.1, 0, 0])
    second = key_frame(2, [sighting(2, a=30)], a=[0.8, 0.1, 0.1, 0.1])
    return Scene([first, second, key_frame(6, [sighting(6, a=90)], a=[0.9, 0, 0, 0])], step=1, most_gap=2)


def at(scene, seconds):
    return {label.name: (float(label.corners[0]), [name for name, _ in label.actions]) for label in scene.at(seconds)}


def test_boxes_move_in_lines_and_actions_are_those_of_the_nearest_key_frame(scene):
    assert at(scene, 0) == {"a": (0, ["walk", "talk", "wave"]), "b": (50, [])}
    assert at(scene, 0.75) == {"a": (7.5, ["walk", "talk", "wave"])}
    assert at(scene, 1.5) == {"a": (20, ["sit"])}


def test_people_who_are_seen_no_more_stay_a_moment_and_do_not_glide_over_long_gaps(scene):
    assert set(at(scene, 0.5)) == {"a", "b"}
    assert set(at(scene, 0.6)) == {"a"}
    assert at(scene, 2.4) == {"a": (30, ["sit"])}
    assert at(scene, 4) == {}
    assert at(scene, 5.6) == {"a": (90, ["sit"])}
    assert at(scene, 7) == {"a": (90, ["sit"])}  # a step after the last look
    assert at(scene, 7.1) == {}


def test_boxes_have_the_colour_of_their_person_and_texts_lie_in_the_picture():
    picture = np.full((120, 160, 3), 100, np.uint8)
    colours = {"a": colour_of(0), "b": colour_of(1)}
    labels = [
        Label(np.array([40, 50, 100, 110], np.float32), "a", [("走る и махать", 0.93)]),
        Label(np.array([150, 2, 190, 30], np.float32), "b", []),
    ]
    result = drawn(picture, labels, colours)
    assert result.shape == picture.shape
    assert (picture == 100).all()
    assert (result[100, 40] == colours["a"]).all()
    assert (result[105:112, 60] == colours["a"]).all(1).any()
    assert (result[:35, 140:] != 100).any()
    above = drawn(picture, labels[:1], colours)[15:50, 43:]  # without the other text there, which pushes it down
    inside = result[50:85, 43:]
    assert [int((text > 200).all(-1).sum()) > 30 for text in (above, inside)] == [True, True]
    assert len({tuple(colour_of(number)) for number in range(12)}) == 12


def test_texts_of_people_next_to_one_another_do_not_cover_each_other():
    picture = np.zeros((200, 200, 3), np.uint8)
    boxes = [np.array([50 + 4 * number, 80, 100, 120], np.float32) for number in range(3)]
    labels = [Label(box, f"person {number}", [("walk", 0.9)]) for number, box in enumerate(boxes)]
    together = drawn(picture, labels, {label.name: colour_of(0) for label in labels})
    alone = [drawn(picture, [label], {label.name: colour_of(0)}) for label in labels]
    letters = [int((image > 250).all(-1).sum()) for image in (together, *alone)]
    assert letters[0] >= 0.95 * sum(letters[1:])
