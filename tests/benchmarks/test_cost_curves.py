"""Cost curves: the arithmetic of a table and one short run."""

import json

import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def curves(script):
    return script("cost_curves")


def test_growth_faster_than_macs_and_tokens_is_marked(curves):
    def point(value, macs, inputs, memory, *seconds):
        runs = [(total, 0.25 * total) for total in seconds]
        return curves.Point("a", "inference", "size", value, macs, inputs, memory, runs)

    before = point(112, 100, 10, 1000, 1.0)
    for seconds, memory, mark in (
        (4.6, 4.6, ""),
        (4.9, 4, "time"),
        (4, 4.9, "memory"),
        (4.9, 4.9, "time, memory"),
    ):
        after = point(224, 400, 40, round(1000 * memory), 9 * seconds, seconds, 0.1)
        assert curves.slopes(before, after).unexplained == mark


def test_kept_bytes_of_a_gated_product_are_sigmoid_and_both_factors(curves):
    class Network(nn.Linear):
        def forward(self, x):
            gate = super().forward(x).sigmoid()  # the linear layer keeps its input, which is there anyway
            return gate * gate.exp()

    assert curves.kept_bytes(Network(8, 32), torch.ones(4, 8)) == 2 * 4 * 32 * 4


@pytest.mark.slow
def test_a_short_run_writes_figures_whose_table_can_be_printed_again(curves, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(curves, "QUICK_BASE", {"frames": 2, "size": 64, "batch": 1, "views": 1})
    monkeypatch.setitem(curves.AXES, "size", (64, 96))
    path = tmp_path / "figures.json"
    curves.main(["--quick", "--only", "cloformer_xxs", "--axis", "size", "--json", str(path)])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    points = json.loads(path.read_text())["points"]
    assert [(p["mode"], p["value"]) for p in points] == [(m, s) for m in ("inference", "training") for s in (64, 96)]
    assert all(p["memory"] > 0 and p["macs"] > 0 and len(p["runs"]) > 0 for p in points)
    curves.main(["--stored", str(path)])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == printed
