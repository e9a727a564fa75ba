import random

import numpy as np
import pytest
from video_files import read_numbers, write_video

from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.sampling import ClipTooLongError, Window, segment_indices
from mvrec.data.views.transforms import Augment


def spec(num_frames, **options):
    return ClipSpec(num_frames=num_frames, sampling="segments", **options)


def test_middle_frames_of_segments_are_those_of_slowfast():
    for (first, length), expected in {
        # SlowFast's arithmetic by hand: edges are numpy.round(i * (n - 1) / T), the middle is floored.
        (0, 33): [2, 6, 10, 14, 18, 22, 26, 30],
        (0, 11): [1, 3, 6, 9],  # edges 0, 2.5 -> 2, 5, 7.5 -> 8, 10
        (100, 11): [101, 103, 106, 109],
        (0, 3): [0, 0, 0, 1, 1, 1, 2, 2],
        (5, 1): [5, 5, 5, 5],
    }.items():
        assert segment_indices(Window(first, length), spec(len(expected))).tolist() == expected


def edges(length, num_frames):
    return [int(np.round((length - 1) / num_frames * number)) for number in range(num_frames + 1)]


def test_random_frames_lie_in_their_segments_and_reach_all_of_it():
    for length, num_frames in ((1, 8), (2, 8), (7, 8), (16, 16), (17, 16), (40, 8), (117, 16), (30, 1)):
        bounds, rng = edges(length, num_frames), random.Random(0)
        drawn = np.stack([segment_indices(Window(3, length), spec(num_frames), rng).numpy() for _ in range(300)]) - 3
        assert drawn.dtype == np.int64
        assert (np.diff(drawn, axis=1) >= 0).all()
        assert drawn.min(axis=0).tolist() == bounds[:-1], (length, num_frames)
        assert drawn.max(axis=0).tolist() == bounds[1:], (length, num_frames)
    draws = [segment_indices(Window(0, 200), spec(8), random.Random(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_too_few_frames_and_several_clips_may_be_an_error():
    assert len(segment_indices(Window(0, 8), spec(8, short_video="error"))) == 8
    with pytest.raises(ClipTooLongError, match="8 segments do not fit in 7 frames"):
        segment_indices(Window(0, 7), spec(8, short_video="error"))
    with pytest.raises(ValueError, match="num_clips must be 1, got 5"):
        ClipProtocol(spec(8), Views())
    assert str(ClipProtocol(spec(8), Views(num_clips=1, num_crops=3))).startswith("8 segments, 1 clips x 3 crops")


def test_segments_of_real_videos_show_the_drawn_frames(tmp_path):
    for name, num_frames in (("a", 33), ("b", 5)):
        write_video(tmp_path / f"{name}.mp4", num_frames=num_frames, size=(96, 96))
    index = SampleIndex([Row("a.mp4", "0"), Row("a.mp4", "1", 0.5, 1.0), Row("b.mp4", "0")], root=tmp_path)
    views = Views(num_clips=1, num_crops=3, short_side=96)

    def shown(dataset, row, epoch=0):
        return [read_numbers(view.movedim(1, -1).numpy()) for view in dataset[SampleKey(epoch, row)].views]

    whole, part, short = (shown(EvalClips(index, ClipProtocol(spec(8), views, size=96)), row) for row in range(3))
    assert whole == [[2, 6, 10, 14, 18, 22, 26, 30]] * 3
    assert part[0] == [16, 18, 19, 21, 23, 24, 26, 28]  # 15 frames from 15 on, edges 0 2 4 5 7 9 10 12 14
    assert short[0] == [0, 0, 1, 2, 2, 2, 3, 4]

    plain = Augment((1.0, 1.0), (1.0, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None)
    drawn = [shown(TrainClips(index, spec(8), 96, plain, seed=4), 0, epoch)[0] for epoch in range(3)]
    bounds = edges(33, 8)
    assert all(low <= n <= high for numbers in drawn for low, n, high in zip(bounds, numbers, bounds[1:], strict=False))
    assert len({tuple(numbers) for numbers in drawn}) == 3

    bad = EvalClips(index, ClipProtocol(spec(8, short_video="error"), views, size=96))[SampleKey(0, 2)].bad
    assert bad[0].cause == "8 segments do not fit in 5 frames"
