"""`mvrec test` and `predict` from a checkpoint alone: other data, other protocols, what they write."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

ORDER = ["orbit clockwise", "grow", "move_left"]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scored(small_run, tmp_path_factory) -> tuple[Path, str]:
    """A run directory that was moved elsewhere and scored by `mvrec test FOLDER`, and what that printed."""
    from mvrec.cli.main import main

    folder = shutil.copytree(small_run, tmp_path_factory.mktemp("moved") / "moved here")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["test", str(folder)])
    return folder, err.getvalue()


@pytest.fixture
def run_dir(scored) -> Path:
    """The scored run, to be read."""
    return scored[0]


def test_a_run_directory_is_enough(scored):
    folder, err = scored
    assert {path.name for path in folder.glob("*.*")} >= {
        "predictions.csv",
        "per_class.csv",
        "confusion.csv",
        "metrics.json",
    }
    score = metrics(folder)
    assert (score["stage"], score["scored"], score["expected"], score["failed"]) == ("test", 6, 6, 0)
    assert score["checkpoint"] == str(folder / "checkpoints/best.ckpt")
    assert score["data"]["splits"]["test"]["files"] == 6
    rows = read_csv(folder / "predictions.csv")
    assert [row["views"] for row in rows] == ["5"] * 6
    right = sum(row["label"] == row["class_1"] for row in rows)
    assert score["metrics"]["top1"] == pytest.approx(right / 6)
    assert sum(int(row["correct"]) for row in read_csv(folder / "per_class.csv")) == right
    assert f"top1 {100 * right / 6:.2f} %" in err


def test_a_folder_a_file_and_the_flag_give_the_same_score_with_any_number_of_views_at_a_time(
    command, run_dir, tmp_path, monkeypatch
):
    from mvrec.models import MViT

    sizes: list[int] = []
    forward = MViT.forward

    def counted(self, x):
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(MViT, "forward", counted)
    best = run_dir / "checkpoints/best.ckpt"
    assert command("test", best, f"--run_dir={tmp_path / 'file'}", "--model.views_per_forward=2")[0] == 0
    assert max(sizes) == 2
    sizes.clear()
    assert command("test", f"--ckpt_path={best}", f"--run_dir={tmp_path / 'flag'}")[0] == 0
    assert max(sizes) > 2
    for name in ("predictions.csv", "per_class.csv", "confusion.csv", "metrics.json"):
        assert (tmp_path / "flag" / name).read_bytes() == (run_dir / name).read_bytes()
    few, many = (read_csv(folder / "predictions.csv") for folder in (tmp_path / "file", run_dir))
    for ours, theirs in zip(few, many, strict=True):
        assert float(ours["probability_1"]) == pytest.approx(float(theirs["probability_1"]), abs=1.1e-6)


def test_classes_in_another_order_are_matched_by_their_names(command, run_dir, small_data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    rows = [
        f"{path},{ORDER.index(path.parent.name.replace('orbit_', 'orbit '))}"
        for path in small_data.glob("test/*/*.mp4")
    ]
    (other / "test.csv").write_text("\n".join(["path,label", *rows]))
    (other / "classes.txt").write_text("\n".join(ORDER))
    code, _, err = command("test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path / 'after'}")
    assert code == 0, err
    assert "matched by their names" in err
    before, after = metrics(run_dir), metrics(tmp_path / "after")
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["class_names"] == ["grow", "move_left", "orbit_clockwise"]  # the network's
    rows = [
        {row["path"]: row for row in read_csv(folder / "predictions.csv")} for folder in (run_dir, tmp_path / "after")
    ]
    assert rows[0] == rows[1]


def test_failed_files_keep_their_class_when_classes_are_matched(command, run_dir, small_data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    good = next(small_data.glob("test/grow/*.mp4"))
    (other / "test.csv").write_text(f"path,label\n{bad},0\n{good},1\n")
    (other / "classes.txt").write_text("\n".join(ORDER))
    code, _, err = command("test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    by_class = {row["class"]: row for row in read_csv(tmp_path / "run/per_class.csv")}
    assert {name: row["failed"] for name, row in by_class.items()} == {
        "grow": "0",
        "move_left": "0",
        "orbit_clockwise": "1",
    }
    code, _, err = command(
        *("test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}", "--model.failed_files=left_out")
    )
    assert code == 0, err
    assert f"failed, left out of the score: {bad}" in err
    assert "1/2 videos scored, 1 failed and left out" in err


def test_other_classes_are_refused_with_what_differs(command, run_dir, small_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_data / "test", other / "test")
    (other / "test/move_left").rename(other / "test/move_right")
    code, _, err = command("test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "class 1 is 'move_left' in the checkpoint and 'move_right' in the data" in err.splitlines()[-1]
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_part_of_the_classes_is_scored_when_asked_for(command, run_dir, small_data, tmp_path):
    other = tmp_path / "other"
    for name in ("grow", "orbit_clockwise"):
        shutil.copytree(small_data / "test" / name, other / "test" / name)
    arguments = ["test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command(*arguments)
    assert code == 2
    assert "knows 3 classes, the data have 2, which are among them: --data.classes checkpoint" in err.splitlines()[-1]
    code, _, err = command(*arguments, "--data.classes=checkpoint")
    assert code == 0, err
    assert metrics(tmp_path / "run")["expected"] == 4
    samples = {row["class"]: row["samples"] for row in read_csv(tmp_path / "run/per_class.csv")}
    assert samples == {"grow": "2", "move_left": "0", "orbit_clockwise": "2"}


def test_single_values_change_a_protocol_that_is_chosen_by_name(command, run_dir, tmp_path):
    named = ["--protocol", "slowfast-10x3", "--data.test_views.num_clips=2"]
    code, _, err = command("test", run_dir, *named, f"--run_dir={tmp_path}")
    assert code == 0, err
    score = metrics(tmp_path)
    assert score["num_views"] == 6
    assert score["protocol"]["views"]["short_side"] == 64  # the crop's side, as with 224
    assert "2 clips x 3 crops, short side 64, crop 64, bilinear without antialias" in err


def test_bad_input_is_one_line(command, run_dir):
    for arguments, message in (
        (["test", "--protocol=slowfast"], "--protocol: there is no protocol 'slowfast'; did you mean 'slowfast-"),
        (["test", "--protocol=imagenet-mvit"], "imagenet-mvit is a protocol for images, the data are videos"),
        (["validate", "--protocol=slowfast-5x1"], "a protocol is for test and predict, validate has data.val_views"),
        (["test", "--ckpt_path=x"], "both name a checkpoint"),
        (["test", "--model.views_per_forward=0"], "model.views_per_forward must be at least 1, got 0"),
        (["test", "--model.failed_files=ignored"], "is not one of 'wrong', 'left_out'"),
    ):
        code, _, err = command(arguments[0], run_dir, *arguments[1:])
        assert code == 2, arguments
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err


def test_what_is_no_checkpoint(command, tmp_path):
    code, _, err = command("test", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path} is a folder without checkpoints/best.ckpt" in err
    (tmp_path / "last.ckp").write_bytes(b"x")
    code, _, err = command("test", tmp_path / "last.ckpt")
    assert code == 2
    assert f"did you mean '{tmp_path / 'last.ckp'}'?" in err
    code, _, err = command("test", tmp_path / "last.ckp", "--data=VideoFolder", f"--data.root={tmp_path}")
    assert code == 2
    assert "damaged, truncated or not a torch checkpoint" in err


def test_published_weights_are_scored_on_data_of_as_many_classes(command, small_data, tmp_path):
    """Weights without names or protocol: the protocol is the one they were published with."""
    from mvrec.models import create_model

    with torch.device("meta"):
        shapes = create_model("cloformer_xxs", num_classes=3).state_dict()
    torch.manual_seed(0)
    state = {name: torch.rand(value.shape) * 0.02 for name, value in shapes.items()}
    torch.save({"model": state}, tmp_path / "weights.pth")
    root = tmp_path / "images"
    from PIL import Image

    for name in ("a", "b", "c"):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (60, 50), (90, 40, 200)).save(root / "val" / name / "x.png")
    arguments = ["test", tmp_path / "weights.pth", f"--data.root={root}", f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command(*arguments, "--data.size=64", "--trainer.accelerator=cpu")
    assert code == 0, err
    assert "does not name its 3 classes" in err
    found = metrics(tmp_path / "run")
    assert (found["scored"], found["checkpoint"]) == (3, str(tmp_path / "weights.pth"))
    shutil.rmtree(root / "val/c")
    code, _, err = command(*arguments, "--data.size=64", "--trainer.accelerator=cpu")
    assert code == 2
    assert "is for 3 classes, the data have 2" in err.splitlines()[-1]
