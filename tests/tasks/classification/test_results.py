"""Files of an evaluation, read back and compared with scikit-learn."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from score_keepers import scores_of
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from mvrec.data.loading.batch import BadSample
from mvrec.data.views.protocol import ClipProtocol
from mvrec.data.views.targets import ClassIndex
from mvrec.files import sha256
from mvrec.tasks.classification.results import write_confusion, write_per_class
from mvrec.tasks.classification.run_results import FAILED
from mvrec.tasks.score_text import write_metrics

NAMES = ["run", 'say "hi", loud', "jump", "never seen", "<b>ü</b>"]
GENERATOR = torch.Generator().manual_seed(3)
LABELS = torch.tensor([0, 1, 2, 4])[torch.randint(4, (60,), generator=GENERATOR)]
LOGITS = torch.randn(60, 5, generator=GENERATOR) + 1.5 * torch.eye(5)[LABELS]


def jumps_that_failed(count):
    return [BadSample(100 + number, "x", "empty", target=ClassIndex(2)) for number in range(count)]


def read(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


def per_class(folder, scores):
    """The columns of the file of classes, by name; empty cells are nan."""
    write_per_class(folder / "classes.csv", scores, class_names=NAMES)
    header, *rows = read(folder / "classes.csv")
    assert [row[0] for row in rows] == NAMES
    return {name: [float(row[i]) if row[i] else math.nan for row in rows] for i, name in enumerate(header) if i}


def test_classes_and_confusions_are_those_of_scikit_learn(tmp_path):
    columns = per_class(tmp_path, scores_of(LOGITS, LABELS))
    predicted, options = LOGITS.argmax(dim=1), {"labels": range(5), "average": None, "zero_division": 0}
    occurring = np.array([True, True, True, False, True])
    for name, measure in {"accuracy": recall_score, "precision": precision_score, "f1": f1_score}.items():
        expected = measure(LABELS, predicted, **options)
        assert np.array(columns[name])[occurring] == pytest.approx(expected[occurring], abs=1e-6), name
    assert math.isnan(columns["accuracy"][3])
    assert math.isnan(columns["f1"][3])
    assert columns["samples"] == torch.bincount(LABELS, minlength=5).tolist()

    write_confusion(tmp_path / "c.csv", scores_of(LOGITS, LABELS, failed=jumps_that_failed(2)), class_names=NAMES)
    header, *rows = read(tmp_path / "c.csv")
    assert header == ["", *NAMES, FAILED]
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert (counts[:, :-1] == confusion_matrix(LABELS, predicted, labels=range(5))).all()
    assert counts[:, -1].tolist() == [0, 0, 2, 0, 0]


@pytest.mark.parametrize("wrong", [True, False])
def test_failed_files_count_as_wrong_or_are_left_out(tmp_path, wrong):
    alone = scores_of(LOGITS, LABELS)
    scores = scores_of(LOGITS, LABELS, failed=jumps_that_failed(20), failed_are_wrong=wrong)
    columns = per_class(tmp_path, scores)
    count = int((LABELS == 2).sum())
    assert columns["failed"] == [0, 0, 20, 0, 0]
    assert columns["samples"][2] == count + 20
    share = count / (count + 20) if wrong else 1
    assert columns["accuracy"][2] == pytest.approx(float(alone.class_accuracies()[2]) * share, abs=1e-6)
    assert scores.top_k(1) == pytest.approx(alone.top_k(1) * (60 / 80 if wrong else 1))
    assert scores.mean_class_accuracy() == pytest.approx(np.nanmean(columns["accuracy"]), abs=1e-6)
    assert scores.counts() == f"60/80 videos scored, 20 failed{'' if wrong else ' and left out'}"


def test_per_class_of_multi_label_data_has_average_precisions(tmp_path):
    labels = torch.eye(5)[LABELS] + torch.eye(5)[LABELS.roll(1)] > 0  # of class 3 none
    scores = scores_of(LOGITS, labels.float())
    columns = per_class(tmp_path, scores)
    assert list(columns) == ["samples", "average_precision", "predicted", "failed"]
    values = scores.average_precisions().tolist()
    assert columns["average_precision"] == pytest.approx(values, abs=1e-6, nan_ok=True)
    assert math.isnan(values[3])
    assert columns["predicted"] == (LOGITS > 0).sum(dim=0).tolist()
    assert columns["samples"] == labels.sum(dim=0).tolist()


def test_a_score_is_written_with_its_context(tmp_path):
    scores = scores_of(LOGITS, LABELS, failed=jumps_that_failed(1))
    facts = {"checkpoint": "last.ckpt", "class_names": NAMES}
    path = tmp_path / "deep/metrics.json"
    write_metrics(path, scores, stage="test", protocol=ClipProtocol(), noun="videos", facts=facts)
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert entries["metrics"] == pytest.approx(scores.metrics())
    assert (entries["scored"], entries["expected"], entries["failed"], entries["failed_are_wrong"]) == (60, 61, 1, True)
    assert entries["protocol_text"] == str(ClipProtocol())
    assert entries["protocol"]["views"]["num_clips"] == 5
    assert entries["class_names"] == NAMES


def test_sha256_is_the_published_one(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
