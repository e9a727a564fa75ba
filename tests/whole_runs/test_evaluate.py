"""`mvrec test` and `predict` from a checkpoint alone: other data, other protocols, what they write."""

import csv
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


@pytest.fixture
def copied(small_run, tmp_path) -> Path:
    """A run directory of its own, moved elsewhere."""
    return Path(shutil.copytree(small_run, tmp_path / "moved here"))


def test_a_run_directory_is_enough(command, copied):
    code, _, err = command("test", copied)
    assert code == 0, err
    assert {path.name for path in copied.glob("*.*")} >= {
        "predictions.csv",
        "per_class.csv",
        "confusion.csv",
        "metrics.json",
    }
    found = metrics(copied)
    assert (found["stage"], found["scored"], found["expected"], found["failed"]) == ("test", 6, 6, 0)
    assert found["checkpoint"] == str(copied / "checkpoints/best.ckpt")
    assert found["data"]["splits"]["test"]["files"] == 6
    rows = read_csv(copied / "predictions.csv")
    assert [row["views"] for row in rows] == ["5"] * 6
    right = sum(row["label"] == row["class_1"] for row in rows)
    assert found["metrics"]["top1"] == pytest.approx(right / 6)
    assert sum(int(row["correct"]) for row in read_csv(copied / "per_class.csv")) == right
    assert f"top1 {100 * right / 6:.2f} %" in err


def test_a_checkpoint_file_and_the_flag_are_the_same(command, copied, tmp_path):
    best = copied / "checkpoints/best.ckpt"
    assert command("test", best, f"--run_dir={tmp_path / 'a'}")[0] == 0
    assert command("test", f"--ckpt_path={best}", f"--run_dir={tmp_path / 'b'}")[0] == 0
    for name in ("predictions.csv", "per_class.csv", "confusion.csv", "metrics.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_classes_in_another_order_are_matched_by_their_names(command, copied, small_data, tmp_path):
    assert command("test", copied, f"--run_dir={tmp_path / 'before'}")[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    rows = [
        f"{path},{ORDER.index(path.parent.name.replace('orbit_', 'orbit '))}"
        for path in small_data.glob("test/*/*.mp4")
    ]
    (other / "test.csv").write_text("\n".join(["path,label", *rows]))
    (other / "classes.txt").write_text("\n".join(ORDER))
    code, _, err = command("test", copied, f"--data.root={other}", f"--run_dir={tmp_path / 'after'}")
    assert code == 0, err
    assert "matched by their names" in err
    before, after = metrics(tmp_path / "before"), metrics(tmp_path / "after")
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["class_names"] == ["grow", "move_left", "orbit_clockwise"]  # the network's
    rows = [{row["path"]: row for row in read_csv(tmp_path / name / "predictions.csv")} for name in ("before", "after")]
    assert rows[0] == rows[1]


def test_failed_files_keep_their_class_when_classes_are_matched(command, copied, small_data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    good = next(small_data.glob("test/grow/*.mp4"))
    (other / "test.csv").write_text(f"path,label\n{bad},0\n{good},1\n")
    (other / "classes.txt").write_text("\n".join(ORDER))
    code, _, err = command("test", copied, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    by_class = {row["class"]: row for row in read_csv(tmp_path / "run/per_class.csv")}
    assert {name: row["failed"] for name, row in by_class.items()} == {
        "grow": "0",
        "move_left": "0",
        "orbit_clockwise": "1",
    }
    code, _, err = command(
        *("test", copied, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}", "--model.failed_files=left_out")
    )
    assert code == 0, err
    assert f"failed, left out of the score: {bad}" in err
    assert "1/2 videos scored, 1 failed and left out" in err


def test_other_classes_are_refused_with_what_differs(command, copied, small_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_data / "test", other / "test")
    (other / "test/move_left").rename(other / "test/move_right")
    code, _, err = command("test", copied, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "class 1 is 'move_left' in the checkpoint and 'move_right' in the data" in err.splitlines()[-1]
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_part_of_the_classes_is_scored_when_asked_for(command, copied, small_data, tmp_path):
    other = tmp_path / "other"
    for name in ("grow", "orbit_clockwise"):
        shutil.copytree(small_data / "test" / name, other / "test" / name)
    arguments = ["test", copied, f"--data.root={other}", f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command(*arguments)
    assert code == 2
    assert "knows 3 classes, the data have 2, which are among them: --data.classes checkpoint" in err.splitlines()[-1]
    code, _, err = command(*arguments, "--data.classes=checkpoint")
    assert code == 0, err
    assert metrics(tmp_path / "run")["expected"] == 4
    samples = {row["class"]: row["samples"] for row in read_csv(tmp_path / "run/per_class.csv")}
    assert samples == {"grow": "2", "move_left": "0", "orbit_clockwise": "2"}


def test_protocols_by_name_and_single_values(command, copied, tmp_path):
    code, _, err = command("test", copied, "--protocol=slowfast-10x3", f"--run_dir={tmp_path / 'a'}")
    assert code == 0, err
    found = metrics(tmp_path / "a")
    assert found["num_views"] == 30
    assert found["protocol"]["views"]["short_side"] == 64  # the crop's side, as with 224
    assert "10 clips x 3 crops, short side 64, crop 64, bilinear without antialias" in err
    code, _, err = command(
        *("test", copied, "--protocol", "slowfast-10x3", "--data.test_views.num_clips=2", f"--run_dir={tmp_path / 'b'}")
    )
    assert code == 0, err
    assert metrics(tmp_path / "b")["num_views"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "--protocol=slowfast"], "--protocol: there is no protocol 'slowfast'; did you mean 'slowfast-"),
        (["test", "--protocol=imagenet-mvit"], "imagenet-mvit is a protocol for images, the data are videos"),
        (["validate", "--protocol=slowfast-5x1"], "a protocol is for test and predict, validate has data.val_views"),
        (["test", "--ckpt_path=x"], "both name a checkpoint"),
        (["test", "--model.views_per_forward=0"], "model.views_per_forward must be at least 1, got 0"),
        (["test", "--model.failed_files=ignored"], "is not one of 'wrong', 'left_out'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_one_line(command, copied, arguments, message):
    code, _, err = command(arguments[0], copied, *arguments[1:])
    assert code == 2
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
    assert "damaged, truncated or no torch checkpoint" in err


def test_memory_of_many_views_is_bounded_and_changes_no_score(command, copied, tmp_path, monkeypatch):
    from mvrec.models import MViT

    seen: list[int] = []
    forward = MViT.forward

    def counted(self, x):
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(MViT, "forward", counted)
    views = ["--data.test_views.num_clips=5", "--data.test_views.num_crops=3"]
    assert command("test", copied, *views, "--model.views_per_forward=4", f"--run_dir={tmp_path / 'a'}")[0] == 0
    assert set(seen) == {4, 3}
    assert command("test", copied, *views, "--model.views_per_forward=100", f"--run_dir={tmp_path / 'b'}")[0] == 0
    few, many = (read_csv(tmp_path / name / "predictions.csv") for name in ("a", "b"))
    for ours, theirs in zip(few, many, strict=True):
        assert float(ours["probability_1"]) == pytest.approx(float(theirs["probability_1"]), abs=1.1e-6)


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
