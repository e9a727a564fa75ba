"""Whole runs through the command line on files that have several classes, or none."""

import contextlib
import csv
import io
import re
from pathlib import Path

import pytest
import torch
from test_fit import kinetics, read_csv  # the same small runs

from mvrec.tasks import Classification

KNOBS = ["--model.label_smoothing=0"]


@pytest.fixture(scope="module")
def several(digits, tmp_path_factory) -> Path:
    """Lists of moving digits by the words of their motions, as in `orbit;clockwise`; the grown ones have none."""
    root = tmp_path_factory.mktemp("several")
    for split in ("train", "val", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "labels"])
            for path in sorted((digits / split).rglob("*.mp4")):
                words = path.parent.name.split("_")
                writer.writerow([path, "" if words == ["grow"] else ";".join(words)])
    return root


@pytest.fixture(scope="module")
def trained(several, tiny, tmp_path_factory) -> tuple[Path, str]:
    """A run of three epochs, and what it printed."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    longer = ["--trainer.max_epochs=3", "--model.optimizer.init_args.lr=0.02"]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["fit", *kinetics(tiny, several), *KNOBS, f"--run_dir={run_dir}", *longer])
    return run_dir, err.getvalue()


def test_training_lowers_the_loss_and_keeps_the_best_map(trained):
    run_dir, err = trained
    rows = read_csv(run_dir / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 12
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    maps = [float(row["val/map"]) for row in rows if row["val/map"]]
    assert len(maps) == 3
    assert 0 < max(maps) <= 1
    best = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)
    state = next(value for name, value in best["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/map"
    assert float(state["best_model_score"]) == pytest.approx(max(maps))
    score = r"val: map \d+\.\d\d %, micro_f1 \d+\.\d\d %, loss 0\.\d{4} "
    assert re.search(score + r"\(24/24 videos scored, 0 failed, map of 10/10 classes; .*mean of sigmoid\)", err)


def test_the_checkpoint_remembers(trained):
    run_dir, _ = trained
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["mvrec"]
    assert checkpoint["multi_label"] is True
    assert checkpoint["protocol"]["aggregation"] == "mean of sigmoid"
    assert "clockwise" in checkpoint["class_names"]
    task = Classification.load_from_checkpoint(run_dir / "checkpoints/last.ckpt")
    logits = task(torch.zeros(1, 3, 4, 64, 64))
    assert logits.shape == (1, len(checkpoint["class_names"]))


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory) -> tuple[Path, str]:
    """A folder with the files of `mvrec test` and `predict`, and what they printed."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("tested")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        for verb in ("test", "predict"):
            main([verb, f"--ckpt_path={trained[0] / 'checkpoints/best.ckpt'}", f"--run_dir={folder}"])
    return folder, err.getvalue()


def test_test_and_predict_write_what_is_scored(tested, several):
    folder, err = tested
    rows, listed = read_csv(folder / "predictions.csv"), read_csv(several / "test.csv")
    assert [row["path"] for row in rows] == [row["path"] for row in listed]
    assert [set(row["labels"].split(";")) for row in rows] == [set(row["labels"].split(";")) for row in listed]
    assert sum(row["labels"] == "" for row in rows) == 2
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) > 0 for row in rows)
    for row in rows:
        ranked = [row[f"class_{rank}"] for rank in range(1, 6) if float(row[f"probability_{rank}"]) > 0.5]
        assert row["predicted"].split(";")[:5] == (ranked or [""])
    assert "mvrec: test: map " in err
    assert read_csv(folder / "predicted.csv") == rows


def test_a_file_that_failed_counts_as_missed(command, trained, several, tmp_path):
    listed = (several / "test.csv").read_text().splitlines()
    number = next(number for number, line in enumerate(listed) if line.endswith(";left"))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    listed[number] = f"{tmp_path / 'bad.mp4'},{listed[number].rpartition(',')[2]}"
    (tmp_path / "test.csv").write_text("\n".join(listed))
    (tmp_path / "train.csv").write_text((several / "train.csv").read_text())
    arguments = [f"--ckpt_path={trained[0] / 'checkpoints/last.ckpt'}", f"--data.root={tmp_path}"]
    code, _, err = command("test", *arguments, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "23/24 videos scored, 1 failed" in err
    assert f"failed, counted as wrong: {tmp_path / 'bad.mp4'}" in err
    (row,) = (row for row in read_csv(tmp_path / "predictions.csv") if row["error"])
    assert "left" in row["labels"].split(";")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("label", "trained on files with several classes each, the data are files with one class each"),
        ("labels", r"the checkpoint knows \d+ classes, the data have 2"),
    ],
)
def test_a_checkpoint_is_compared_with_the_data(command, trained, digits, tmp_path, column, message):
    path = next((digits / "test").rglob("*.mp4"))
    (tmp_path / "test.csv").write_text(f"path,{column}\n{path},clockwise\n/none.mp4,left\n")
    arguments = [f"--ckpt_path={trained[0] / 'checkpoints/last.ckpt'}", f"--data.root={tmp_path}"]
    code, _, err = command("test", *arguments, f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    assert re.search(message, err.splitlines()[-1])


def test_mixing_smoothing_and_views_go_with_several_classes(command, several, tiny, tmp_path):
    more = ["--model.mixing={}", "--model.label_smoothing=0.1", "--data.repeats=2", "--data.val_views.num_clips=2"]
    more += ["--trainer.limit_train_batches=1"]
    code, _, err = command("fit", *kinetics(tiny, several), *KNOBS[:1], *more, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "24/24 videos scored" in err
    assert "2 clips x 1 crops" in err


def test_one_bad_label_is_one_line(command, several, tiny, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text((several / f"{split}.csv").read_text())
    with (tmp_path / "val.csv").open("a") as file:
        file.write("x.mp4,orbit;clockwize\n")
    code, _, err = command("fit", *kinetics(tiny, tmp_path), *KNOBS, f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    last = err.splitlines()[-1]
    assert re.fullmatch(
        rf"mvrec: error: {tmp_path}/val\.csv:26: 'clockwize' is not one of the \d+ classes; did you mean 'clockwise'\?",
        last,
    )


def test_recognised_files_get_the_probabilities_of_the_predictions(command, trained, tested, several):
    rows = {row["path"]: row for row in read_csv(tested[0] / "predicted.csv")}
    code, out, err = command("recognize", several / "test.csv", "--ckpt", trained[0], "--format=csv")
    assert code == 0, err
    recognised = list(csv.DictReader(io.StringIO(out)))
    assert {row["path"] for row in recognised} == rows.keys()
    for row in recognised:
        for rank in range(1, 6):
            name, value = row[f"class_{rank}"], float(row[f"probability_{rank}"])
            assert name == rows[row["path"]][f"class_{rank}"]
            assert value == pytest.approx(float(rows[row["path"]][f"probability_{rank}"]), abs=1e-5)
    # Each class for itself: sigmoids do not add up to 1.
    assert any(abs(sum(float(row[f"probability_{rank}"]) for rank in range(1, 6)) - 1) > 0.2 for row in recognised)
