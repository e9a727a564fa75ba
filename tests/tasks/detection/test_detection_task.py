"""Detection from COCO files to a score, exactly resumed, the same on any number of processes."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from objects_on_noise import COUNTS, IDS, NAMES, objects, write_objects
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from warm import run_ranks

from mvrec.cli.lightning import run
from mvrec.errors import UserError
from mvrec.tasks.detection.coco_figures import FIGURES

FSDP = f"--config={Path(__file__).parents[3] / 'configs/overlays/fsdp.yaml'}"
CONFIG = """
trainer:
  max_epochs: 12
  check_val_every_n_epoch: 6
  accelerator: cpu
  devices: 1
  log_every_n_steps: 1
  enable_progress_bar: false
seed_everything: 0
model:
  class_path: mvrec.tasks.Detection
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.003}}
    schedule: {end_factor: 1.0}
    channels: 16
    head:
      anchor_scale: 5.0
      rpn_samples: 64
      train_proposals: 60
      test_proposals: 60
      box_width: 64
      box_samples: 32
      mask_convs: 1
    backbone:
      class_path: mvrec.models.MViT
      init_args:
        num_frames: null
        image_size: 64
        embed_dim: 16
        num_heads: 1
        depth: 3
        dim_mults: {1: 2}
        head_mults: {1: 2}
        q_strides: {1: 2}
        kv_stride: 2
        pool_kernel: [1, 3, 3]
        pos_embed: none
        cls_token: false
data:
  class_path: mvrec.data.ObjectFolder
  init_args:
    root: objects
    protocol: whole
    augment: {short_sides: null}
    batch_size: 4
    num_workers: 0
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    write_objects(root)
    return root


@pytest.fixture(scope="module")
def config(scenes, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("config") / "detection.yaml"
    path.write_text(CONFIG)
    return [f"--config={path}", f"--data.root={scenes}"]


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory, no_pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "shapes"
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


def losses_of(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in read(folder / "metrics.csv") if row["train/loss"]]


def test_it_learns_shapes_and_writes_what_it_scored(tested):
    scored = metrics_of(tested)
    assert scored["metrics"]["map_50"] > 0.7
    assert scored["metrics"]["mask_map_50"] > 0.6
    assert scored["protocol_text"].startswith("test images, whole, own size")
    assert scored["class_ids"] == list(IDS)
    assert scored["rule"] == ("mask_rcnn in mmdetection's form, scores above 0.05, NMS 0.5, at most 100 an image")
    rows, classes = read(tested / "predictions.csv"), read(tested / "per_class.csv")
    number = sum(len(objects(place)[1]) for place in range(20, 26))
    assert sum(int(row["objects"]) for row in rows) == sum(int(row["objects"]) for row in classes) == number
    assert scored["objects"] == number
    assert scored["metrics"]["map"] == pytest.approx(sum(float(row["ap"]) for row in classes) / 2, abs=1e-6)
    confusion = {row[""]: row for row in read(tested / "confusion.csv")}
    assert list(confusion) == [*NAMES, "(background)"]
    assert scored["at_best_score"]["right"] == sum(int(row["right"]) for row in classes)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_its_file_of_detections_has_the_same_figures_by_pycocotools(scenes, tested, kind):
    results = json.loads((tested / "detections.json").read_text())
    if kind == "segm":
        for row in results:
            del row["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(scenes / "annotations/instances_test.json")
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    beginning = "mask_" if kind == "segm" else ""
    values = [metrics_of(tested)["metrics"][f"{beginning}{name}"] for name, *_ in FIGURES]
    assert [-1 if value is None else value for value in values] == pytest.approx(list(judge.stats), abs=1e-12)


def test_a_run_resumes_within_an_epoch_to_the_bit(config, tmp_path, no_pictures):
    for name, steps, *flags in (("whole", 10), ("parts", 6), ("parts", 10, "--resume=auto")):
        run(["fit", *config, f"--run_dir={tmp_path / name}", f"--trainer.max_steps={steps}", *flags])
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("world", [2, 3])
def test_scores_are_those_of_one_process(trained, tested, tmp_path, world):
    for process in run_ranks(world, "test", str(trained), f"--run_dir={tmp_path}"):
        assert process.returncode == 0, process.stderr
    for name in ("predictions.csv", "per_class.csv", "confusion.csv", "detections.json", "worst.json"):
        assert (tmp_path / name).read_text() == (tested / name).read_text(), name
    assert (tmp_path / "claims.npz").read_bytes() == (tested / "claims.npz").read_bytes()
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]


@pytest.mark.parametrize(("strategy", "detector"), [("ddp", "mask_rcnn"), ("fsdp", "cascade_mask_rcnn")])
def test_two_processes_train_also_where_one_has_no_objects(config, scenes, tmp_path, strategy, detector):
    """All images of one process are empty at every step: batches are shared out by rank, image by image."""
    root = tmp_path / "objects"
    shutil.copytree(scenes, root)
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == first]
    path.write_text(json.dumps(content))
    flags = [f"--data.root={root}", "--data.batch_size=1", "--trainer.max_epochs=1", f"--run_dir={tmp_path / 'run'}"]
    flags.append(f"--model.detector={detector}")
    options = {} if strategy == "ddp" else {"strategy": None}
    more = [FSDP] if strategy == "fsdp" else []
    for process in run_ranks(2, "fit", *config, *flags, *more, **options):
        assert process.returncode == 0, process.stderr
    losses = losses_of(tmp_path / "run")
    assert len(losses) == COUNTS["train"] // 2
    assert all(0 < loss < 20 for loss in losses)


