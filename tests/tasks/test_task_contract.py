"""The contract of tasks, held by one in a folder that mvrec does not know.

Tasks of mvrec do the same from files of their own (`classification/`, `test_regression.py`): what is proved here is
that a task needs nothing but its folder, and lists with numbers would not prove it again.
"""

import csv
import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvrec import class_paths
from mvrec.cli.lightning import run
from mvrec.errors import UserError

ORDINAL = Path(__file__).parent / "ordinal"
MVREC = Path(__file__).parents[2] / "mvrec"
sys.path.append(str(ORDINAL))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Videos of three grades."""
    root = tmp_path_factory.mktemp("graded")
    for split, count in {"train": 4, "val": 2, "test": 3}.items():
        for number in range(3 * count):
            path = root / split / str(number % 3) / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_grey(path, grey=60 + 60 * (number % 3), num_frames=5 + number)
    return root


def write_grey(path: Path, *, grey: int, num_frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 40, "yuv420p"
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 40, 3), grey, np.uint8), "rgb24")))
        container.mux(stream.encode())


def train(videos, folder, *flags):
    config = ORDINAL / "grading.yaml"
    return run(["fit", f"--config={config}", f"--data.root={videos}", f"--run_dir={folder}", *flags])


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory, no_pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "graded"
    train(videos, folder)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_it_trains_under_its_own_scores(trained):
    rows = read(trained / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    errors = [float(row["val/mean_error"]) for row in rows if row["val/mean_error"]]
    assert losses[-1] < losses[0]
    best = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    assert (best["mvrec"]["task"], best["mvrec"]["num_grades"]) == ("grading", 3)
    assert best["global_step"] == 3 * (1 + errors.index(min(errors)))  # the lowest error is the best


def test_its_configuration_starts_the_same_run_which_resumes_exactly(trained, tmp_path):
    for flag in ("--trainer.max_steps=4", "--resume=auto"):
        run(["fit", f"--config={trained / 'config.yaml'}", f"--run_dir={tmp_path}", flag])
    whole, resumed = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (trained, tmp_path)
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(["test", str(trained), f"--run_dir={folder}"])
    return folder


def test_it_recognises_as_it_was_tested_also_from_an_export(command, trained, tested, videos, tmp_path, monkeypatch):
    weights, trusted = tmp_path / "graded.safetensors", ("--trust", "grades")
    code, _, err = command("export", trained, "--output", weights, *trusted)
    assert code == 0, err
    measured = {row["path"]: float(row["grade"]) for row in read(tested / "predictions.csv")}
    assert len(measured) == json.loads((tested / "metrics.json").read_text())["scored"] == 9
    for file in (trained, weights):
        code, _, err = command("recognize", "--ckpt", file, videos / "test", *trusted, "-o", tmp_path / "r.csv")
        assert code == 0, err
        recognised = {row["path"]: float(row["grade"]) for row in read(tmp_path / "r.csv")}
        assert recognised == pytest.approx(measured, abs=1e-5)
    monkeypatch.setattr(class_paths, "_named", set())  # which the flags above have added to
    code, _, err = command("recognize", "--ckpt", weights, videos / "test")
    assert (code, "add --trust grades" in err) == (2, True)


def test_its_report_has_its_section(command, tested):
    code, _, err = command("report", tested, "--trust", "grades")
    assert code == 0, err
    page = (tested / "report.html").read_text()
    assert '<h2 id="grades">Grades</h2>' in page
    assert "mean error" in page
    assert "Confusions" not in page


def test_commands_for_another_task_name_both(command, trained, videos, tmp_path):
    for arguments in (
        ["explain", next(videos.glob("test/0/*")), "--ckpt", trained, "-o", tmp_path / "x.png", "--trust", "grades"],
        ["test", trained, "--model=Classification"],
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert "grading" in err.splitlines()[-1]
        assert "classification" in err.splitlines()[-1]


def test_data_without_its_targets_are_refused_and_no_file_of_mvrec_knows_it(videos, tmp_path):
    with pytest.raises(UserError, match="VideoFolder gives one class per file, the task grading needs a grade"):
        train(videos, tmp_path, "--data=mvrec.data.VideoFolder")
    assert not [path for path in MVREC.rglob("*.py") if "grading" in path.read_text().lower()]
