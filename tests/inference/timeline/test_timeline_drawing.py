import numpy as np

from mvrec.inference.timeline.drawing import drawn
from mvrec.inference.timeline.segments import Segment


def test_the_bar_shows_each_segment_in_its_place_and_names_the_present_one():
    picture = np.full((320, 400, 3), 90, np.uint8)
    true, predicted = [Segment(2, 4, 1, "run", 1.0)], [Segment(1, 3, 0, "jump", 0.7), Segment(3, 5, 1, "run", 0.9)]
    colours = {"jump": (250, 200, 40), "run": (30, 120, 210)}
    early, late = (drawn(picture, [true, predicted], colours, (0, 10), seconds) for seconds in (0.5, 3.5))
    assert early.shape == (320 + 2 * 20, 400, 3)
    for row, segments in ((330, true), (350, predicted)):
        expected = np.full((400, 3), (34, 34, 34), np.uint8)
        for segment in segments:
            expected[round(40 * segment.start) : round(40 * segment.end)] = colours[segment.name]
        expected[20:22] = 255  # the present moment
        assert (early[row] == expected).all()
    assert (early[:320] == picture).all()
    text = np.flatnonzero((late[:320] != picture).any(axis=(0, 2)))
    assert text.min() == 120  # where the present segment begins
    assert len(text) > 40
