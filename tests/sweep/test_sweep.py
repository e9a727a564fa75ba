import json
import os
import re
import signal
import sys
import threading
import time

import pytest

from mvrec.cli.main import main
from mvrec.data.generated.digit_images import generate_digit_images
from mvrec.errors import UserError
from mvrec.sweep.children import Children
from mvrec.sweep.finished import begin
from mvrec.sweep.values import read_lines

RECIPE = "demo_images_shunted"
GOOD, BAD = "--model.optimizer.lr 1e-3", "--model.optimizer.lrr 1e-3"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The start of a command of a sweep over a few images, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    generate_digit_images(tmp_path / "digits", images_per_class={"train": 2, "val": 1, "test": 1}, size=32)
    few = ["--data", "mvrec.data.ImageFolder", "--data.root", "digits", "--data.num_workers", "0"]
    few += ["--trainer.max_epochs", "1", "--data.size", "32"]
    return lambda values, *flags: main(["sweep", RECIPE, values, *few, *flags])


def test_each_line_is_trained_once_and_a_failed_one_does_not_end_the_others(tmp_path, capsys, command):
    (tmp_path / "values.txt").write_text(f"{BAD}\n# these are tried\n\n{GOOD}\n")
    with pytest.raises(SystemExit, match="1"):
        command("values.txt", "--jobs", "2")
    out = capsys.readouterr().out
    assert "runs/values/lrr=1e-3: --model.optimizer.lrr: unknown key 'model.optimizer.lrr'; did you mean 'lr'?" in out
    assert list(json.loads((tmp_path / "runs/values/sweep.json").read_text())["runs"]) == ["lr=1e-3"]
    finished = (tmp_path / "runs/values/lr=1e-3/checkpoints/last.ckpt").stat().st_mtime_ns
    (tmp_path / "values.txt").write_text(f"{GOOD}\n")
    command("values.txt")
    assert "1 run finished earlier" in capsys.readouterr().out
    assert (tmp_path / "runs/values/lr=1e-3/checkpoints/last.ckpt").stat().st_mtime_ns == finished


def test_a_search_tries_values_of_its_ranges_and_goes_on(tmp_path, capsys, command):
    ranges = "model.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\ndata.batch_size: {choices: [4, 8]}\n"
    (tmp_path / "ranges.yaml").write_text(ranges)
    command("ranges.yaml", "--search", "optuna", "--trials", "1")
    capsys.readouterr()
    command("ranges.yaml", "--search", "optuna", "--trials", "2")
    out = capsys.readouterr().out
    assert "1 trial finished earlier" in out
    runs = json.loads((tmp_path / "runs/ranges/sweep.json").read_text())["runs"]
    assert len(runs) == 2
    for flags in (run["flags"] for run in runs.values()):
        values = dict(zip(flags[::2], flags[1::2], strict=True))
        assert 1e-4 <= float(values["--model.optimizer.lr"]) <= 1e-2
        assert values["--data.batch_size"] in ("4", "8")
    assert all(name in out for name in runs)


# A run of six validations, with scores that its learning rate sets. One that waits goes on to half of the
# validations that are left, and to its end on request.
TRAINING = """
import json, math, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
folder, is_bad = pathlib.Path(sys.argv[1]), float(sys.argv[2]) > 0.01
path = folder / "metrics.csv"
begun = path.read_text() if path.is_file() else "step,val/top1\\n"
(folder / "environment.json").write_text(json.dumps({"task": "classification"}))
waits = sys.argv[3] == "waits" or sys.argv[3] == "bad waits" and is_bad
left = 7 - begun.count("\\n")
for step in range(left // 2 if waits else left):
    begun += f"{10 * step},{0.1 if is_bad else 0.5 + 0.05 * step}\\n"
path.write_text(begun)
time.sleep(60 if waits else 0)
"""


@pytest.fixture
def trained_by(monkeypatch):
    """Let sweeps run this script in place of `mvrec fit`."""

    def replace(way):
        monkeypatch.setattr(
            Children,
            "command",
            lambda self, trial: [sys.executable, "-c", TRAINING, str(trial.folder), trial.flags[1], way],
        )

    return replace


def interrupt_at(rows, folder):
    """Press Ctrl-C once two runs in a folder have so many lines of metrics; never press it later, in another test."""

    def wait():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if [path.read_text().count("\n") for path in folder.glob("*/metrics.csv")].count(rows) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                break
            time.sleep(0.02)

    threading.Thread(target=wait).start()


def search(tmp_path, trials, *flags, rates="{choices: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 0.5]}", config=RECIPE):
    (tmp_path / "rates.yaml").write_text(f"model.optimizer.lr: {rates}\n")
    main(["sweep", config, "rates.yaml", "--search", "optuna", "--trials", str(trials), *flags])


def test_a_run_that_falls_behind_is_pruned_and_marked_and_equal_values_are_tried_once(
    tmp_path, monkeypatch, capsys, trained_by
):
    monkeypatch.chdir(tmp_path)
    trained_by("bad waits")
    search(tmp_path, 18)
    runs = json.loads((tmp_path / "runs/rates/sweep.json").read_text())["runs"]
    assert runs["lr=0.5"]["is_pruned"]
    assert [name for name, run in runs.items() if run["is_pruned"]] == ["lr=0.5"]
    lines = (tmp_path / "runs/rates/lr=0.5/metrics.csv").read_text().splitlines()
    assert len(lines) < 7
    out = capsys.readouterr().out
    assert out.count("lr=0.5 begins") == 1
    assert f"lr=0.5 pruned after {len(lines) - 1} validation" in out
    assert "was tried before" in out
    assert "the best validation of all trials, 0.7500, has --model.optimizer.lr" in out
    assert re.search(r"lr=0.5 \(pruned\) +10.00 %", out)


