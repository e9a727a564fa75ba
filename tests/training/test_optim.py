import math

import pytest
import torch

from mvrec.training.optim import WarmupCosine

# 10 epochs of 4 steps, 2 of them warm-up from 0.1, down to 0.02.
TABLE = {
    0: 0.1,
    1: 0.2125,
    2: 0.325,
    4: 0.55,
    7: 0.8875,
    8: 1.0,
    16: 0.02 + 0.98 * (1 + math.sqrt(0.5)) / 2,  # a quarter of the cosine
    24: 0.51,
    32: 0.02 + 0.98 * (1 - math.sqrt(0.5)) / 2,
    40: 0.02,
    50: 0.02,
}


@pytest.mark.parametrize(("step", "factor"), TABLE.items())
def test_warmup_and_cosine_step_by_step(step, factor):
    schedule = WarmupCosine(warmup_epochs=2, start_factor=0.1, end_factor=0.02)
    assert schedule.factor(step, total_steps=40, steps_per_epoch=4) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("warmup_epochs", "expected"),
    [(0.0, [1.0, 0.75, 0.25, 0.0]), (0.5, [0.01, 0.505, 1.0, 0.5]), (1.0, [0.01, 0.34, 0.67, 1.0])],
)
def test_short_schedules(warmup_epochs, expected):
    steps_per_epoch, total = {0.0: (3, 3), 0.5: (4, 4), 1.0: (3, 3)}[warmup_epochs]
    schedule = WarmupCosine(warmup_epochs=warmup_epochs, end_factor=0.0)
    found = [schedule.factor(step, total_steps=total, steps_per_epoch=steps_per_epoch) for step in range(4)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"warmup_epochs": -1},
        {"cooldown_epochs": -0.5},
        {"start_factor": 1.5},
        {"end_factor": -0.1},
        {"cosine_from": "end"},
        {"per": "day"},
    ],
)
def test_impossible_schedules(values):
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        WarmupCosine(**values)


# 10 epochs of 4 steps: 2 epochs of warm-up from 0.1, 2 at the end rate of 0.02.
COOLED = {
    "warmup": {0: 0.1, 7: 0.8875, 8: 1.0, 20: 0.51, 31: 0.0241920, 32: 0.02, 36: 0.02, 39: 0.02},
    "start": {0: 0.1, 7: 0.8875, 8: 0.8564823, 16: 0.51, 31: 0.0223595, 32: 0.02, 36: 0.02, 39: 0.02},
}


@pytest.mark.parametrize(("cosine_from", "step", "factor"), [(c, *pair) for c in COOLED for pair in COOLED[c].items()])
def test_cool_down_and_where_the_cosine_begins(cosine_from, step, factor):
    schedule = WarmupCosine(
        warmup_epochs=2, start_factor=0.1, end_factor=0.02, cooldown_epochs=2, cosine_from=cosine_from
    )
    assert schedule.factor(step, total_steps=40, steps_per_epoch=4) == pytest.approx(factor, abs=1e-7)


def test_a_run_shorter_than_warm_up_and_cool_down():
    schedule = WarmupCosine(warmup_epochs=20, start_factor=0.0, end_factor=0.02, cooldown_epochs=10)
    factors = [schedule.factor(step, total_steps=25, steps_per_epoch=1) for step in range(25)]
    assert factors == pytest.approx([*(step / 20 for step in range(20)), 1.0, *[0.02] * 4])


@pytest.mark.parametrize("cosine_from", ["start", "warmup"])
def test_the_image_recipes_follow_timm(cosine_from):
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    prefix = cosine_from == "warmup"
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=300 - 20 * prefix,  # with a prefix timm counts the cosine from the end of the warm-up
        lr_min=0.02,
        warmup_t=20,
        warmup_lr_init=0.002,
        warmup_prefix=prefix,
        t_in_epochs=False,
    )
    ours = WarmupCosine(
        warmup_epochs=20, start_factor=0.001, end_factor=0.01, cooldown_epochs=10, cosine_from=cosine_from
    )
    for step in range(310):
        theirs.step_update(step)
        factor = ours.factor(step, total_steps=310, steps_per_epoch=1)
        assert 2 * factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step


# 10 epochs of 4 steps, 2 of them warm-up from 0.1, 2 at the end rate of 0.02: the rates of whole epochs.
PER_EPOCH = {
    "epoch": {0: 0.1, 3: 0.1, 4: 0.55, 7: 0.55, 8: 1.0, 20: 0.51, 23: 0.51, 28: 0.0856476, 32: 0.02, 39: 0.02},
    "epoch_late": {0: 0.1, 7: 0.1, 8: 0.55, 11: 0.55, 12: 1.0, 24: 0.51, 27: 0.51, 32: 0.0856476, 36: 0.02, 39: 0.02},
}


@pytest.mark.parametrize(
    ("per", "step", "factor"), [(per, *pair) for per in PER_EPOCH for pair in PER_EPOCH[per].items()]
)
def test_a_rate_that_stays_for_an_epoch(per, step, factor):
    schedule = WarmupCosine(warmup_epochs=2, start_factor=0.1, end_factor=0.02, cooldown_epochs=2, per=per)
    assert schedule.factor(step, total_steps=40, steps_per_epoch=4) == pytest.approx(factor, abs=1e-7)


@pytest.mark.parametrize("cooldown_epochs", [0, 10])
@pytest.mark.parametrize(("per", "ahead"), [("epoch", 1), ("epoch_late", 0)])
def test_a_schedule_per_epoch_follows_timm(per, ahead, cooldown_epochs):
    """The scripts of timm step to epoch + 1 after an epoch, DeiT's to that epoch's own number."""
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    ours = WarmupCosine(
        warmup_epochs=5,
        start_factor=0.001,
        end_factor=0.01,
        cooldown_epochs=cooldown_epochs,
        cosine_from="start",
        per=per,
    )
    steps_per_epoch, epochs = 3, 300 + cooldown_epochs
    for epoch in range(epochs):
        for step in range(steps_per_epoch * epoch, steps_per_epoch * (epoch + 1)):
            factor = ours.factor(step, total_steps=steps_per_epoch * epochs, steps_per_epoch=steps_per_epoch)
            theirs.step_update(step + 1)  # which does nothing, as they count epochs
            assert 1e-3 * factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), (epoch, step)
        theirs.step(epoch + ahead)
