"""Batches of views of several sizes: padding, and an order by which they pad little."""

import numpy as np
import pytest
import torch

from mvrec.data.loading.batch import Item, collate
from mvrec.data.loading.loader import TrainBatches, epoch_order, grouped_order
from mvrec.data.views.targets import ClassIndex


def test_views_of_several_sizes_are_padded_with_0_at_the_bottom_and_the_right():
    sizes = [(3, 5), (4, 2), (2, 2)]
    views = [torch.full((1, 3, *size), number + 1, dtype=torch.uint8) for number, size in enumerate(sizes)]
    batch = collate([Item(view, (ClassIndex(0),), number, (number,)) for number, view in enumerate(views)])
    assert (batch.clips.shape, batch.clips.dtype) == ((3, 3, 4, 5), torch.uint8)
    for clip, view in zip(batch.clips, views, strict=True):
        height, width = view.shape[-2:]
        assert torch.equal(clip[None, :, :height, :width], view)
        assert clip.count_nonzero() == view.numel()


RATIOS = np.random.default_rng(0).choice([0.6, 0.75, 1.0, 4 / 3, 1.6], 203)


def test_grouped_steps_are_upright_or_wide_and_have_every_draw_once():
    order = epoch_order(203, seed=1)
    grouped = grouped_order(order, RATIOS, draws=8, seed=2)
    assert sorted(grouped.tolist()) == list(range(203))
    assert torch.equal(grouped, grouped_order(order, RATIOS, draws=8, seed=2))
    assert not torch.equal(grouped, grouped_order(order, RATIOS, draws=8, seed=3))
    ratios = RATIOS[grouped.numpy()][:200].reshape(-1, 8)
    mixed = [step for step in ratios > 1 if 0 < step.sum() < 8]
    assert len(mixed) <= 2
    assert (np.diff(ratios, axis=1) >= 0).all()
    upright = (ratios > 1).all(axis=1)
    assert np.abs(np.diff(upright.astype(int))).sum() > 0  # kinds of steps come in turn at random


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_grouped_step_is_the_same_on_one_process_and_on_several(accumulate):
    def step(world_size):
        batches = [
            TrainBatches(
                203, batch_size=8 // world_size // accumulate, seed=5, rank=rank, world_size=world_size,
                accumulate=accumulate, ratios=RATIOS,
            )
            for rank in range(world_size)
        ]  # fmt: skip
        return sorted(key.index for rank in batches for keys in list(rank)[: 3 * accumulate] for key in keys)

    assert step(1) == step(2) == step(4)


def test_sets_smaller_than_a_step_are_repeated():
    (keys,) = TrainBatches(3, batch_size=8, seed=0, rank=0, world_size=1, ratios=np.array([1.0, 2.0, 0.5]))
    assert {key.index for key in keys} == {0, 1, 2}
