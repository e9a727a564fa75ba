"""The benchmark of starting: its arithmetic, what it counts in real processes, and that nothing fails unseen."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def startup():
    spec = importlib.util.spec_from_file_location("startup", ROOT / "benchmarks/startup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("runs", "goal", "verdict"),
    [([1.0, 9.0, 1.5], 2.0, "reached"), ([1.0, 2.5, 3.0], 2.0, "missed"), ([2.0], 2.0, "missed"), ([9.0], None, "")],
)
def test_goals_are_for_medians(startup, runs, goal, verdict):
    assert startup.Row("a", runs, goal).verdict == verdict


def test_imports_are_left_out_of_the_goal_of_fit(startup):
    fits = [startup.Fit(20.0, 9.0, 1.0), startup.Fit(23.0, 10.0, 2.0), startup.Fit(22.0, 11.0, 3.0)]
    rows = startup.fit_rows(fits)
    assert [row.seconds for row in rows] == [22, 10, 11, 2]
    assert [row.goal for row in rows] == [None, None, startup.FIT_GOAL, None]


def test_time_of_a_child_and_its_children_counts(startup):
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); print('done')"
    seconds, printed = startup.python(nested)
    assert printed == "done\n"
    assert seconds > 0.3
    idle, _ = startup.python("import time; time.sleep(0.3)")
    assert idle < seconds


def test_children_have_one_thread(startup):
    _, printed = startup.python("import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])")
    assert printed.split() == ["1", "1"]


def test_a_failure_says_why(startup):
    with pytest.raises(RuntimeError, match=r"failed: .*no such thing"):
        startup.python("raise SystemExit('no such thing')")


def test_imports_are_those_that_the_run_made(startup, tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    )
    (tmp_path / "not_to_be_imported.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def taken(*names):
        return float(startup.python(startup.IMPORTS, given=json.dumps(names))[1])

    assert taken("not_to_be_imported", "slow_to_import", "__main__") > 0.5


def test_builds_are_measured_as_often_as_wanted(startup):
    wanted = ["cloformer_xxs", "torchvision/mvit_v2_s"]
    found = json.loads(startup.python(startup.BUILDS, given=json.dumps([2, wanted]))[1])
    assert list(found) == wanted
    assert all(len(times) == 2 and min(times) > 0 for times in found.values())


def test_peers_stand_beside_their_network(startup):
    found = {"shunted_t": [1.0, 3.0, 2.0], "mvit_v2_s_16x4": [1.0], "torchvision/mvit_v2_s": [0.5, 0.25, 4.0]}
    first, second = startup.build_rows(found)
    assert (first.what, first.seconds, first.peer) == ("build shunted_t", 2, "")
    assert (second.goal, second.peer) == (startup.BUILD_GOAL, "torchvision/mvit_v2_s 0.50")


def test_every_peer_belongs_to_a_network_of_the_zoo(startup):
    from mvrec.published import list_models

    assert set(startup.PEERS) <= set(list_models())


def test_fit_is_measured_up_to_its_first_step(startup, digits, tmp_path, monkeypatch):
    def flags(data, folder):
        small = {"data.clips_per_class": 3, "data.eval_clips_per_class": 2, "data.num_workers": 1}
        return [*plain(data, folder), *(f"--{name}={value}" for name, value in small.items())]

    plain = startup.fit_flags
    monkeypatch.setattr(startup, "fit_flags", flags)
    found = startup.measure_fit(digits, tmp_path / "run")
    report = json.loads((tmp_path / "run.json").read_text())
    assert found.total == report["total"] > 0
    assert found.imports > 0  # by another process, whose clock may run slower: which is more is for nobody to say
    assert {"mvrec.cli.lightning", "mvrec.data.generated.moving_digits", "lightning.pytorch"} <= set(report["modules"])
    if Path("/proc").is_dir():
        assert found.loaders > 0
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()  # it was a whole run


def test_a_run_as_a_whole(startup, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        startup, "measure_commands", lambda repeats: [startup.Row("mvrec --help", [0.2] * repeats, 0.15)]
    )
    monkeypatch.setattr(startup, "make_data", lambda root: None)
    fits = iter([startup.Fit(99.0, 1.0, 0.0), *[startup.Fit(20.0, 9.0, 1.0)] * 3])
    monkeypatch.setattr(startup, "measure_fit", lambda data, folder: next(fits))
    monkeypatch.setattr(startup, "measure_builds", lambda repeats: [startup.Row("build a", [1.0] * repeats, 2.0)])
    path = tmp_path / "figures.json"
    startup.main(["--json", str(path)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "missed: mvrec --help"
    assert "| of these, beyond imports | 11.00 | 11.00 to 11.00 |  | 12 | reached |" in printed  # not the first run
    figures = json.loads(path.read_text())
    assert [row["verdict"] for row in figures["rows"]] == ["missed", "", "", "reached", "", "reached"]
    assert [len(row["runs"]) for row in figures["rows"]] == [5, 3, 3, 3, 3, 3]
    assert re.search(r"torch \d.*torchvision \d", figures["machine"])


def test_commands_are_measured(startup, monkeypatch):
    called = []
    monkeypatch.setattr(startup, "run", lambda words: (called.append(words), (0.5, ""))[1])
    rows = startup.measure_commands(2)
    assert [row.what for row in rows] == [
        "mvrec --help",
        "mvrec models",
        "mvrec fit --help",
        "import torch",
        "import lightning",
    ]
    assert len(called) == 3 * len(rows)  # one more, to fill the file cache
    assert rows[0].goal == startup.HELP_GOAL
    assert called[0][1:] == ["--help"]
    assert Path(called[0][0]).parent == Path(sys.executable).parent
