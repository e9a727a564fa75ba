"""Cost curves: the arithmetic of a table and one short run."""

import json

import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def curves(script):
    return script("cost_curves")


def point(curves, value, *, seconds=(1.0,), **others):
    values = {"network": "a", "mode": "inference", "axis": "size", "macs": 100, "inputs": 10, "memory": 1000}
    return curves.Point(value=value, runs=[(each, 0.25 * each) for each in seconds], **{**values, **others})


@pytest.mark.parametrize(
    ("seconds", "memory", "mark"),
    [(4.6, 4.6, ""), (4.9, 4, "time"), (4, 4.9, "memory"), (4.9, 4.9, "time, memory"), (1, 1, "")],
)
def test_growth_faster_than_macs_and_tokens_is_marked(curves, seconds, memory, mark):
    before = point(curves, 112)
    after = point(curves, 224, macs=400, inputs=40, memory=round(1000 * memory), seconds=(9 * seconds, seconds, 0.1))
    assert curves.slopes(before, after).unexplained == mark


def test_kept_bytes_of_a_gated_product_are_sigmoid_and_both_factors(curves):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 32)

        def forward(self, x):
            gate = self.linear(x).sigmoid()  # the linear layer keeps its input, which is there anyway
            return gate * gate.exp()

    assert curves.kept_bytes(Network(), torch.ones(4, 8)) == 2 * 4 * 32 * 4


def rows(text):
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_a_short_run_writes_figures_whose_table_can_be_printed_again(curves, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(curves, "QUICK_BASE", {"frames": 2, "size": 64, "batch": 1, "views": 1})
    monkeypatch.setitem(curves.AXES, "size", (64, 96))
    path = tmp_path / "figures.json"
    curves.main(["--quick", "--only", "cloformer_xxs", "--axis", "size", "--json", str(path)])
    printed = rows(capsys.readouterr().out)
    points = json.loads(path.read_text())["points"]
    assert [(p["mode"], p["value"]) for p in points] == [(m, s) for m in ("inference", "training") for s in (64, 96)]
    assert all(p["memory"] > 0 and p["macs"] > 0 and p["runs"][0][0] > 0 for p in points)
    curves.main(["--stored", str(path)])
    assert rows(capsys.readouterr().out) == printed
