"""The benchmark of starting: its arithmetic, what it counts in real processes, and that nothing fails unseen."""

import json
import re

import pytest


@pytest.fixture(scope="module")
def startup(script):
    return script("startup")


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


def test_a_failure_says_why(startup):
    with pytest.raises(RuntimeError, match=r"failed: .*no such thing"):
        startup.python("raise SystemExit('no such thing')")


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
