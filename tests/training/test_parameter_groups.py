import pytest
import torch
from torch import nn

from mvrec.runs.progress import rates, rates_text
from mvrec.training.parameter_groups import group_record, group_summary, parameter_groups, scale_rates


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


def test_each_trained_parameter_is_in_one_group_and_vectors_are_undecayed():
    model = Network()
    decayed, left_alone = parameter_groups(model, undecayed={"position"})
    assert decayed["names"] == names_in(model, decayed) == ["linear.weight", "conv.weight"]
    vectors = ["position", "scale", "linear.bias", "norm.weight", "norm.bias", "conv.bias"]
    assert sorted(names_in(model, left_alone)) == sorted(vectors)
    assert "weight_decay" not in decayed  # the optimiser's own
    assert left_alone["weight_decay"] == 0.0
    model.linear.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    names = [name for group in parameter_groups(model, undecayed=set()) for name in names_in(model, group)]
    assert sorted(names) == ["conv.bias", "conv.weight", "norm.weight", "position", "scale"]


def test_no_group_is_empty():
    for model, decay in ((nn.LayerNorm(3), 0.0), (nn.Linear(3, 3, bias=False), None)):
        (group,) = parameter_groups(model, undecayed=set())
        assert group.get("weight_decay") == decay
        assert group["params"]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"parameters that do not exist: \['positon'\]"):
        parameter_groups(Network(), undecayed={"position", "positon"})


def test_layer_decay_gives_each_layer_its_share_of_the_rate():
    last = ["norm.weight", "norm.bias", "scale", "conv.weight", "conv.bias"]
    layers = [["position"], ["linear.weight", "linear.bias"], last]
    groups = parameter_groups(Network(), undecayed={"position"}, layers=layers, layer_decay=0.5)
    assert [(group["lr_scale"], group.get("weight_decay"), group["names"]) for group in groups] == [
        (0.25, 0.0, ["position"]),
        (0.5, None, ["linear.weight"]),
        (0.5, 0.0, ["linear.bias"]),
        (1.0, None, ["conv.weight"]),
        (1.0, 0.0, ["scale", "norm.weight", "norm.bias", "conv.bias"]),
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    scale_rates(optimizer, 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.1, 0.1, 0.2, 0.2])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3, 0.0, 0.3, 0.0]
    assert rates(optimizer) == pytest.approx({"lr": 0.2, "lr_first_layer": 0.05})
    assert rates_text(optimizer) == "0.2 (head), 0.05 (first layer)"
    summary = group_summary(group_record(optimizer, Network()))
    assert "peak lr 0.2 at the head, 0.05 at the first layer" in summary


def test_the_record_and_its_summary_name_every_parameter_once():
    model = Network()
    model.linear.requires_grad_(False)
    groups = parameter_groups(model, undecayed={"position"})
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    record = group_record(optimizer, model)
    assert [row["name"] for row in record] == ["decayed", "not decayed", "frozen"]
    assert sorted(name for row in record for name in row["names"]) == sorted(dict(model.named_parameters()))
    assert sum(row["parameters"] for row in record) == sum(p.numel() for p in model.parameters())
    assert [(row["lr"], row["weight_decay"]) for row in record] == [(0.1, 0.3), (0.1, 0.0), (0.0, 0.0)]
    assert rates(optimizer) == {"lr": 0.1}
    text = "20 are frozen: peak lr 0.1; weight decay 0.3 for 54 and 0 for "
    assert text in group_summary(record)


def test_rate_factors_are_those_of_the_names_they_begin():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = parameter_groups(model, undecayed=set(), rate_factors={"head.": 10.0})
    shares = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert shares == {"body.weight": 1, "body.bias": 1, "head.weight": 10, "head.bias": 10}
    assert [group["name"] for group in groups][1] == "rate x 10, decayed"
