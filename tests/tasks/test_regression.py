"""Regression: numbers of a list are learned, scored exactly, and given in their own units."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from test_task_contract import write_grey

from mvrec.cli.lightning import run
from mvrec.data.loading.batch import BadSample
from mvrec.data.views.targets import Values
from mvrec.errors import UserError
from mvrec.runs.monitors import mode_of
from mvrec.tasks.regression.scale import ValueScale
from mvrec.tasks.regression.scores import ValueScores, ValueTally, scores_of

SCALE = ValueScale(("age", "angle"), (40.0, 0.0), (10.0, 2.0))


def test_scores_are_those_of_scikit_learn_and_scipy_also_with_ties():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 9, 40).astype(float)
    predicted = np.round(true + rng.normal(size=40))
    expected = (
        r2_score(true, predicted),
        mean_absolute_error(true, predicted),
        root_mean_squared_error(true, predicted),
        spearmanr(true, predicted).statistic,
    )
    assert list(scores_of(predicted, true).values()) == pytest.approx(expected, abs=1e-12)
    alike = scores_of(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert (alike["mae"], math.isnan(alike["r2"]), math.isnan(alike["spearman"])) == (1.0, True, True)


def scores(tally, **extent):
    return tally.scores(**{"failed": (), "expected": 3, **extent})


def test_views_on_two_processes_give_the_scores_of_one_in_the_units_of_the_list():
    outputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[30.0, 1.0], [30.0, 1.0], [40.0, -1.0], [40.0, -1.0], [55.0, 4.0], [55.0, 4.0]]).double()
    ids = [0, 0, 1, 1, 2, 2]
    whole, first, second = (ValueTally(SCALE) for _ in range(3))
    whole.add(outputs, targets, ids, range(6))
    first.add(outputs, targets, ids, (0, 3, 4))
    second.add(outputs, targets, ids, (1, 2, 5))
    first.merge(second)
    assert scores(first).metrics() == pytest.approx(scores(whole).metrics(), abs=1e-12)
    assert scores(whole).predicted[1] == pytest.approx(
        [40 + 10 * float(outputs[2:4, 0].mean()), 2 * float(outputs[2:4, 1].mean())]
    )
    assert [f"val/{name}" for name in scores(whole).metrics()] == [f"val/{n}" for n in ValueScores.names(SCALE.names)]


def test_an_unreadable_file_counts_as_predicted_by_the_mean_of_the_training_files():
    tally = ValueTally(SCALE)
    tally.add(torch.zeros(2, 2), torch.tensor([[40.0, 0.0], [40.0, 0.0]]).double(), [0, 1], (0, 1))
    failed = (BadSample(2, "x.mp4", "broken", target=Values((70.0, 6.0))),)
    assert scores(tally, failed=failed).metrics()["mae_age"] == pytest.approx(10)
    assert scores(tally, failed=failed, failed_are_wrong=False).metrics()["mae_age"] == 0
    assert scores(tally, failed=failed).chance()["mae_angle"] == pytest.approx(2)


def test_errors_are_better_when_lower_and_r2_when_higher():
    assert [mode_of(f"val/{name}") for name in ("mae", "rmse_age", "r2", "spearman_mae")][:3] == ["min", "min", "max"]


def folder(tmp_path, train, val="path,value\n1.mp4,1\n"):
    root = tmp_path / "lists"
    root.mkdir()
    (root / "train.csv").write_text(train)
    (root / "val.csv").write_text(val)
    return root


CONFIG = """
trainer: {max_epochs: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
model:
  class_path: mvrec.tasks.Regression
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    backbone:
      class_path: mvrec.models.MViT
      init_args:
        num_classes: 2
        num_frames: 4
        image_size: 32
        embed_dim: 8
        depth: 2
        dim_mults: {}
        head_mults: {}
        q_strides: {1: 2}
data:
  class_path: mvrec.data.VideoFolder
  init_args:
    root: lists
    size: 32
    clip: {num_frames: 4, stride_frames: 1}
    augment: {crop_area: [1, 1], flip_probability: 0, rand_augment: null, random_erasing: null}
    val_views: {num_clips: 1, short_side: 32}
    test_views: {num_clips: 2, short_side: 32}
    batch_size: 4
    num_workers: 0
"""


@pytest.fixture(scope="module")
def fit(tmp_path_factory) -> list[str]:
    """The beginning of a command line."""
    path = tmp_path_factory.mktemp("config") / "values.yaml"
    path.write_text(CONFIG)
    return ["fit", f"--config={path}"]


BAD = {
    "path,value\na.mp4,1\nb.mp4,\n": r"train.csv:3: value is empty",
    "path,value\na.mp4,1\nb.mp4,inf\n": r"train.csv:3: value 'inf' is not finite",
    "path;value\na.mp4;1,5\n": r"train.csv:2: value '1,5' is not a number: write a point, not a comma",
    "path,value\na.mp4,3\nb.mp4,3\n": "value is 3 for all 2 files: there is nothing to learn",
    "path,age\na.mp4,3\nb.mp4,4\n": "neither 'label' nor 'value'; .* --data.values age --model Regression",
    "path,label\na.mp4,0.37\nb.mp4,2\n": "label 0.37 is not a whole number; .* 'value' .* --model Regression",
    "path,label\na.mp4,run\nb.mp4,sit\n": "one class per file, the task regression needs numbers .*'value' instead of",
    "a.mp4 0.37\n": "or for numbers to predict `path,value`",
}


@pytest.mark.parametrize("text", BAD)
def test_a_list_that_cannot_be_learned_is_one_line_with_what_to_do(fit, tmp_path, text):
    val = text if "label" in text else "path,value\n1.mp4,1\n"
    with pytest.raises(UserError, match=BAD[text]) as error:
        run([*fit, f"--data.root={folder(tmp_path, text, val)}", f"--run_dir={tmp_path / 'run'}"])
    assert "\n" not in str(error.value)


def test_columns_are_named_by_data_values_and_values_do_not_fit_classification(fit, tmp_path):
    root = folder(tmp_path, "path,Age,x\na.mp4,3,1\nb.mp4,4,2\n", "path,Age,x\na.mp4,3,1\n")
    with pytest.raises(UserError, match="no column 'agee'; did you mean 'age'"):
        run([*fit, f"--data.root={root}", "--data.values=agee", f"--run_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=r"task classification needs .*; numbers: --model Regression"):
        run(
            [
                *fit,
                "--model=Classification",
                f"--data.root={root}",
                "--data.values=[age, x]",
                f"--run_dir={tmp_path / 'run'}",
            ]
        )


@pytest.fixture(scope="module")
def trained(fit, tmp_path_factory, no_pictures):
    """A run on grey videos: to predict are their brightness and a number that depends on it."""
    root = tmp_path_factory.mktemp("grey")
    for split, count in {"train": 12, "val": 5, "test": 4}.items():
        rows = []
        for number in range(count):
            grey = 40 + 170 * number // (count - 1)
            (root / split).mkdir(exist_ok=True)
            write_grey(root / split / f"é {number}.mp4", grey=grey, num_frames=8)
            rows.append(f"{split}/é {number}.mp4,{grey},{1000 - grey},n{number}\n")
        (root / f"{split}.csv").write_text(f"path,grey,dark,note\n{''.join(rows)}")
    folder = tmp_path_factory.mktemp("runs") / "grey"
    run([*fit, f"--data.root={root}", "--data.values=[grey, dark]", f"--run_dir={folder}"])
    run(["test", str(folder)])
    return root, folder


def read(path):
    return list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))


def test_it_learns_and_every_command_gives_values_in_the_units_of_the_list(trained, command, tmp_path):
    root, folder = trained
    results = json.loads((folder / "metrics.json").read_text())
    assert results["metrics"]["mae_grey"] < results["chance"]["mae_grey"] / 2
    tested = read(folder / "predictions.csv")
    assert list(tested[0]) == ["path", "grey", "predicted_grey", "dark", "predicted_dark", "views", "error", "note"]
    assert [(row["grey"], row["views"], row["note"]) for row in tested[:2]] == [("40", "2", "n0"), ("96", "2", "n1")]
    weights = tmp_path / "grey.safetensors"
    assert command("export", folder, "--output", weights)[0] == 0
    for file in (folder, weights):
        code, _, err = command("recognize", "--ckpt", file, root / "test", "-o", tmp_path / "r.csv")
        assert code == 0, err
        recognised = {row["path"]: float(row["dark"]) for row in read(tmp_path / "r.csv")}
        assert recognised == pytest.approx({row["path"]: float(row["predicted_dark"]) for row in tested}, rel=1e-5)
    code, out, _ = command("recognize", "--ckpt", weights, root / "test/é 0.mp4", "--format", "jsonl")
    assert list(json.loads(out)["values"]) == ["grey", "dark"]
    code, _, err = command("explain", root / "test/é 0.mp4", "--ckpt", folder, "-o", tmp_path / "x.png")
    assert (code, "its task is regression" in err) == (2, True)


def test_its_report_has_predicted_over_true_values_and_the_files_farthest_off(trained, command):
    code, _, err = command("report", trained[1])
    assert code == 0, err
    page = (trained[1] / "report.html").read_text()
    assert page.count('class="line line0 point"') == 2 * 4
    assert "Farthest off" in page
    assert "training mean for all" in page


def test_weights_of_the_same_values_keep_their_head_and_scale(fit, trained, tmp_path):
    root, folder = trained
    weights = f"--model.weights={folder / 'checkpoints/best.ckpt'}"
    data = (f"--data.root={root}", "--data.values=[grey, dark]", f"--run_dir={tmp_path}")
    again = run([*fit, weights, *data, "--trainer.fast_dev_run=true"])
    saved = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["mvrec"]
    assert again.model.facts() == {"values": saved["values"], "scaled": True}
    with pytest.raises(UserError, match=r"predicts grey, dark, the data give dark: set data.values to \[grey, dark\]"):
        run(["test", str(folder), "--data.values=[dark]", f"--run_dir={tmp_path}"])
