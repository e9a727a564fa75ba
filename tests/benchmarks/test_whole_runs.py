"""Whole runs next to plain loops: the window of a measurement, the shares, and slow: that both sides run."""

import json

import pytest

# Of pytorchvideo, when Python compiles it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")


@pytest.fixture(scope="module")
def run(script):
    return script("run")


@pytest.fixture(scope="module")
def evaluation_run(script):
    return script("evaluation_run")


@pytest.fixture(scope="module")
def parts(script):
    return script("whole_runs.parts")


def test_only_the_steps_after_the_warm_up_count_and_memory_is_noted_after_each_tenth(parts, monkeypatch, tmp_path):
    clock = {"cpu": 0.0}
    monkeypatch.setattr(parts.Now, "read", lambda: parts.Now(clock["cpu"], 2 * clock["cpu"]))
    monkeypatch.setattr(parts, "cpu_of_session", lambda: 10 * clock["cpu"])

    def memory():
        clock["cpu"] += 100  # is not the run's
        return parts.Memory(2.0, 1.0)

    monkeypatch.setattr(parts, "memory_of_session", memory)
    measured = parts.Parts(tmp_path / "report.json", begun=0.0, inputs_per_step=3, warm_up=2, steps=20)
    work = measured.timed(lambda seconds: clock.update(cpu=clock["cpu"] + seconds), "forward")
    for number in range(22):
        clock["cpu"] += 1
        work(1000 if number < 2 else 4)
        measured.step_is_done()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["steps"], report["inputs"], report["cpu_of_main"], report["wall"]) == (20, 60, 100, 200)
    assert report["parts"] == {"forward": {"cpu": 80, "wall": 160}}
    assert len(report["memory"]) == 10


def test_around_is_what_neither_loader_nor_step_take(run):
    times = {"loader": (1, 20), "pixels": (2, 2), "forward": (30, 30), "backward": (50, 50), "optimiser": (7, 7)}
    report = {
        **{"inputs": 640, "steps": 20, "cpu": 160.0, "wall": 200.0, "cpu_of_main": 100.0},
        "parts": {name: {"cpu": cpu, "wall": wall} for name, (cpu, wall) in times.items()},
        **{"first_step": {"cpu": 3.0, "wall": 9.0}, "peak": {"rss": 900.0, "pss": 500.0}},
    }
    turn = run.Turn.of(report)
    assert (turn.per_cpu, turn.per_second, turn.step, turn.loader) == (4, 3.2, 89, 10)
    assert (turn.around, turn.around_ms) == (10, 500)
    half = turn._replace(per_cpu=2.0, pss=250.0, first_step=6.0)
    rows = {row.measure: row for row in run.rows_of(run.RUNS[0], {"mvrec": [turn], "plain": [half]})}
    ratios = {"images per CPU second": 2, "peak memory, PSS": 0.5, "start to the end of the first step": 2}
    assert {measure: rows[measure].ratio for measure in ratios} == ratios


def test_reading_is_what_the_network_does_not_take_and_its_share_is_that_of_the_larger_network(evaluation_run):
    def report(cpu):
        memory = [{"rss": 0.0, "pss": 100.0 + number} for number in range(10)]
        return {"inputs": 300, "steps": 10, "cpu": cpu, "parts": {"forward": {"cpu": 10.0}}, "memory": memory}

    rows = evaluation_run.rows_of({"mvrec": [report(20.0)], "plain": [report(80.0)]}, {"mvrec": 0.1, "plain": 0.2})
    assert [(row.mvrec, row.other) for row in rows] == [
        (15, 3.75), (1, 7), (109, 109), (pytest.approx(25), pytest.approx(100 * 7 / 13)), (4, 13),
    ]  # fmt: skip
    assert rows[0].ratio == 4


@pytest.mark.slow
def test_both_sides_train(run, monkeypatch, capsys, tmp_path):
    for name, value in {"QUICK_SECONDS": 0.5, "IMAGES": 80, "CLIPS": 40, "VIDEO_SECONDS": 3}.items():
        monkeypatch.setattr(run, name, value)
    run.main(["--quick", "--only", "small MViT", "--json", str(tmp_path / "run.json")])
    rows = json.loads((tmp_path / "run.json").read_text())["rows"]
    assert {row["subject"] for row in rows} == {"small MViT, 64 pixels", "small MViT, 8 frames of 64 pixels"}
    assert all(row["mvrec"] > 0 and row["other"] > 0 for row in rows)


@pytest.mark.slow
def test_both_sides_score(evaluation_run, monkeypatch, capsys, tmp_path):
    small = {"QUICK_VIDEOS": {"mvrec": 2, "plain": 1}, "SECONDS": 3, "CLIPS": 2, "BATCH": 3, "AHEAD": 1, "DISTINCT": 1}
    for name, value in small.items():
        monkeypatch.setattr(evaluation_run, name, value)
    monkeypatch.setattr(evaluation_run, "mvit_b_forward_seconds", lambda: {"mvrec": 1.0, "plain": 2.0})
    evaluation_run.main(["--quick", "--json", str(tmp_path / "evaluation.json")])
    rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
    assert all(row["mvrec"] > 0 and row["other"] > 0 for row in rows)
