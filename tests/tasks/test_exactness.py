"""A score does not depend on how many processes computed it, on the batch size, or on who had which view."""

import csv
import json
from pathlib import Path

import pytest
from video_files import write_video
from warm import run_ranks

CLASSES = ("fall down", "jump", "läuft")
NUM_VIDEOS = 41  # a prime, so that no number of processes divides it
UNREADABLE = 20
# (world, batch, shared): each number of processes, and each size with views shared and not.
CASES = [(2, 7, False), (4, 1, True)]  # (world, batch, shared), against one process
MORE_CASES = [(1, 7, True), (3, 7, True)]
FEW = [(3, 2, False), (4, 2, True)]  # (world, videos, shared): some ranks have nothing to do


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """41 videos of three classes, one of which cannot be read, and lists of the first one and two."""
    root = tmp_path_factory.mktemp("exact") / "videos"
    root.mkdir()
    rows = []
    for number in range(NUM_VIDEOS):
        path = root / f"{number}.mp4"
        if number == UNREADABLE:
            path.write_bytes(b"no video")
        else:
            write_video(path, num_frames=6 + number % 9, size=(36 + 2 * (number % 5), 48), numbered=True)
        rows.append(f"{path.name},{CLASSES[number * 7 % 3]}")
    for name in ("train", "test"):
        (root / f"{name}.csv").write_text("\n".join(["path,label", *rows]))
    (root / "two").mkdir()
    (root / "two/test.csv").write_text("\n".join(["path,label", *(f"../{row}" for row in rows[:2])]))
    (root / "two/classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def checkpoint(videos, tmp_path_factory) -> Path:
    """A network after one step of training, in evaluation on 2 clips x 3 crops."""
    from mvrec.cli.lightning import run

    network = {"num_frames": 2, "image_size": 32, "embed_dim": 8, "depth": 1, "dim_mults": "{}", "head_mults": "{}"}
    values = {
        **{f"model.backbone.{key}": value for key, value in network.items()},
        "model.backbone.q_strides": "{}",
        "model.optimizer.lr": 0.03,
        "data.root": videos,
        "data.clip": "{num_frames: 2, stride_frames: 2}",
        "data.size": 32,
        "data.test_views": "{num_clips: 2, num_crops: 3, short_side: 32}",
        "data.augment": "{rand_augment: null, random_erasing: null}",
        "data.batch_size": 16,
        "data.num_workers": 0,
        "trainer.max_steps": 8,
        "trainer.limit_val_batches": 0,
        "run_dir": tmp_path_factory.mktemp("run"),
    }
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(
        "seed_everything: 0\nmodel:\n  backbone: {class_path: mvrec.models.MViT}\n"
        "data: {class_path: mvrec.data.Kinetics}\ntrainer: {accelerator: cpu, devices: 1}\n"
    )
    run(["fit", f"--config={path}", *(f"--{key}={value}" for key, value in values.items())])
    return Path(values["run_dir"]) / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def results(videos, checkpoint, tmp_path_factory) -> dict[tuple, Path]:
    """The directory of a case (world, batch, shared, count of videos), which runs when it is asked for."""

    class Results(dict[tuple, Path]):
        def __missing__(self, case: tuple) -> Path:
            world, batch, shared, count = case
            run_dir = self[case] = tmp_path_factory.mktemp("case")
            root = videos if count == NUM_VIDEOS else videos / "two"
            arguments = ["test", checkpoint, f"--data.root={root}", f"--run_dir={run_dir}"]
            arguments += [f"--data.eval_batch_size={batch}", f"--data.split_views={shared}".lower()]
            arguments += ["--data.decode_timeout=null", "--data.decode_memory=null", "--model.views_per_forward=5"]
            for process in run_ranks(world, *arguments):
                assert process.returncode == 0, process.stderr
            return run_dir

    return Results()


def read(run_dir: Path) -> tuple[dict, list[dict[str, str]]]:
    with (run_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return json.loads((run_dir / "metrics.json").read_text()), list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("world", "batch", "shared"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)]
)
def test_counts_and_scores_are_those_of_one_process(results, world, batch, shared):
    alone, rows = read(results[1, 1, False, NUM_VIDEOS])
    found, others = read(results[world, batch, shared, NUM_VIDEOS])
    assert (found["scored"], found["expected"], found["failed"]) == (40, 41, 1)
    assert found["num_views"] == 6
    for name, value in alone["metrics"].items():
        if name == "loss":
            assert found["metrics"][name] == pytest.approx(value, abs=1e-6)
        else:
            assert found["metrics"][name] == value, name  # shares of counts: exactly
    assert [row["path"] for row in others] == [row["path"] for row in rows]
    for ours, theirs in zip(rows, others, strict=True):
        assert {key: theirs[key] for key in ours if not key.startswith("probability")} == {
            key: ours[key] for key in ours if not key.startswith("probability")
        }
        for rank in (1, 2, 3):
            if ours["error"] == "":
                key = f"probability_{rank}"
                assert float(theirs[key]) == pytest.approx(float(ours[key]), abs=1.1e-6)


def test_the_case_is_not_trivial(results):
    """Some videos are right and some wrong, and probabilities differ, or equality would say nothing."""
    alone, rows = read(results[1, 1, False, NUM_VIDEOS])
    assert 0.2 < alone["metrics"]["top1"] < 0.9
    assert len({row["probability_1"] for row in rows}) > 30
    assert sum(row["error"] != "" for row in rows) == 1


@pytest.mark.parametrize(("world", "count", "shared"), [FEW[1], pytest.param(*FEW[0], marks=pytest.mark.slow)])
def test_ranks_with_nothing_to_do_do_not_hang(results, world, count, shared):
    found, rows = read(results[world, 1, shared, count])
    assert found["expected"] == len(rows) == 2
    _, all_rows = read(results[1, 1, False, NUM_VIDEOS])
    for ours, theirs in zip(all_rows[:2], rows, strict=True):
        assert float(theirs["probability_1"]) == pytest.approx(float(ours["probability_1"]), abs=1.1e-6)
