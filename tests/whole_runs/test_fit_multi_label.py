"""Whole runs through the command line on files that have several classes, or none."""

import contextlib
import csv
import io
import re
from pathlib import Path

import pytest
import torch
from run_support import kinetics, logged, read_csv, stored

from mvrec.tasks import Classification


@pytest.fixture(scope="module")
def several(digits, tmp_path_factory) -> Path:
    """Lists of moving digits by the words of their motions, as in `orbit;clockwise`; the grown ones have none.

    One file of the test split is no video.
    """
    root = tmp_path_factory.mktemp("several")
    bad = root / "bad.mp4"
    bad.write_bytes(b"no video")
    for split in ("train", "val", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "labels"])
            for path in sorted((digits / split).rglob("*.mp4")):
                words = path.parent.name.split("_")
                is_bad = split == "test" and words == ["move", "left"] and path.stem == "00000"
                writer.writerow([bad if is_bad else path, "" if words == ["grow"] else ";".join(words)])
    return root


@pytest.fixture(scope="module")
def trained(several, tiny, tmp_path_factory) -> tuple[Path, str]:
    """A run of three epochs with mixing, smoothing and several views, and what it printed."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--trainer.max_epochs=3", "--model.optimizer.init_args.lr=0.02", "--model.label_smoothing=0.1"]
    flags += ["--model.mixing={}", "--data.repeats=2", "--data.val_views.num_clips=2", f"--run_dir={run_dir}"]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["fit", *kinetics(tiny, several), *flags])
    return run_dir, err.getvalue()


def test_training_lowers_the_loss_and_keeps_the_best_map(trained):
    run_dir, err = trained
    losses = [float(loss) for _, loss in logged(run_dir, "train/loss")]
    assert len(losses) == 12
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    maps = [float(value) for _, value in logged(run_dir, "val/map")]
    assert len(maps) == 3
    assert 0 < max(maps) <= 1
    best = stored(run_dir, "best")
    state = next(value for name, value in best["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/map"
    assert float(state["best_model_score"]) == pytest.approx(max(maps))
    score = r"val: map \d+\.\d\d % \(chance 19\.17 %\), micro_f1 \d+\.\d\d % .*, loss 0\.\d{4} \(chance 0\.4584\) "
    counts = r"\(24/24 videos scored, 0 failed, map of 10/10 classes; .*2 clips x 1 crops.*mean of sigmoid\)"
    assert re.search(score + counts, err)


def test_the_checkpoint_remembers_that_files_have_several_classes(trained):
    checkpoint = stored(trained[0])["mvrec"]
    assert checkpoint["multi_label"] is True
    assert checkpoint["protocol"]["aggregation"] == "mean of sigmoid"
    assert "clockwise" in checkpoint["class_names"]
    task = Classification.load_from_checkpoint(trained[0] / "checkpoints/last.ckpt")
    assert task(torch.zeros(1, 3, 4, 64, 64)).shape == (1, len(checkpoint["class_names"]))


def test_test_predict_and_recognize_write_the_same_and_a_file_that_failed_counts_as_missed(
    command, trained, several, tmp_path
):
    for verb in ("test", "predict"):
        code, _, err = command(verb, f"--ckpt_path={trained[0] / 'checkpoints/best.ckpt'}", f"--run_dir={tmp_path}")
        assert code == 0, err
        assert "23/24 videos scored, 1 failed" in err
        assert ("mvrec: test: map " in err) == (verb == "test")
    bad = str(several / "bad.mp4")
    assert f"failed, counted as wrong: {bad}" in err
    rows, listed = read_csv(tmp_path / "predictions.csv"), read_csv(several / "test.csv")
    actual, expected = ({row["path"]: set(row["labels"].split(";")) for row in table} for table in (rows, listed))
    assert actual == expected
    assert len(rows) == 24
    assert [row["path"] for row in rows if row["error"]] == [bad]
    assert sum(row["labels"] == "" for row in rows) == 2
    assert read_csv(tmp_path / "predicted.csv") == rows
    scored = {row["path"]: row for row in rows if not row["error"]}
    for row in scored.values():
        assert float(row["probability_1"]) >= float(row["probability_2"]) > 0
        ranked = [row[f"class_{rank}"] for rank in range(1, 6) if float(row[f"probability_{rank}"]) > 0.5]
        assert row["predicted"].split(";")[:5] == (ranked or [""])
    code, out, err = command("recognize", several / "test.csv", "--ckpt", trained[0], "--format=csv")
    recognised = {row["path"]: row for row in csv.DictReader(io.StringIO(out)) if row["path"] in scored}
    assert recognised.keys() == scored.keys(), err
    sums = []
    for path, row in recognised.items():
        actual, expected = (
            [(entry[f"class_{rank}"], float(entry[f"probability_{rank}"])) for rank in range(1, 6)]
            for entry in (row, scored[path])
        )
        assert [name for name, _ in actual] == [name for name, _ in expected]
        assert [value for _, value in actual] == pytest.approx([value for _, value in expected], abs=1e-5)
        sums.append(sum(value for _, value in actual))
    assert any(abs(value - 1) > 0.2 for value in sums)  # each class for itself: sigmoids do not add up to 1


def test_a_checkpoint_of_files_with_several_classes_is_refused_for_files_with_one(command, trained, digits, tmp_path):
    code, _, err = command("test", trained[0], f"--data.root={digits}", f"--run_dir={tmp_path}")
    assert code == 2
    message = "trained on files with several classes each, the data are files with one class each"
    assert message in err.splitlines()[-1]
