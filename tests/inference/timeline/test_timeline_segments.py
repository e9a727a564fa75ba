import numpy as np
import pytest

from mvrec.errors import UserError
from mvrec.inference.timeline.figures import THRESHOLDS, timeline_figures
from mvrec.inference.timeline.segments import Segment, TimelineKnobs, merge

NAMES = ["run", "jump", "none"]


def spans(segments):
    return [(segment.name, segment.start, segment.end) for segment in segments]


def windows(*probabilities):
    """Windows of 2 s that begin each second, with the probability of "run" in each."""
    share = np.array(probabilities)
    rest = 1 - share
    return np.stack([share, 0.4 * rest, 0.6 * rest], axis=1), np.arange(len(share)), np.arange(len(share)) + 2.0


def test_a_segment_begins_at_the_upper_threshold_and_lasts_to_the_lower_one():
    # Means of overlapping windows, second by second: .2 .2 .55 .9 .65 .4 .4 .2 0
    parts = merge(*windows(0.2, 0.2, 0.9, 0.9, 0.4, 0.4, 0.4, 0.0), NAMES, TimelineKnobs(on=0.6, off=0.4))
    (run,) = [part for part in parts if part.name == "run"]
    assert (run.start, run.end) == (2.0, 7.0)
    assert run.confidence == pytest.approx(np.mean([0.55, 0.9, 0.65, 0.4, 0.4]))
    assert [part.name for part in merge(*windows(0.2, 0.2, 0.5), NAMES, TimelineKnobs(on=0.6, off=0.2))] == []


def test_short_segments_and_the_background_are_left_out():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.0, 0.0, 1.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])
    starts, ends = np.array([0.0, 3.0, 4.0, 5.0]), np.array([3.0, 4.0, 5.0, 6.0])
    knobs = TimelineKnobs(background="none")
    assert spans(merge(probabilities, starts, ends, NAMES, knobs)) == [("run", 0, 3), ("jump", 4, 5)]
    assert spans(merge(probabilities, starts, ends, NAMES, TimelineKnobs(least=2.0, background="none"))) == [
        ("run", 0, 3)
    ]
    assert ("none", 3, 4) in spans(merge(probabilities, starts, ends, NAMES))
    with pytest.raises(UserError, match="'nun' is no class; did you mean 'run'"):
        merge(probabilities, starts, ends, NAMES, TimelineKnobs(background="nun"))


def test_a_gap_between_windows_ends_a_segment():
    probabilities = np.full((2, 3), 0.9)
    parts = merge(probabilities, np.array([0.0, 5.0]), np.array([2.0, 7.0]), NAMES[:3])
    assert spans(parts)[:2] == [("run", 0, 2), ("jump", 0, 2)]
    assert len(parts) == 6


def test_moments_that_differ_by_rounding_are_one():
    starts = np.arange(12) * 0.8  # where a window ends, the one after next begins, but for 1e-15
    ends = starts + 1.6
    assert 0 < np.diff(np.unique(np.concatenate([starts, ends]))).min() < 1e-12
    probabilities = np.tile([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]], (6, 1))
    parts = merge(probabilities, starts, ends, NAMES, TimelineKnobs(on=0.6, off=0.55))
    assert spans(parts) == [("run", 0.0, 0.8), ("none", 9.6, 10.4)]


def plain_average_precision(predicted, truth, name, threshold):
    """The rule as loops over sorted lists, claim by claim."""
    claims = [(part.confidence, video, part) for video in predicted for part in predicted[video] if part.name == name]
    claims = sorted(claims, key=lambda claim: claim[0], reverse=True)  # stable, as the rule says
    claimed, rights = set(), []
    for _, video, part in claims:
        ranked = []
        for place, (start, end, label) in enumerate(truth.get(video, [])):
            if label == name:
                shared = max(0, min(end, part.end) - max(start, part.start))
                ranked.append((shared / (end - start + part.end - part.start - shared), place))
        ranked.sort(key=lambda pair: -pair[0])
        right = False
        for share, place in ranked:
            if share < threshold:
                break
            if (video, place) not in claimed:
                claimed.add((video, place))
                right = True
                break
        rights.append(right)
    number = sum(label == name for spans in truth.values() for _, _, label in spans)
    area, count, points = 0.0, 0, []
    for rank, right in enumerate(rights, 1):
        count += right
        points.append((count / number, count / rank))
    for place, right in enumerate(rights):
        if right:
            area += max(precision for _, precision in points[place:]) / number
    return area


def test_figures_equal_plain_loops_over_random_timelines_with_ties_and_empty_videos():
    rng = np.random.default_rng(0)
    for _ in range(200):
        truth, predicted = {}, {}
        for video in "abcd":
            truth[video] = [
                (start, start + rng.uniform(0.5, 3), str(rng.choice(NAMES[:2])))
                for start in rng.uniform(0, 10, rng.integers(4))
            ]
            predicted[video] = [
                Segment(start, start + length, 0, name, float(rng.integers(4)) / 4)
                for start, length, name in (
                    (max(0, true[0] + rng.normal(0, 0.3)), true[1] - true[0], true[2]) for true in truth[video]
                )
                for _ in range(rng.integers(3))
            ]
        predicted["e"] = [Segment(0.0, 1.0, 0, "run", 0.5)]
        names = {label for spans in truth.values() for _, _, label in spans}
        if not names:
            continue
        figures = timeline_figures(predicted, truth)
        for threshold in THRESHOLDS:
            values = [plain_average_precision(predicted, truth, name, threshold) for name in sorted(names)]
            assert figures.by_threshold[threshold] == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("values", [{"on": 0.2}, {"off": 0.0}, {"on": 1.5}, {"least": -1.0}])
def test_thresholds_out_of_order_are_refused(values):
    with pytest.raises(UserError):
        TimelineKnobs(**values)
