import math

import pytest
import torch

from mvrec.training.optim import WarmupCosine, WarmupMultiStep, WarmupPolynomial


def test_factors_are_those_of_the_tables_at_each_step():
    """Ten epochs of four steps, two of them warm-up from 0.1, down to 0.02."""
    schedule = WarmupCosine(warmup_epochs=2, start_factor=0.1, end_factor=0.02)
    quarter = 0.98 * math.sqrt(0.5) / 2
    table = {0: 0.1, 1: 0.2125, 2: 0.325, 4: 0.55, 7: 0.8875, 8: 1.0, 16: 0.51 + quarter, 24: 0.51, 32: 0.51 - quarter}
    for step, factor in {**table, 40: 0.02, 50: 0.02}.items():
        assert schedule.factor(step, total_steps=40, steps_per_epoch=4) == pytest.approx(factor, abs=1e-7), step


def test_factors_of_schedules_of_one_epoch_and_of_less_than_warm_up_and_cool_down():
    for warmup_epochs, steps, expected in (
        (0.0, 3, [1.0, 0.75, 0.25, 0.0]),
        (0.5, 4, [0.01, 0.505, 1.0, 0.5]),
        (1.0, 3, [0.01, 0.34, 0.67, 1.0]),
    ):
        schedule = WarmupCosine(warmup_epochs=warmup_epochs, end_factor=0.0)
        factors = [schedule.factor(step, total_steps=steps, steps_per_epoch=steps) for step in range(4)]
        assert factors == pytest.approx(expected)
    schedule = WarmupCosine(warmup_epochs=20, start_factor=0.0, end_factor=0.02, cooldown_epochs=10)
    factors = [schedule.factor(step, total_steps=25, steps_per_epoch=1) for step in range(25)]
    assert factors == pytest.approx([*(step / 20 for step in range(20)), 1.0, *[0.02] * 4])


def test_impossible_schedules_are_refused():
    for name, value in (
        *(("warmup_epochs", -1), ("cooldown_epochs", -0.5), ("start_factor", 1.5), ("end_factor", -0.1)),
        *(("cosine_from", "end"), ("per", "day")),
    ):
        with pytest.raises(ValueError, match=str(value)):
            WarmupCosine(**{name: value})


@pytest.mark.parametrize("cosine_from", ["start", "warmup"])
def test_the_image_recipes_follow_timm(cosine_from):
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    prefix = cosine_from == "warmup"
    expected = CosineLRScheduler(
        optimizer,
        t_initial=300 - 20 * prefix,  # with a prefix timm counts the cosine from the end of the warm-up
        lr_min=0.02,
        warmup_t=20,
        warmup_lr_init=0.002,
        warmup_prefix=prefix,
        t_in_epochs=False,
    )
    actual = WarmupCosine(
        warmup_epochs=20, start_factor=0.001, end_factor=0.01, cooldown_epochs=10, cosine_from=cosine_from
    )
    for step in range(310):
        expected.step_update(step)
        factor = actual.factor(step, total_steps=310, steps_per_epoch=1)
        assert 2 * factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step


@pytest.mark.parametrize(("per", "ahead", "cooldown_epochs"), [("epoch", 1, 10), ("epoch_late", 0, 0)])
def test_a_schedule_per_epoch_follows_timm(per, ahead, cooldown_epochs):
    """The scripts of timm step to epoch + 1 after an epoch, DeiT's to that epoch's own number."""
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    expected = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    knobs = {"start_factor": 0.001, "end_factor": 0.01, "cooldown_epochs": cooldown_epochs, "cosine_from": "start"}
    actual = WarmupCosine(warmup_epochs=5, per=per, **knobs)
    steps_per_epoch, epochs = 3, 300 + cooldown_epochs
    for epoch in range(epochs):
        for step in range(steps_per_epoch * epoch, steps_per_epoch * (epoch + 1)):
            factor = actual.factor(step, total_steps=steps_per_epoch * epochs, steps_per_epoch=steps_per_epoch)
            expected.step_update(step + 1)  # which does nothing, as they count epochs
            assert 1e-3 * factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), (epoch, step)
        expected.step(epoch + ahead)


def rates_of_12_steps(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler, values = make(optimizer), []
    for _ in range(12):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(("warmup_steps", "power"), [(0, 0.9), (3, 1.0)])
def test_a_polynomial_schedule_is_torchs_linear_and_polynomial_ones_in_a_row(warmup_steps, power):
    def torchs(optimizer):
        schedulers = torch.optim.lr_scheduler
        polynomial = schedulers.PolynomialLR(optimizer, total_iters=12 - warmup_steps, power=power)
        if not warmup_steps:
            return polynomial
        linear = schedulers.LinearLR(optimizer, start_factor=1e-6, total_iters=warmup_steps)
        return schedulers.SequentialLR(optimizer, [linear, polynomial], milestones=[warmup_steps])

    polynomial = rates_of_12_steps(
        lambda optimizer: WarmupPolynomial(optimizer, total_steps=12, warmup_steps=warmup_steps, power=power)
    )
    assert polynomial == pytest.approx(rates_of_12_steps(torchs))
    with pytest.raises(ValueError, match=r"warmup_steps must lie in 0..total_steps - 1, got 12 of 12"):
        rates_of_12_steps(lambda optimizer: WarmupPolynomial(optimizer, total_steps=12, warmup_steps=12))


def test_a_schedule_with_milestones_is_torchs_linear_and_multi_step_ones_together():
    def torchs(optimizer):
        schedulers = torch.optim.lr_scheduler
        linear = schedulers.LinearLR(optimizer, start_factor=1e-3, total_iters=3)
        return schedulers.ChainedScheduler([linear, schedulers.MultiStepLR(optimizer, [6, 9], gamma=0.1)])

    rates = rates_of_12_steps(lambda optimizer: WarmupMultiStep(optimizer, milestones=[6, 9], warmup_steps=3))
    assert rates == pytest.approx(rates_of_12_steps(torchs))
    with pytest.raises(ValueError, match=r"milestones must rise from warmup_steps=3 on, got \[3, 9\]"):
        rates_of_12_steps(lambda optimizer: WarmupMultiStep(optimizer, milestones=[3, 9], warmup_steps=3))
