"""`mvrec test` and `predict` from a checkpoint alone: other data, other protocols, what they write."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from run_support import read_csv

from mvrec.data.loading import clips
from mvrec.errors import UserError
from mvrec.tasks.classification.class_match import ClassMatch


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
    files = {"predictions.csv", "per_class.csv", "confusion.csv", "metrics.json"}
    assert {path.name for path in folder.glob("*.*")} >= files
    score = metrics(folder)
    assert (score["stage"], score["scored"], score["expected"], score["failed"]) == ("test", 6, 6, 0)
    assert score["checkpoint"] == str(folder / "checkpoints/best.ckpt")
    assert score["data"]["splits"]["test"]["files"] == 6
    rows = read_csv(folder / "predictions.csv")
    assert [(row["views"], row["label"].replace(" ", "_")) for row in rows] == [
        ("5", Path(row["path"]).parent.name) for row in rows
    ]
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)
    right = sum(row["label"] == row["class_1"] for row in rows)
    assert score["metrics"]["top1"] == pytest.approx(right / 6)
    assert sum(int(row["correct"]) for row in read_csv(folder / "per_class.csv")) == right
    assert f"top1 {100 * right / 6:.2f} %" in err


def test_the_number_of_views_at_a_time_bounds_memory_and_changes_no_score(command, run_dir, tmp_path, monkeypatch):
    from mvrec.models import MViT

    sizes: list[int] = []
    forward = MViT.forward

    def counted(self, x):
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(MViT, "forward", counted)
    best = run_dir / "checkpoints/best.ckpt"
    code, _, err = command("test", f"--ckpt_path={best}", f"--run_dir={tmp_path}", "--model.views_per_forward=2")
    assert code == 0, err
    assert max(sizes) == 2
    assert metrics(tmp_path)["metrics"] == pytest.approx(metrics(run_dir)["metrics"], abs=1e-5)
    few, many = (read_csv(folder / "predictions.csv") for folder in (tmp_path, run_dir))
    for actual, expected in zip(few, many, strict=True):
        assert actual["class_1"] == expected["class_1"]
        assert float(actual["probability_1"]) == pytest.approx(float(expected["probability_1"]), abs=1.1e-6)


def test_a_video_is_opened_once_and_each_frame_is_decoded_once_for_all_views(command, run_dir, tmp_path, monkeypatch):
    log, real = tmp_path / "reads.txt", clips.open_video

    def counted(path, **knobs):
        video = real(path, **knobs)

        def frames(indices, read=video.frames):
            with log.open("a") as file:  # from whichever process reads
                print(path, *indices, file=file)
            return read(indices)

        video.frames = frames
        return video

    monkeypatch.setattr(clips, "open_video", counted)
    views = ["--data.test_views.num_clips=10", "--data.test_views.num_crops=3", "--data.num_workers=1"]
    assert command("test", run_dir, f"--run_dir={tmp_path / 'scored'}", *views)[0] == 0
    assert {row["views"] for row in read_csv(tmp_path / "scored/predictions.csv")} == {"30"}
    reads = [line.split() for line in log.read_text().splitlines()]
    assert len(reads) == len({path for path, *_ in reads}) == 6  # one file of the test split after the other
    assert all(len(numbers) == len(set(numbers)) for _, *numbers in reads)


def test_classes_in_another_order_are_matched_by_their_names_also_of_failed_files(
    command, run_dir, small_data, tmp_path
):
    """A file that is left out changes no score of the others."""
    other, bad = tmp_path / "other", tmp_path / "bad.mp4"
    other.mkdir()
    bad.write_bytes(b"no video")
    order = ["orbit_clockwise", "grow", "move_left"]
    rows = [f"{path},{order.index(path.parent.name)}" for path in small_data.glob("test/*/*.mp4")]
    (other / "test.csv").write_text("\n".join(["path,label", *rows, f"{bad},0"]))
    (other / "classes.txt").write_text("orbit clockwise\ngrow\nmove_left")
    flags = [f"--data.root={other}", f"--run_dir={tmp_path / 'after'}", "--model.failed_files=left_out"]
    code, _, err = command("test", run_dir, *flags)
    assert code == 0, err
    assert "matched by their names" in err
    assert f"failed, left out of the score: {bad}" in err
    assert "6/7 videos scored, 1 failed and left out" in err
    before, after = metrics(run_dir), metrics(tmp_path / "after")
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["class_names"] == ["grow", "move_left", "orbit_clockwise"]  # the network's
    failed = {row["class"]: row["failed"] for row in read_csv(tmp_path / "after/per_class.csv")}
    assert failed == {"grow": "0", "move_left": "0", "orbit_clockwise": "1"}
    actual, expected = (
        {row["path"]: row for row in read_csv(folder / "predictions.csv") if row["path"] != str(bad)}
        for folder in (tmp_path / "after", run_dir)
    )
    assert actual == expected


def test_a_part_of_the_classes_is_scored_when_asked_for_with_a_changed_protocol(command, run_dir, small_data, tmp_path):
    other = tmp_path / "other"
    for name in ("grow", "orbit_clockwise"):
        shutil.copytree(small_data / "test" / name, other / "test" / name)
    arguments = ["test", run_dir, f"--data.root={other}", f"--run_dir={tmp_path}"]
    code, _, err = command(*arguments)
    assert code == 2
    assert "knows 3 classes, the data have 2, which are among them: --data.classes checkpoint" in err.splitlines()[-1]
    assert not (tmp_path / "metrics.json").exists()
    flags = ["--data.classes=checkpoint", "--protocol", "slowfast-10x3", "--data.test_views.num_clips=2"]
    code, _, err = command(*arguments, *flags)
    assert code == 0, err
    assert "2 clips x 3 crops, short side 64, crop 64, bilinear without antialias" in err
    score = metrics(tmp_path)
    assert (score["expected"], score["num_views"]) == (4, 6)
    assert score["protocol"]["views"]["short_side"] == 64  # the crop's side, as with 224
    samples = {row["class"]: row["samples"] for row in read_csv(tmp_path / "per_class.csv")}
    assert samples == {"grow": "2", "move_left": "0", "orbit_clockwise": "2"}
    with pytest.raises(UserError, match="1 of 2 classes differ: class 1 is 'b' in the checkpoint and 'c' in the data"):
        ClassMatch(["a", "b"], ["a", "c"])


def test_bad_input_is_one_line(command, run_dir, tmp_path):
    for arguments, message in (
        (["test", "--protocol=slowfast"], "--protocol: there is no protocol 'slowfast'; did you mean 'slowfast-"),
        (["test", "--protocol=imagenet-mvit"], "imagenet-mvit is a protocol for images, the data are videos"),
        (["validate", "--protocol=slowfast-5x1"], "a protocol is for test and predict, validate has data.val_views"),
        (["test", "--ckpt_path=x"], "both name a checkpoint"),
    ):
        code, _, err = command(arguments[0], run_dir, *arguments[1:])
        assert code == 2, arguments
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err
    (tmp_path / "last.ckp").write_bytes(b"x")
    for checkpoint, message in (
        (tmp_path, f"{tmp_path} is a folder without checkpoints/best.ckpt"),
        (tmp_path / "last.ckpt", f"did you mean '{tmp_path / 'last.ckp'}'?"),
    ):
        code, _, err = command("test", checkpoint)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_published_weights_are_scored_on_data_of_as_many_classes(command, tmp_path):
    """Weights without names or protocol: the protocol is the one they were published with."""
    from mvrec.models import create_model

    torch.save({"model": create_model("cloformer_xxs", num_classes=3).state_dict()}, tmp_path / "weights.pth")
    root = tmp_path / "images"
    for name in ("a", "b", "c"):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (60, 50), (90, 40, 200)).save(root / "val" / name / "x.png")
    arguments = ["test", tmp_path / "weights.pth", f"--data.root={root}", f"--run_dir={tmp_path / 'run'}"]
    arguments += ["--data.size=64", "--trainer.accelerator=cpu"]
    code, _, err = command(*arguments)
    assert code == 0, err
    assert "does not name its 3 classes" in err
    score = metrics(tmp_path / "run")
    assert (score["scored"], score["checkpoint"]) == (3, str(tmp_path / "weights.pth"))
    shutil.rmtree(root / "val/c")
    code, _, err = command(*arguments)
    assert code == 2
    assert "is for 3 classes, the data have 2" in err.splitlines()[-1]