def test_an_unreadable_image_counts_as_missed_objects(trained, tested, scenes, tmp_path):
    root = tmp_path / "objects"
    shutil.copytree(scenes, root)
    (root / "test/21.png").write_bytes(b"no picture")
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    rows = read(tmp_path / "predictions.csv")
    assert [bool(row["error"]) for row in rows] == [False, True] + [False] * 4
    scored, whole = metrics_of(tmp_path), metrics_of(tested)
    assert scored["objects"] == whole["objects"]
    assert scored["metrics"]["recall_100"] < whole["metrics"]["recall_100"]
    assert scored["metrics"]["mask_recall_100"] < whole["metrics"]["mask_recall_100"]


def test_classes_in_another_order_are_matched_by_name(trained, tested, tmp_path):
    root = tmp_path / "objects"
    write_objects(root, names=NAMES[::-1], ids=(1, 2))
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]
    assert metrics_of(tmp_path)["class_ids"] == [2, 1]
    assert [row["class"] for row in read(tmp_path / "per_class.csv")] == list(NAMES)
    ids = {3: 2, 7: 1}
    before, after = (json.loads((folder / "detections.json").read_text()) for folder in (tested, tmp_path))
    assert [ids[row["category_id"]] for row in before] == [row["category_id"] for row in after]


def test_its_weights_start_another_run_with_their_head(trained, config, tmp_path, caplog):
    flags = [f"--run_dir={tmp_path}", f"--model.weights={trained}", "--trainer.max_steps=1"]
    run(["fit", *config, *flags, "--model.score_threshold=0.2"])
    assert "detects the same 2 classes: its head is kept" in caplog.text
    with pytest.raises(UserError, match="the checkpoint's head is"):
        run(["test", str(trained), f"--run_dir={tmp_path}", "--model.style=torchvision"])


def test_a_test_may_have_other_thresholds(trained, tmp_path, caplog):
    flags = ["--model.score_threshold=0.5", "--model.max_detections=1"]
    run(["test", str(trained), *flags, f"--run_dir={tmp_path}"])
    results = json.loads((tmp_path / "detections.json").read_text())
    assert min(row["score"] for row in results) > 0.5
    assert len({row["image_id"] for row in results}) == len(results)
    assert "scores above 0.5, NMS 0.5, at most 1 an image" in caplog.text
    assert "no detection" not in caplog.text
    run(["test", str(trained), "--model.score_threshold=1", f"--run_dir={tmp_path / 'none'}"])
    assert "no detection has a score above 1: train longer, or lower model.score_threshold" in caplog.text
    assert json.loads((tmp_path / "none/detections.json").read_text()) == []
    assert metrics_of(tmp_path / "none")["metrics"]["map"] == 0


