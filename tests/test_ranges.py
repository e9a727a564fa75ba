"""One message for every number out of its range, for callers from Python as well."""

import math

import pytest

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import Views
from mvrec.errors import UserError
from mvrec.ranges import COUNT_OR_NONE, POSITIVE, RANGES, Range, check_range, check_ranges


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        (Range(), 0, "--n must be at least 1, got 0"),
        (Range(), 10**12, "--n must lie in 1..2147483647, got 1e+12"),
        (COUNT_OR_NONE, -1, "--n must be at least 0, got -1"),
        (POSITIVE, 0.0, "--n must be above 0, got 0"),
        (POSITIVE, math.inf, "--n must lie in 0..2147483647, got inf"),
        (POSITIVE, math.nan, "--n must be above 0, got nan"),
        (Range(0, 1, above=True), 0, "--n must lie in 0..1 and not be 0, got 0"),
        (Range(0, 1, below=True), 1, "--n must lie in 0..1 and be below 1, got 1"),
    ],
)
def test_the_message_names_what_the_range_and_the_value(limits, value, message):
    with pytest.raises(UserError) as raised:
        check_range("--n", value, limits)
    assert str(raised.value) == message


def test_what_is_no_number_or_has_no_range_passes():
    check_range("--n", None)
    check_ranges("data.", {"num_workers": "auto", "size": None, "root": -1, "augment": object()})
    with pytest.raises(UserError, match=r"^data\.repeats must lie in 1\.\.10000, got 0$"):
        check_ranges("data.", {"root": -1, "repeats": 0})


def test_a_range_holds_its_ends_as_it_says():
    for key, limits in RANGES.items():
        assert limits.holds(limits.least) is not limits.above, key
        assert limits.holds(limits.greatest) is not limits.below, key
        assert not any(map(limits.holds, (math.nan, math.inf))), key


def test_constructors_check_what_they_are_given():
    for kind, name in ((ClipSpec, "num_frames"), (Views, "num_clips")):
        with pytest.raises(UserError, match=rf"{name} must lie in 1\.\.10000, got 0"):
            kind(**{name: 0})
