import math

import pytest
from torch import nn

from mvrec.training.optim import WarmupCosine, parameter_groups

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


@pytest.mark.parametrize("values", [{"warmup_epochs": -1}, {"start_factor": 1.5}, {"end_factor": -0.1}])
def test_impossible_schedules(values):
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        WarmupCosine(**values)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(nn.init.zeros_(nn.Linear(4, 7).weight.data))
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv3d(1, 2, 3)
        self.shared = self.linear
        self.scale = nn.Parameter(self.norm.weight.data[0].clone())


def names_in(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


def test_each_parameter_once_and_vectors_undecayed():
    model = Network()
    decayed, left_alone = parameter_groups(model, undecayed={"position"})
    assert names_in(model, decayed) == ["linear.weight", "conv.weight"]
    assert sorted(names_in(model, left_alone)) == sorted(
        ["position", "scale", "linear.bias", "norm.weight", "norm.bias", "conv.bias"]
    )
    assert "weight_decay" not in decayed  # the optimiser's own
    assert left_alone["weight_decay"] == 0.0


def test_frozen_parameters_are_in_no_group():
    model = Network()
    model.linear.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    names = [name for group in parameter_groups(model, undecayed=set()) for name in names_in(model, group)]
    assert sorted(names) == sorted(["position", "scale", "norm.weight", "conv.weight", "conv.bias"])


@pytest.mark.parametrize(("model", "decay"), [(nn.LayerNorm(3), 0.0), (nn.Linear(3, 3, bias=False), None)])
def test_no_group_is_empty(model, decay):
    (group,) = parameter_groups(model, undecayed=set())
    assert group.get("weight_decay") == decay
    assert group["params"]


def test_unknown_name():
    with pytest.raises(ValueError, match=r"parameters that do not exist: \['positon'\]"):
        parameter_groups(Network(), undecayed={"position", "positon"})