def test_an_interrupted_search_goes_on_in_the_same_folders(tmp_path, monkeypatch, capsys, trained_by):
    monkeypatch.chdir(tmp_path)
    folder, rates = tmp_path / "runs/rates", "{low: 1e-3, high: 9e-3}"  # of choices two trials may have the same
    trained_by("waits")
    for rows in (4, 5):
        interrupt_at(rows, folder)
        with pytest.raises(SystemExit, match="130"):
            search(tmp_path, 2, "--jobs", "2", rates=rates)
    assert "interrupted; the same command goes on" in capsys.readouterr().out
    begun = {path.parent.name for path in folder.glob("*/metrics.csv")}
    assert len(begun) == 2
    trained_by("")
    search(tmp_path, 2, rates=rates)
    assert json.loads((folder / "sweep.json").read_text())["runs"].keys() == begun
    assert [path.read_text().count("\n") for path in folder.glob("*/metrics.csv")] == [7, 7]


def test_a_search_of_a_key_that_does_not_exist_ends_with_its_first_run(tmp_path, capsys, command):
    (tmp_path / "ranges.yaml").write_text("model.optimizer.lrr: {low: 1e-4, high: 1e-2}\n")
    with pytest.raises(SystemExit, match="1"):
        command("ranges.yaml", "--search", "optuna")
    captured = capsys.readouterr()
    assert captured.out.count(" begins\n") == 1
    assert captured.out.count("unknown key 'model.optimizer.lrr'; did you mean 'lr'?") == 2  # at once, and at the end
    assert captured.err == ""


def test_flags_can_be_corrected_until_a_run_has_trained(tmp_path):
    begin(tmp_path, RECIPE, ["--data.rot", "digits"])
    begin(tmp_path, RECIPE, ["--data.root", "digits"])
    (tmp_path / "lr=1/checkpoints").mkdir(parents=True)
    (tmp_path / "lr=1/checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match=r"other flags, --data\.root digits"):
        begin(tmp_path, RECIPE, ["--data.root", "others"])


def test_another_sweep_in_a_folder_is_refused(tmp_path, monkeypatch, capsys, trained_by):
    monkeypatch.chdir(tmp_path)
    trained_by("")
    (tmp_path / "mine.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "over.yaml").write_text("seed_everything: 2\n")
    search(tmp_path, 1, "--config", "over.yaml", config="mine.yaml")

    def fault(*flags, config="mine.yaml"):
        with pytest.raises(SystemExit):
            search(tmp_path, 1, *flags, config=config)
        return capsys.readouterr().err

    assert "runs/rates holds a sweep with other flags, --config over.yaml" in fault()
    assert "runs/rates holds a sweep with another configuration, mine.yaml" in fault(
        "--config=over.yaml", config="over"
    )
    assert "config file 'mime.yaml' does not exist; did you mean 'mine.yaml'?" in fault(config="mime.yaml")
    assert "config file 'none.yaml' does not exist" in fault("--run_dir", "new", "--config=none.yaml")
    assert not (tmp_path / "new").exists()
    assert "rates.yaml: cannot be the directory of a run (File exists)" in fault("--run_dir", "rates.yaml")
    (tmp_path / "over.yaml").write_text("seed_everything: 3\n")
    assert "another configuration, an earlier version of mine.yaml or of over.yaml" in fault("--config", "over.yaml")
    (tmp_path / "over.yaml").write_text("seed_everything: 2\n")
    (tmp_path / "rates.yaml").write_text("model.optimizer.lr: {choices: [1e-3]}\n")
    with pytest.raises(SystemExit):
        main(["sweep", "mine.yaml", "rates.yaml", "--search", "optuna", "--trials", "9", "--config", "over.yaml"])
    assert "runs/rates holds a search with other choices of model.optimizer.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "search", "fault"),
    [
        ("--a 'b", (), 'values:1: "--a \'b": No closing quotation'),
        ("lr 1e-3", (), "values:1: 'lr' is no flag"),
        ("--a 1\n--a  1", (), "values:2 has the flags of line 1"),
        ("# none", (), "values has no line of flags"),
        ("lr: 3", ("--search", "optuna"), "values: lr: give {low, high}"),
        ("lr: {low: 2, high: 1}", ("--search", "optuna"), "values: lr: low is 2 and high 1"),
        ("lr: {low: 0, high: 1, log: true}", ("--search", "optuna"), "with log it is above 0"),
        ("lr: {low: a, high: 1}", ("--search", "optuna"), "low and high are numbers"),
        ("lr: {choices: 3}", ("--search", "optuna"), "choices is a list of values, not 3"),
    ],
)
def test_a_damaged_file_of_values_is_named_before_anything_runs(tmp_path, monkeypatch, capsys, text, search, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "values").write_text(text)
    with pytest.raises(SystemExit):
        main(["sweep", RECIPE, "values", *search])
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_folders_of_long_or_odd_flags_differ(tmp_path):
    values = tmp_path / "values"
    values.write_text(
        f"--data.root 'a/b {'x' * 90}1'\n--data.root 'a/b {'x' * 90}2'\n--data.root a_b\n--data.root a/b\n"
    )
    names = {trial.name for trial in read_lines(values, tmp_path)}
    assert len(names) == 4
    assert not any("/" in name or len(name) > 90 for name in names)
