import json

import pytest

from mvrec.cli.main import main
from mvrec.data.generated.digit_images import generate_digit_images
from mvrec.sweep.values import read_lines

GOOD, BAD = "--model.optimizer.lr 1e-3", "--model.optimizer.lrr 1e-3"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The start of a command of a sweep over a few images, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    generate_digit_images(tmp_path / "digits", images_per_class={"train": 2, "val": 1, "test": 1}, size=32)
    few = ["--data", "mvrec.data.ImageFolder", "--data.root", "digits", "--data.num_workers", "0"]
    few += ["--trainer.max_epochs", "1", "--data.size", "32"]
    return lambda values, *flags: main(["sweep", "demo_images_shunted", values, *few, *flags])


def test_each_line_is_trained_once_and_a_failed_one_does_not_end_the_others(tmp_path, capsys, command):
    (tmp_path / "values.txt").write_text(f"{BAD}\n# these are tried\n\n{GOOD}\n")
    with pytest.raises(SystemExit, match="1"):
        command("values.txt", "--jobs", "2")
    out = capsys.readouterr().out
    assert "runs/values/lrr=1e-3: --model.optimizer.lrr: unknown key 'model.optimizer.lrr'; did you mean 'lr'?" in out
    assert list(json.loads((tmp_path / "runs/values/sweep.json").read_text())) == ["lr=1e-3"]
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
    runs = json.loads((tmp_path / "runs/ranges/sweep.json").read_text())
    assert len(runs) == 2
    for flags in runs.values():
        values = dict(zip(flags[::2], flags[1::2], strict=True))
        assert 1e-4 <= float(values["--model.optimizer.lr"]) <= 1e-2
        assert values["--data.batch_size"] in ("4", "8")
    assert all(name in out for name in runs)


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
        main(["sweep", "demo_images_shunted", "values", *search])
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
