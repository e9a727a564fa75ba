"""Augmentation of the user's own: seeded by the sample, checked by its result."""

import random

import numpy as np
import pytest
import torch

from mvrec.data.views.own_augment import apply_own, own_frames, own_on_device
from mvrec.errors import PartError

CLIP = torch.zeros(2, 3, 8, 8)


def noise(clip):
    return clip + torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002


def test_the_seed_decides_all_random_numbers_and_others_are_not_moved_on():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, again, other = (apply_own(CLIP, [noise], key="after_crop", seed=seed)[0, 0, 0, 0] for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_clip_of_a_batch_gets_its_own_numbers_whatever_the_batch():
    clips = torch.zeros(2, 3, 4, 8, 8)
    both = own_on_device(clips, torch.tensor([5, 6]), noise)
    alone = own_on_device(clips[1:], torch.tensor([6]), noise)
    assert torch.equal(both[1], alone[0])
    assert both[0, 0, 0, 0, 0] != both[1, 0, 0, 0, 0]
    assert own_on_device(clips[:, :, 0], torch.tensor([5, 6]), noise).shape == (2, 3, 8, 8)


def test_whole_frames_may_change_their_size_and_stay_unchanged_for_the_next_view():
    frames = np.zeros((2, 8, 10, 3), np.uint8)
    changed = own_frames(frames, lambda clip: clip.add_(1)[..., :4], seed=0)
    assert changed.shape == (2, 8, 4, 3)
    assert not frames.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip: clip.half(), r"returned torch.float16 \(2, 3, 8, 8\), expected torch.float32 \(T, C, H, W\)"),
        (lambda clip: clip[:1], r"returned torch.float32 \(1, 3, 8, 8\), expected"),
        (lambda clip: clip.numpy(), r"returned a ndarray, expected a tensor \(T, C, H, W\) = \(2, 3, 8, 8\)"),
        (
            lambda clip: clip.no,
            r"raised AttributeError: .* \(on torch.float32 .* \(2, 3, 8, 8\)\); --debug shows where",
        ),
    ],
)
def test_another_result_and_an_exception_are_one_line(change, message):
    with pytest.raises(PartError, match=rf"^data.augment.after_crop: .*{message}"):
        apply_own(CLIP, change, key="after_crop", seed=0)
