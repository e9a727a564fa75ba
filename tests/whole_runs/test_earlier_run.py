"""A run of an earlier state of this package is resumed, scored, recognised with and exported as it was then.

`golden/earlier_run` was trained for 12 epochs of 4 steps on the data of the fixture `digits`.
"""

import json
import shutil
from pathlib import Path

import pytest
from run_support import logged, read_csv

EARLIER = Path(__file__).parents[1] / "golden/earlier_run"
CHECKPOINT = EARLIER / "checkpoints/last.ckpt"
NEXT_LOSSES = [2.4686813, 2.2014146, 2.5390997, 2.2981927]  # of the four steps after the checkpoint, recorded then
TEST = {"top1": 0.125, "top5": 0.5, "mean_class": 0.125, "loss": 2.4030316}
GROWS = [("orbit_counterclockwise", 0.156364), ("orbit_clockwise", 0.139085), ("move_left", 0.118815)]


def test_it_goes_on_with_the_same_losses(command, digits, tmp_path, reads):
    run = tmp_path / "run"
    shutil.copytree(EARLIER, run)
    flags = [f"--config={run / 'config.yaml'}", f"--run_dir={run}", "--resume=auto", f"--data.root={digits}"]
    code, _, err = command("fit", *flags, "--trainer.max_epochs=13")
    assert code == 0, err
    assert reads[run / "checkpoints/last.ckpt"] == 1
    losses, before = ([float(loss) for _, loss in logged(folder, "train/loss")] for folder in (run, EARLIER))
    assert losses[:48] == before
    assert losses[48:] == pytest.approx(NEXT_LOSSES, abs=1e-4)


def test_its_scores_and_predictions_are_those_of_then_also_of_its_export(command, digits, tmp_path, reads):
    code, _, err = command("test", CHECKPOINT, f"--data.root={digits}", f"--run_dir={tmp_path}")
    assert code == 0, err
    assert reads.pop(CHECKPOINT) == 1
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == pytest.approx(TEST, abs=1e-5)
    rows = read_csv(tmp_path / "predictions.csv")
    assert len(rows) == 24
    assert best_of(rows[0]) == GROWS
    exported = tmp_path / "network.safetensors"
    code, _, err = command("export", CHECKPOINT, "--output", exported)
    assert code == 0, err
    assert reads.pop(CHECKPOINT) == 1
    for file in (CHECKPOINT, exported):
        output = tmp_path / f"{file.suffix}.csv"
        code, _, err = command("recognize", "--ckpt", file, digits / "test/grow/00000.mp4", "--output", output)
        assert code == 0, err
        assert reads[file] == 1
        (row,) = read_csv(output)
        assert best_of(row) == GROWS


def best_of(row: dict[str, str]) -> list[tuple[str, float]]:
    return [(row[f"class_{rank}"], pytest.approx(float(row[f"probability_{rank}"]), abs=2e-6)) for rank in (1, 2, 3)]
