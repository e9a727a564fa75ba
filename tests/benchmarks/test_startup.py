"""The benchmark of starting: its arithmetic, what it counts of a process, and that nothing fails unseen."""

import json
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def startup(script):
    return script("startup")


def test_goals_are_for_medians_and_that_of_fit_leaves_imports_out(startup):
    for runs, goal, verdict in (
        ([1.0, 9.0, 1.5], 2.0, "reached"),
        ([1.0, 2.5, 3.0], 2.0, "missed"),
        ([2.0], 2.0, "missed"),
        ([9.0], None, ""),
    ):
        assert startup.Row("a", runs, goal).verdict == verdict, runs
    rows = startup.fit_rows([startup.Fit(20.0, 9.0, 1.0), startup.Fit(23.0, 10.0, 2.0), startup.Fit(22.0, 11.0, 3.0)])
    assert [(row.seconds, row.goal) for row in rows] == [(22, None), (10, None), (11, startup.FIT_GOAL), (2, None)]


def test_time_of_a_process_is_that_of_the_user_and_the_system_and_a_failure_says_why(startup, monkeypatch):
    usages = iter([SimpleNamespace(ru_utime=1.0, ru_stime=2.0), SimpleNamespace(ru_utime=4.0, ru_stime=2.5)])
    usage_of = {startup.resource.RUSAGE_CHILDREN: usages}  # with theirs
    with monkeypatch.context() as patch:
        patch.setattr(startup.resource, "getrusage", lambda whose: next(usage_of[whose]))
        assert startup.python("print('done')") == (3.5, "done\n")
    with pytest.raises(RuntimeError, match=r"failed: .*no such thing"):
        startup.python("raise SystemExit('no such thing')")


def test_a_run_prints_and_writes_its_rows_without_the_first_fit(startup, monkeypatch, capsys, tmp_path):
    fits = iter([startup.Fit(99.0, 1.0, 0.0), *[startup.Fit(20.0, 9.0, 1.0)] * 3])
    monkeypatch.setattr(startup, "run", lambda words, **_: (0.2, ""))
    monkeypatch.setattr(startup, "measure_fit", lambda data, folder: next(fits))
    monkeypatch.setattr(startup, "measure_builds", lambda repeats: [startup.Row("build a", [1.0] * repeats, 2.0)])
    startup.main(["--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "missed: mvrec --help"
    assert "| of these, beyond imports | 11.00 | 11.00 to 11.00 |  | 12 | reached |" in printed
    content = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["subject"].partition(" of ")[0]: (row["mvrec"], row.get("goal")) for row in content["rows"]}
    expected = {
        "mvrec --help": (0.2, 0.15),
        "mvrec report": (0.2, 3.0),
        "build a": (1.0, 2.0),
        "import torch": (0.2, None),
    }
    assert rows.items() >= expected.items()
    assert all(f"| {row['subject']} |" in printed for row in content["rows"])
    assert {"torch", "torchvision"} <= set(content["versions"])
