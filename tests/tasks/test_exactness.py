"""A score does not depend on how many processes computed it, on the batch size, or on who had which view."""

import csv
import json
from pathlib import Path

import pytest
from warm import run_ranks

from mvrec.cli.lightning import run


@pytest.fixture(scope="module")
def lists(small_data, tmp_path_factory) -> Path:
    """A list of 13 videos of three classes, one of which cannot be read, and one of the first video."""
    folder = tmp_path_factory.mktemp("exact")
    (folder / "broken.mp4").write_bytes(b"no video")
    videos = sorted(path for split in ("val", "test") for path in small_data.glob(f"{split}/*/*.mp4"))
    rows = [f"{path},{path.parent.name}" for path in videos]
    rows.insert(7, f"{folder / 'broken.mp4'},grow")
    assert len(rows) == 13  # a prime, so that no number of processes divides it
    for name, count in (("all", 13), ("one", 1)):
        (folder / name).mkdir()
        (folder / name / "test.csv").write_text("\n".join(["path,label", *rows[:count]]))
        (folder / name / "classes.txt").write_text("grow\nmove_left\norbit_clockwise\n")
    return folder


def scored(small_run, root, run_dir, *, world, batch=1, shared=False) -> tuple[dict, list[dict[str, str]]]:
    """Metrics and predictions of an evaluation on 2 clips x 3 crops."""
    arguments = ["test", str(small_run), f"--data.root={root}", f"--run_dir={run_dir}", "--model.views_per_forward=5"]
    arguments += ["--data.test_views={num_clips: 2, num_crops: 3, short_side: 64}", f"--data.eval_batch_size={batch}"]
    arguments += [f"--data.split_views={shared}".lower(), "--data.decode_timeout=null", "--data.decode_memory=null"]
    if world == 1:
        run(arguments)
    for process in run_ranks(world, *arguments) if world > 1 else []:
        assert process.returncode == 0, process.stderr
    with (run_dir / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        return json.loads((run_dir / "metrics.json").read_text()), list(csv.DictReader(file))


@pytest.fixture(scope="module")
def alone(small_run, lists, tmp_path_factory) -> tuple[dict, list[dict[str, str]]]:
    return scored(small_run, lists / "all", tmp_path_factory.mktemp("alone"), world=1)


def test_counts_and_scores_are_those_of_one_process(small_run, lists, alone, tmp_path):
    expected, expected_rows = alone
    assert len({row["probability_1"] for row in expected_rows}) > 9  # or equality would say nothing
    metrics, rows = scored(small_run, lists / "all", tmp_path, world=2, batch=3, shared=True)
    assert (metrics["scored"], metrics["expected"], metrics["failed"], metrics["num_views"]) == (12, 13, 1, 6)
    for name, value in expected["metrics"].items():  # shares of counts: exactly
        assert metrics["metrics"][name] == (pytest.approx(value, abs=1e-6) if name == "loss" else value), name
    for row, other in zip(rows, expected_rows, strict=True):
        for name, cell in other.items():
            is_number = name.startswith("probability") and cell
            assert (float(row[name]) == pytest.approx(float(cell), abs=1.1e-6)) if is_number else row[name] == cell


def test_a_process_without_a_file_does_not_hang(small_run, lists, alone, tmp_path):
    metrics, (row,) = scored(small_run, lists / "one", tmp_path, world=2)
    assert metrics["expected"] == metrics["scored"] == 1
    assert float(row["probability_1"]) == pytest.approx(float(alone[1][0]["probability_1"]), abs=1.1e-6)
