"""The expected time of a run."""

import pytest
import torch
from torch import nn

from mvrec.models import MViT, SegmentationHead, shunted_t
from mvrec.plan import timing
from mvrec.plan.timing import in_words, seconds_per_view


def test_a_step_is_timed_on_a_copy_and_leaves_random_numbers_alone(monkeypatch):
    network = MViT(num_classes=3, num_frames=4, image_size=128, embed_dim=8, depth=1, q_strides={}, kv_stride=4)
    before, weights = torch.get_rng_state(), [tensor.clone() for tensor in network.parameters()]
    seconds = seconds_per_view(network, (3, 4, 128, 128), on_gpu=False)
    assert 0 < seconds < 10
    monkeypatch.setattr(timing, "MOST_MACS", 1.0)  # so that a smaller input is timed
    assert seconds / 20 < seconds_per_view(network, (3, 4, 128, 128), on_gpu=False) < 20 * seconds
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.grad is None for tensor in network.parameters())
    assert all(torch.equal(tensor, weight) for tensor, weight in zip(network.parameters(), weights, strict=True))


def test_a_segmenter_with_an_auxiliary_head_is_timed():
    network = shunted_t(num_classes=3)
    network.place_head(SegmentationHead(network.feature_info, 3, decoder="upernet", channels=8), 3)
    assert 0 < seconds_per_view(network, (3, 64, 64), on_gpu=False) < 10


def test_a_network_that_cannot_be_timed_has_no_time(monkeypatch):
    monkeypatch.setattr(timing, "count_macs", lambda network, shape: 1)
    assert seconds_per_view(nn.Linear(7, 2), (3, 8, 8), on_gpu=False) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "about 10 seconds"), (200, "about 3 minutes"), (7300, "about 2 hours"), (400_000, "about 5 days")],
)
def test_times_are_said_as_people_do(seconds, words):
    assert in_words(seconds) == words
