"""Action detection from videos and a list of boxes to a score, exactly resumed, the same on any number of processes."""

import base64
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
import yaml
from coloured_boxes import NAMES, squares, write_coloured_boxes
from slow_average_precision import slow_average_precision
from warm import run_ranks

from mvrec.cli.lightning import run
from mvrec.errors import UserError

FSDP = f"--config={Path(__file__).parents[3] / 'configs/overlays/fsdp.yaml'}"
CONFIG = """
trainer: {max_epochs: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
seed_everything: 0
model:
  class_path: mvrec.tasks.ActionDetection
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    schedule: {end_factor: 1.0}
    dropout: 0.1
    backbone:
      class_path: mvrec.models.MViT
      init_args:
        num_frames: 2
        image_size: 48
        embed_dim: 16
        num_heads: 1
        depth: 2
        dim_mults: {1: 2}
        head_mults: {1: 2}
        q_strides: {1: 2}
        kv_stride: 2
data:
  class_path: mvrec.data.VideoBoxes
  init_args:
    root: coloured
    clip: {num_frames: 2, stride_frames: 1}
    size: 48
    batch_size: 4
    num_workers: 0
"""


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coloured")
    write_coloured_boxes(root)
    return root


@pytest.fixture(scope="module")
def config(coloured, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("config") / "actions.yaml"
    path.write_text(CONFIG)
    return [f"--config={path}", f"--data.root={coloured}"]


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory, no_pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "colours"
    run(["fit", *config, f"--run_dir={folder}"])
    return folder


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tested")
    run(["test", str(trained), f"--run_dir={folder}"])
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_it_learns_colours_and_writes_what_it_scored(tested):
    scored = metrics_of(tested)
    assert scored["metrics"]["map"] > 0.9 > 0.75 > scored["chance"]["map"]
    assert scored["protocol_text"].startswith("ava, 2x1")
    rows = read(tested / "predictions.csv")
    assert len(rows) == scored["scored"] == 10
    assert [float(row["start_seconds"]) for row in rows[:2]] == [0.25, 0.75]
    assert sum(int(row["true_boxes"]) for row in rows) == scored["true_boxes"]
    answered = [sum(int(row[column]) for row in rows) for column in ("found", "actions")]
    assert answered[0] >= 0.9 * answered[1]
    values = [float(row["average_precision"]) for row in read(tested / "per_class.csv")]
    assert scored["metrics"]["map"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_its_file_of_detections_gives_the_score_again_by_plain_loops(tested):
    """The file is in AVA's form; the true boxes come from the generator."""
    assert metrics_of(tested)["metrics"]["map"] == pytest.approx(metrics_by_loops(tested), abs=1e-9)


def metrics_by_loops(folder: Path) -> float:
    detections, truth = [], []
    for line in (folder / "detections.csv").read_text().splitlines():
        video, second, *corners, number, score = line.split(",")
        detections.append(((video, second), tuple(map(float, corners)), int(number), float(score)))
    for video in range(15, 20):
        for box, labels in squares(video):
            shares = (box[0] / 64, box[1] / 48, box[2] / 64, box[3] / 48)
            for second in ("0.25", "0.75"):
                truth += [((str(video), second), shares, NAMES.index(label) + 1) for label in labels]
    return sum(slow_average_precision(detections, truth, number) for number in (1, 2, 3)) / 3


def test_boxes_of_a_detector_are_scored_and_those_that_it_misses_are_missed(trained, tested, tmp_path):
    rows = ["path,time,x1,y1,x2,y2,score"]
    for number in range(16, 20):  # none in the first test video
        for left, top, right, bottom in (box for box, _ in squares(number)):
            rows += [f"videos/{number}.mp4,{time},{left + 1},{top},{right + 1},{bottom},0.9" for time in (0.25, 0.75)]
        rows += [f"videos/{number}.mp4,0.25,0,0,6,6,0.95", f"videos/{number}.mp4,0.25,0,0,6,6,0.3"]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    flags = [f"--data.detections={tmp_path / 'people.csv'}", "--data.min_score=0.5"]
    run(["test", str(trained), *flags, f"--run_dir={tmp_path}"])
    scored, whole = metrics_of(tmp_path), metrics_of(tested)
    assert "detected boxes of score 0.5 or more" in scored["protocol_text"]
    assert scored["true_boxes"] == whole["true_boxes"] == whole["true_boxes_covered"]
    assert scored["true_boxes_covered"] == whole["true_boxes"] - 2 * len(squares(15))
    assert scored["boxes"] == scored["true_boxes_covered"] + 4
    assert scored["metrics"]["map"] < whole["metrics"]["map"]
    missed = {row[""]: int(row["(failed)"]) for row in read(tmp_path / "confusion.csv")}
    assert missed == {name: 2 * sum(name in labels for _, labels in squares(15)) for name in NAMES}
    assert metrics_by_loops(tmp_path) == pytest.approx(scored["metrics"]["map"], abs=1e-9)


def test_predict_writes_key_frames_and_boxes_without_a_score(trained, tested, tmp_path):
    run(["predict", str(trained), f"--run_dir={tmp_path}"])
    assert (tmp_path / "predicted_boxes.csv").read_text() == (tested / "detections.csv").read_text()
    assert len(read(tmp_path / "predicted.csv")) == 10
    assert not (tmp_path / "metrics.json").exists()


def test_recognising_gives_the_scores_of_the_test(trained, tested, coloured, command):
    expected = {}
    for line in (tested / "detections.csv").read_text().splitlines():
        video, second, *corners, number, score = line.split(",")
        box = np.array(corners, float) * [64, 48, 64, 48]
        expected[video, float(second), *box.round().astype(int), NAMES[int(number) - 1]] = float(score)
    lists = ["--boxes", coloured / "test.csv", "--every=0.1", "--smooth=0"]
    code, out, err = command(
        *("recognize", *sorted((coloured / "videos").glob("1[5-9].mp4")), "--ckpt", trained),
        *(*lists, "--pixels=centre", "--format=csv"),
    )
    assert code == 0, err
    actual = {}
    for row in csv.DictReader(out.splitlines()):
        box = [round(float(row[name])) for name in ("x1", "y1", "x2", "y2")]
        actual[Path(row["path"]).stem, float(row["time"]), *box, row["label"]] = float(row["score"])
    assert len(actual) == len(expected)
    assert actual == pytest.approx(expected, abs=1e-5)


LABELS = {"red": 1, "bright": 17, "blue": 80}  # as numbers of AVA, in another order than the names


@pytest.fixture(scope="module")
def ava(coloured, tmp_path_factory) -> Path:
    """The videos as cuts of films from second 900 on, with lists in AVA's form."""
    root = tmp_path_factory.mktemp("ava")
    shutil.copytree(coloured / "videos", root / "videos")
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(20):
        for box, labels in squares(number):
            shares = ",".join(f"{value / side:.4f}" for value, side in zip(box, (64, 48, 64, 48), strict=True))
            split = lines["train" if number < 12 else "val"]
            split += [f"{number:02d},0900,{shares},{LABELS[label]},{number}" for label in labels]
    for split, rows in lines.items():
        (root / f"ava_{split}_v2.2.csv").write_text("\n".join(rows) + "\n")
    items = [f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for name, number in LABELS.items()]
    (root / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text("".join(items))
    (root / "ava_val_excluded_timestamps_v2.2.csv").write_text("13,0900\n")
    return root


def test_ava_is_scored_and_its_file_has_avas_videos_seconds_and_action_ids(trained, ava, tmp_path):
    flags = ["--data=mvrec.data.AVA", f"--data.root={ava}", "--data.offset=900", "--data.num_workers=0"]
    flags += ["--data.clip.num_frames=2", "--data.clip.stride_frames=1", "--data.size=48"]
    run(["test", str(trained), *flags, f"--run_dir={tmp_path}"])
    scored = metrics_of(tmp_path)
    assert scored["metrics"]["map"] > 0.9
    assert scored["scored"] == 7  # without the excluded one
    detections = [line.split(",") for line in (tmp_path / "detections.csv").read_text().splitlines()]
    assert {tuple(row[:2]) for row in detections} == {(f"{number}", "0900") for number in (12, 14, 15, 16, 17, 18, 19)}
    assert {int(row[6]) for row in detections} == set(LABELS.values())
    right = 0
    for number in (12, 14, 15, 16, 17, 18, 19):
        for box, labels in squares(number):
            best = max(
                (float(row[7]), int(row[6]))
                for row in detections
                if row[0] == str(number) and abs(float(row[2]) - box[0] / 64) < 1e-3
            )
            right += best[1] in [LABELS[label] for label in labels]
    assert right >= 9


def test_the_report_of_ava_shows_key_frames_of_cut_films(config, ava, command, tmp_path, no_pictures):
    flags = ["--data=mvrec.data.AVA", f"--data.root={ava}", "--data.offset=900"]
    run(["fit", *config, *flags, "--trainer.max_steps=1", f"--run_dir={tmp_path}"])
    run(["test", str(tmp_path), f"--run_dir={tmp_path}"])
    code, _, err = command("report", tmp_path)
    assert code == 0, err
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="key frame of') > 0
    assert " at 900 s" in page
    assert "no picture" not in page


def test_a_run_resumes_within_an_epoch_to_the_bit(trained, config, tmp_path):
    for flag in ("--trainer.max_steps=14", "--resume=auto"):
        run(["fit", *config, f"--run_dir={tmp_path}", flag])
    whole, resumed = weights_of(trained), weights_of(tmp_path)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("world", [2, 3])
def test_scores_are_those_of_one_process(trained, tested, tmp_path, world):
    for process in run_ranks(world, "test", str(trained), f"--run_dir={tmp_path}", "--data.eval_batch_size=1"):
        assert process.returncode == 0, process.stderr
    assert (tmp_path / "predictions.csv").read_text() == (tested / "predictions.csv").read_text()
    assert metrics_of(tmp_path)["metrics"] == pytest.approx(metrics_of(tested)["metrics"], abs=1e-12)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_also_where_one_has_no_boxes(config, coloured, tmp_path, strategy):
    """Boxes are cropped away and dropped, so that batches of one process are empty at times."""
    flags = ["--data.cropped=drop", "--data.batch_size=1", "--trainer.max_epochs=2", "--data.size=32"]
    flags += ["--data.augment.crop_side=[0.3,0.4]", *([FSDP] if strategy == "fsdp" else [])]
    options = {} if strategy == "ddp" else {"strategy": None}
    for process in run_ranks(2, "fit", *config, *flags, f"--run_dir={tmp_path}", **options):
        assert process.returncode == 0, process.stderr
    losses = [float(row["train/loss"]) for row in read(tmp_path / "metrics.csv") if row["train/loss"]]
    assert (len(losses), min(losses)) == (24, 0)
    assert 0.1 < max(losses) < 10


def test_an_unreadable_video_counts_as_missed_boxes(trained, tested, coloured, tmp_path):
    root = tmp_path / "coloured"
    shutil.copytree(coloured, root)
    (root / "videos/15.mp4").write_bytes(b"no video")
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    rows = read(tmp_path / "predictions.csv")
    assert [bool(row["error"]) for row in rows] == [True, True] + [False] * 8
    missed = {row[""]: int(row["(failed)"]) for row in read(tmp_path / "confusion.csv")}
    labels = [label for _, labels in squares(15) for label in labels]
    assert missed == {name: 2 * labels.count(name) for name in NAMES}
    assert metrics_of(tmp_path)["true_boxes"] == metrics_of(tested)["true_boxes"]
    assert metrics_of(tmp_path)["metrics"]["map"] < metrics_of(tested)["metrics"]["map"]


def test_actions_in_another_order_are_matched_by_name(trained, tested, coloured, tmp_path):
    root = tmp_path / "coloured"
    shutil.copytree(coloured, root)
    (root / "classes.txt").write_text("red\nbright\nblue")
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]
    assert [row["class"] for row in read(tmp_path / "per_class.csv")] == list(NAMES)


def test_its_weights_start_another_run_with_their_head(trained, config, tmp_path, caplog):
    flags = [f"--run_dir={tmp_path}", f"--model.weights={trained}", "--trainer.max_steps=1"]
    run(["fit", *config, *flags])
    assert "detects the same 3 actions: its head is kept" in caplog.text
    caplog.clear()
    run(["fit", *config, *flags, "--model.new_head=true", f"--run_dir={tmp_path / 'new'}"])
    assert "the head for 3 actions untrained" in caplog.text
    with pytest.raises(UserError, match="the checkpoint's head is"):
        run(["test", str(trained), *config, f"--run_dir={tmp_path}", "--model.context=true"])


def test_a_classifiers_weights_start_the_network_and_the_head_is_new(config, tmp_path, caplog):
    from mvrec.models import MViT

    network = {"num_frames": 2, "image_size": 48, "embed_dim": 16, "num_heads": 1, "depth": 2, "kv_stride": 2}
    classifier = MViT(num_classes=400, **network, dim_mults={1: 2}, head_mults={1: 2}, q_strides={1: 2})
    torch.save(classifier.state_dict(), path := tmp_path / "kinetics.pth")
    run(["fit", *config, f"--run_dir={tmp_path}", f"--model.weights={path}", "--trainer.max_steps=1"])
    assert f"the backbone starts from {path}, the head for 3 actions untrained" in caplog.text


def test_exported_weights_score_as_the_run_does(command, trained, tested, config, tmp_path):
    code, _, err = command("export", trained, "-o", weights := tmp_path / "x.safetensors")
    assert code == 0, err
    run(["test", *config, "--model.context=true", f"--model.weights={weights}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]


def test_an_image_network_learns_frame_by_frame_and_its_weights_score_as_the_run(command, coloured, tmp_path):
    settings = yaml.safe_load(CONFIG)
    image = {"class_path": "mvrec.models.cloformer_xxs", "init_args": {"image_size": 64}}
    framewise = {"class_path": "mvrec.models.Framewise", "init_args": {"backbone": image, "num_frames": 2}}
    settings["model"]["init_args"]["backbone"] = framewise
    settings["data"]["init_args"]["size"] = 64
    (config := tmp_path / "framewise.yaml").write_text(yaml.safe_dump(settings))
    flags = [f"--config={config}", f"--data.root={coloured}"]
    run(["fit", *flags, "--trainer.max_steps=3", f"--run_dir={tmp_path / 'run'}"])
    run(["test", str(tmp_path / "run"), f"--run_dir={tmp_path / 'tested'}"])
    code, _, err = command("export", tmp_path / "run", "-o", weights := tmp_path / "x.safetensors")
    assert code == 0, err
    run(["test", *flags, f"--model.weights={weights}", f"--run_dir={tmp_path / 'weights'}"])
    assert metrics_of(tmp_path / "weights")["metrics"] == metrics_of(tmp_path / "tested")["metrics"]


def test_true_half_precision_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="bf16-true rounds the corners of boxes: use bf16-mixed"):
        run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.precision=bf16-true"])


def test_its_report_shows_actions_and_the_worst_key_frames(command, config, tmp_path, no_pictures):
    run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.max_steps=1"])  # which makes mistakes
    run(["test", str(tmp_path), f"--run_dir={tmp_path / 'tested'}"])
    entries = json.loads((tmp_path / "tested/worst.json").read_text())
    code, _, err = command("report", tmp_path / "tested")
    assert code == 0, err
    page = (tmp_path / "tested/report.html").read_text()
    titles = [
        '<h2 id="actions">',
        '<h2 id="confusions">',
        '<h2 id="worst-key-frames">',
        "Mean average precision at IoU",
    ]
    assert [title for title in titles if title not in page] == []
    assert page.count('alt="key frame of') == len(entries) > 0
    assert "no picture" not in page
    picture = base64.b64decode(page.partition("data:image/jpeg;base64,")[2].partition('"')[0])
    assert simplejpeg.decode_jpeg_header(picture)[:2] == (48, 64)  # the whole frame
    assert page.count("<b style") == sum(len(entry["true"]) for entry in entries)
    boxes = page.count("position:absolute")
    assert boxes == sum(len(entry["true"]) + len(entry["boxes"]) for entry in entries)


@pytest.mark.parametrize(
    "flag",
    [
        "--model.freeze=backbone",
        "--model.loss=focal",
        "--model.activation_checkpointing=true",
        "--trainer.precision=bf16-mixed",
        "--model.pooling=max",
        "--data.pixels=full",
        "--data.protocol=ava-gt-frames",
        "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging",
    ],
)
def test_a_run_with_a_setting_of_its_own(config, tmp_path, flag, no_pictures):
    run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.max_steps=4", flag])
    losses = [float(row["train/loss"]) for row in read(tmp_path / "metrics.csv") if row["train/loss"]]
    assert len(losses) == 4
    assert all(loss == loss for loss in losses)
