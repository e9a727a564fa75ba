"""The benchmark for GPUs, without one: what it builds, how it counts, and that no row can cost the others."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType


@pytest.fixture(scope="module")
def gpu(script):
    return script("gpu")


@pytest.fixture(scope="module")
def device(script):
    return script("networks.device")


@pytest.fixture
def run(gpu, tmp_path, capsys):
    """Run the command; return the rows of its file by label, and what it printed."""

    def command(*words):
        path = tmp_path / "gpu.json"
        gpu.main(["--dry", "--json", str(path), *words])
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        return {f"{row['subject']}, {row['measure']}": row for row in rows}, capsys.readouterr().out

    return command


def test_peers_of_other_libraries_are_of_the_same_size(gpu):
    names = {case.network for case in gpu.cases()}
    assert {name for name in names if gpu.peer_of(name, dry=False)[0] == "plain"} == names - {*gpu.CLIPS, *gpu.TIMM}
    for name in sorted({*gpu.CLIPS, *gpu.TIMM}):
        library, build = gpu.peer_of(name, dry=False)
        with torch.device("meta"):
            network, peer = gpu.ours(name, dry=False), build()
        assert library == ("torchvision" if name in gpu.CLIPS else "timm")
        sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (network, peer)]
        assert sizes[0] == sizes[1], name


@pytest.mark.parametrize(
    "measure", ["inference, bf16, eager", pytest.param("training step, bf16, compiled", marks=pytest.mark.slow)]
)
def test_a_case_runs_from_weights_to_file(run, measure):
    rows, printed = run("--only", f"cloformer_xs, {measure}")
    (row,) = rows.values()
    assert (row["peer"], row["unit"], row["more"]["waits"]) == ("plain", "images/s", 0)
    assert row["mvrec"] / row["other"] == pytest.approx(row["ratio"], rel=1e-3)
    assert f"| cloformer_xs | {measure}, batch 2 | plain |" in printed


def event(name, kind, start, end, *, annotation=False):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, device_type=kind, time_range=span, is_user_annotation=annotation)


def test_kernels_and_waits_of_a_step_are_counted(device):
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    events = [
        event(device.LABEL, cpu, 10, 100, annotation=True),
        event(device.LABEL, cuda, 15, 130, annotation=True),
        event("Optimizer.step#AdamW.step", cuda, 90, 130, annotation=True),
        event("sm90_gemm", cuda, 20, 60),
        event("elementwise", cuda, 60, 70),
        event("elementwise", cuda, 70, 80),
        event("Memcpy DtoH (Device -> Pinned)", cuda, 80, 82),
        event("cudaLaunchKernel", cpu, 11, 12),
        event("cudaStreamSynchronize", cpu, 20, 85),
        event("cudaDeviceSynchronize", cpu, 101, 140),  # the benchmark's own
    ]
    largest = (("sm90_gemm", 2 / 3), ("elementwise", 1 / 3))
    assert device.summary(events) == device.Profile(kernels=3, busy=60e-6, waits=1, largest=largest)


def test_use_of_a_chip_is_that_of_its_peak(gpu, monkeypatch):
    monkeypatch.setattr(gpu.measuring, "device_name", lambda device: "NVIDIA H200")
    profile = gpu.measuring.Profile(kernels=7, busy=0.5, waits=2)
    case = gpu.Case("mvit_b_16x4", compiled=True, batch=10)
    row = gpu.as_row(
        case,
        "torchvision",
        {"mvrec": [1.0, 1.0, 1.2], "torchvision": [2.0, 1.8, 2.4]},
        {"mvrec": 3.0, "torchvision": 4.0},
        {"mvrec": profile, "torchvision": profile},
        macs=round(989.4e12 / 120),
        device="cuda",
        note="",
    )
    assert (row.mvrec, row.other, row.ratio, row.low, row.high, row.goal) == (10.0, 5.0, 2.0, 1.8, 2.0, 1.5)
    assert (row.more["MFU"], row.more["peer's MFU"], row.more["busy"]) == ("50.0%", "25.0%", "50%")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.verdicts([row])[1:] == [
        "goal: MFU of MViT-B in training: 50.0%, 25% reached",
        "goal: waits per step: 2 at most, 0 missed",
    ]


def test_a_row_that_fails_is_one_line_and_costs_no_other(gpu, run, monkeypatch, tmp_path):
    def failing(error):
        def work(*args, **kwargs):
            raise error

        return work

    monkeypatch.setattr(gpu, "cases", lambda: [])
    good = [("good", 1, lambda: gpu.Row("good", "step", mvrec=1.0)), ("late", 10_000, failing(AssertionError()))]
    errors = {"large": torch.OutOfMemoryError("x"), "wrong": ValueError("two\nlines"), "cut": gpu.BudgetSpent()}
    bad = [(name, 1, failing(error)) for name, error in errors.items()]
    monkeypatch.setattr(gpu, "jobs", lambda device, *, dry: [*bad, *good])
    rows, printed = run("--budget", "480")
    assert list(rows) == ["good, step"]
    *others, late = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert others == [
        "left out: large: out of memory",
        "left out: wrong: ValueError: two lines",
        "left out: cut: the budget was spent",
    ]
    assert late.endswith(" s of the budget were left")
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [f"left out: {line}" for line in content["left_out"]] == [*others, late]


def test_rows_of_an_earlier_run_are_kept(gpu, run, monkeypatch, tmp_path):
    first = gpu.Row("a", "step, eager", mvrec=1.0)
    monkeypatch.setattr(gpu, "jobs", lambda device, *, dry: [("a, step", 1, lambda: first)])
    run()
    (tmp_path / "gpu.json").rename(tmp_path / "earlier.json")
    second = gpu.Row("b", "step", mvrec=2.0)
    both = [("a, step", 1, lambda: pytest.fail("measured again")), ("b", 1, lambda: second)]
    monkeypatch.setattr(gpu, "jobs", lambda device, *, dry: both)
    rows, _ = run("--keep", str(tmp_path / "earlier.json"))
    assert list(rows) == ["a, step, eager", "b, step"]
