"""Cost curves: what is counted and kept, on cases computed by hand, slopes and marks, and a short run as a whole."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def curves():
    spec = importlib.util.spec_from_file_location("cost_curves", ROOT / "benchmarks/cost_curves.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_curves"] = module  # dataclasses look their module up
    sys.path.insert(0, str(ROOT / "benchmarks"))  # only while it is imported, as other scripts lie there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.fixture
def point(curves):
    def make(value, *, seconds=(1.0,), **known):
        values = {"network": "a", "mode": "inference", "axis": "size", "macs": 100, "inputs": 10, "memory": 2**20}
        return curves.Point(value=value, runs=[(each, 0.25 * each) for each in seconds], **{**values, **known})

    return make


def test_slope_is_the_exponent(curves):
    assert curves.slope((2, 8), (3, 3 * 4**1.5)) == pytest.approx(1.5)
    assert curves.slope((5, 10), (7, 7)) == 0


def test_median_and_share_of_the_kernel(point):
    found = point(1, seconds=(1.0, 9.0, 2.0))
    assert found.seconds == 2
    assert found.kernel_share == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("seconds", "memory", "mark"),
    [
        (2**2.2, 2**2.2, ""),  # multiply-adds and tokens grow by an exponent of 2
        (2**2.3, 2**2, "time"),
        (2**2, 2**2.3, "memory"),
        (2**2.3, 2**2.3, "time, memory"),
        (1, 1, ""),
    ],
)
def test_only_what_grows_faster_than_mathematics_is_marked(curves, point, seconds, memory, mark):
    before = point(112, macs=100, inputs=10, memory=1000, seconds=(1.0,))
    after = point(224, macs=400, inputs=40, memory=round(1000 * memory), seconds=(seconds,))
    assert curves.slopes(before, after).unexplained == mark


def test_time_is_held_against_multiply_adds_and_memory_against_tokens(curves, point):
    before, after = point(1, memory=100), point(2, macs=400, inputs=20, memory=400, seconds=(4.0,))
    found = curves.slopes(before, after)
    assert (found.macs, found.inputs, found.seconds, found.memory) == (2, 1, 2, 2)
    assert found.unexplained == "memory"


def test_kept_bytes_by_hand(curves):
    # the linear layer keeps its input, which is known, the sigmoid its output, and the product both of its factors
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 32)

        def forward(self, x):
            gate = self.linear(x).sigmoid()
            return gate * gate.exp()

    assert curves.kept_bytes(Network(), torch.ones(4, 8)) == 2 * 4 * 32 * 4


def test_what_is_kept_is_freed_again(curves):
    released = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = x * x
            ctx.save_for_backward(out)  # an output: a graph that had it back would hold itself
            ctx.flag = Flag()
            return out

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Flag:
        def __del__(self):
            released.append(True)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return Square.apply(x * self.weight)

    assert curves.kept_bytes(Network(), torch.ones(3)) == 3 * 4  # its input and the weight are known
    assert released == [True]


def test_peak_is_what_was_held_at_once(curves):
    size = 4 * 1000

    def step():
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first
        third = torch.empty(500)
        del second, third

    assert curves.peak_bytes(step) == 3 * size


def test_peak_leaves_out_what_was_there_before(curves):
    before = torch.empty(10**6)
    assert curves.peak_bytes(lambda: torch.empty_like(before)) == 4 * 10**6


def test_a_run_of_several_steps_counts_as_one(curves):
    calls = []

    def step():
        calls.append(sum(range(10**6)))

    total, kernel = curves.timed(step, 5)
    assert len(calls) == 5
    assert 0 <= kernel <= total


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"memory_bytes": 8 * 2**20, "seconds": 9}, ""),
        ({"memory_bytes": 3 * 2**20, "seconds": 9}, "skipped: about 0.0 GiB, more than"),
        ({"memory_bytes": 8 * 2**20, "seconds": 7}, "skipped: about 8 s, more than 7"),
    ],
)
def test_points_that_take_too_much_are_left_out(curves, point, limits, reason):
    effort = curves.Effort(base={}, num_values=None, axes=(), repeats=1, **limits)
    last, following = point(1, macs=100, inputs=10), point(2, macs=800, inputs=40)
    assert curves.too_much(last, following, effort).startswith(reason)
    assert bool(curves.too_much(last, following, effort)) == bool(reason)
    assert curves.too_much(None, following, effort) == ""


def test_skipped_points_are_said(curves, point):
    series = [point(1), point(2, seconds=(), skipped="skipped: about 9 GiB, more than 7")]
    first, second = curves.lines(series)
    assert "skipped: about 9 GiB" in second
    assert first.count("|") == second.count("|") == curves.HEADER.count("|")
    assert curves.summary(series).count("\n") == 1  # no interval, no row


def test_slopes_stand_where_their_interval_ends(curves, point):
    series = [point(112), point(224, macs=400, inputs=40, memory=2**23, seconds=(16.0,))]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in curves.lines(series)]
    assert cells[0][-5:] == [""] * 5
    assert cells[1][:8] == ["a", "inference", "size", "224", "4e-07", "16", "25%", "8"]
    assert cells[1][8:] == ["2.00", "4.00", "2.00", "3.00", "time, memory"]
    assert "| 112 to 224: time, memory |" in curves.summary(series)


@pytest.mark.parametrize(
    ("name", "mode", "count"), [("cloformer_xxs", "training", 2), ("mvit_v2_s_16x4", "inference", 1)]
)
def test_networks_are_built_for_their_size(curves, name, mode, count):
    place = {**curves.QUICK_BASE, "size": 64, "frames": 4}
    network = curves.build(name, place)
    _, clips = curves.prepared(network, mode, count)
    frames = (4,) if name in curves.VIDEO else ()
    assert clips.shape == (count, 3, *frames, 64, 64)
    assert network.training == (mode == "training")
    if name in curves.VIDEO:
        assert network.position_grid == (2, 16, 16)


@pytest.mark.parametrize(("views", "calls"), [(1, [1]), (8, [8]), (11, [8, 3])])
def test_views_go_through_the_network_as_in_an_evaluation(curves, monkeypatch, views, calls):
    network = curves.build("mvit_b_16x4", {**curves.QUICK_BASE, "size": 32, "frames": 2})
    seen = []
    monkeypatch.setattr(network, "forward", lambda clips: seen.append(clips) or torch.zeros(len(clips), 400))
    step, pixels = curves.prepared(network, "evaluation", views)
    step()
    assert [len(clips) for clips in seen] == calls
    assert pixels.dtype == torch.uint8
    assert torch.cat(seen).mean().abs() < 1  # normalised
    assert torch.is_inference(seen[0])


def test_every_axis_of_every_network_is_measured(curves):
    assert len(curves.curves("mvit_b_16x4")) == 7
    assert curves.curves("shunted_t") == [(m, a) for m in ("inference", "training") for a in ("size", "batch")]


def test_a_short_run_writes_table_figures_and_plot(curves, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(curves, "QUICK_BASE", {"frames": 2, "size": 64, "batch": 1, "views": 1})
    monkeypatch.setitem(curves.AXES, "size", (64, 96))
    path, picture = tmp_path / "figures.json", tmp_path / "plot.png"
    curves.main(["--quick", "--only", "cloformer_xxs", "--json", str(path), "--plot", str(picture)])
    printed = capsys.readouterr().out
    figures = json.loads(path.read_text())
    points = figures["points"]
    assert [(p["mode"], p["axis"], p["value"]) for p in points] == [
        (mode, axis, value)
        for mode in ("inference", "training")
        for axis, values in (("size", (64, 96)), ("batch", (1, 2)))
        for value in values
    ]
    assert all(p["memory"] > 0 and p["macs"] > 0 and p["runs"][0][0] > 0 for p in points)
    assert points[1]["inputs"] == 3 * 96 * 96
    assert points[3]["macs"] == 2 * points[2]["macs"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"torch {torch.__version__}" in figures["machine"]

    curves.main(["--stored", str(path), "--json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text()) == figures
    tables = [
        [line for line in text.splitlines() if line.startswith("|")] for text in (printed, capsys.readouterr().out)
    ]
    assert tables[0] == tables[1]


def test_stored_figures_of_several_runs_are_one_table(curves, point, capsys, tmp_path):
    for name in ("a", "b"):
        series = [point(1, network=name), point(2, network=name, seconds=(math.e,))]
        figures = {"machine": "one", "points": [curves.asdict(each) for each in series]}
        (tmp_path / name).write_text(json.dumps(figures))
    curves.main(["--stored", str(tmp_path / "a"), str(tmp_path / "b")])
    printed = capsys.readouterr().out
    assert printed.startswith("one\n")
    assert printed.count("| a |") == printed.count("| b |") == 3