def test_exported_weights_score_as_the_run_does(command, trained, tested, config, tmp_path):
    code, _, err = command("export", trained, "-o", weights := tmp_path / "x.safetensors")
    assert code == 0, err
    run(["test", *config, "--model.channels=32", f"--model.weights={weights}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]


def test_predict_writes_detections_without_a_score(trained, tested, tmp_path):
    run(["predict", str(trained), f"--run_dir={tmp_path}"])
    assert (tmp_path / "predicted.json").read_text() == (tested / "detections.json").read_text()
    assert not (tmp_path / "metrics.json").exists()


def test_its_report_shows_classes_curves_mistakes_and_the_worst_images(command, config, tmp_path, no_pictures):
    run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.max_epochs=4"])  # which makes mistakes
    run(["test", str(tmp_path), f"--run_dir={tmp_path / 'tested'}"])
    entries = json.loads((tmp_path / "tested/worst.json").read_text())
    code, _, err = command("report", tmp_path / "tested")
    assert code == 0, err
    page = (tmp_path / "tested/report.html").read_text()
    titles = ("classes", "precision-and-recall", "mistakes", "confusions", "worst-images")
    assert [title for title in titles if f'<h2 id="{title}">' not in page] == []
    assert "AP of boxes, at IoU 0.5" in page
    assert " more figures</summary>" in page
    assert page.count('alt="objects in') == len(entries) > 0
    assert "no picture" not in page
    drawn = sum(len(entry["true"]) + sum(bool(box["mistake"]) for box in entry["detected"]) for entry in entries)
    assert page.count("position:absolute") == drawn


def test_data_without_masks_need_a_detector_of_boxes(config, scenes, tmp_path):
    root = tmp_path / "objects"
    shutil.copytree(scenes, root)
    for path in root.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            del row["segmentation"]
        path.write_text(json.dumps(content))
    flags = [f"--data.root={root}", f"--run_dir={tmp_path / 'run'}", "--trainer.max_steps=1"]
    with pytest.raises(UserError, match=r"mask_rcnn learns masks.*--model\.detector faster_rcnn"):
        run(["fit", *config, *flags])
    run(["fit", *config, *flags, "--model.detector=faster_rcnn"])
    run(["test", str(tmp_path / "run"), f"--run_dir={tmp_path / 'tested'}"])
    assert list(metrics_of(tmp_path / "tested")["metrics"]) == [name for name, *_ in FIGURES]
    with pytest.raises(UserError, match="rank_by masks: faster_rcnn has no masks"):
        run(["fit", *config, *flags, "--model.detector=faster_rcnn", "--model.rank_by=masks"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.freeze=backbone"],
        ["--model.activation_checkpointing=true"],
        ["--trainer.precision=bf16-mixed"],
        ["--model.detector=retinanet"],
        ["--model.detector=cascade_mask_rcnn", "--model.rank_by=masks"],
        ["--model.style=torchvision"],
        ["--trainer.accumulate_grad_batches=2"],
        ["--trainer.gradient_clip_val=1.0"],
        ["--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"],
    ],
    ids=lambda flags: flags[0].partition(".")[2],
)
def test_a_run_with_a_setting_of_its_own(config, tmp_path, flags, no_pictures):
    run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.max_steps=4", *flags])
    losses = losses_of(tmp_path)
    assert losses
    assert all(loss == loss for loss in losses)


def test_the_maps_are_compiled_and_the_head_is_not(config, tmp_path, monkeypatch, no_pictures):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__name__) or function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.max_steps=1", "--model.compile=true"])
    assert compiled == ["feature_maps"]


def test_true_half_precision_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="bf16-true rounds the corners of boxes: use bf16-mixed"):
        run(["fit", *config, f"--run_dir={tmp_path}", "--trainer.precision=bf16-true"])
