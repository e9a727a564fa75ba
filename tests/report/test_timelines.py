import colorsys
from itertools import combinations

import numpy as np
import pytest

from mvrec.report.timelines import colours_of


def test_colours_of_shown_classes_are_far_apart_however_many_there_are():
    names = [f"class {number}" for number in range(400)]
    shown = names[7:300:50]
    colours = colours_of(shown, names).values()
    hues = sorted(colorsys.rgb_to_hls(*(part / 255 for part in colour))[0] for colour in colours)
    assert len(hues) == 6
    assert np.diff(hues) == pytest.approx(1 / 6, abs=0.01)
    colours = [np.array(colour) for colour in colours_of(names[:12], names).values()]
    assert min(np.linalg.norm(first - second) for first, second in combinations(colours, 2)) > 50
    assert colours_of(set(), names) == {}
