"""What an evaluation writes, read back and compared with scikit-learn."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, precision_score, recall_score

from mvrec.data.loading.batch import BadSample
from mvrec.data.views.protocol import ClipProtocol
from mvrec.data.views.targets import ClassIndex
from mvrec.files import sha256
from mvrec.tasks.classification.results import write_confusion, write_per_class
from mvrec.tasks.classification.run_results import FAILED
from mvrec.tasks.classification.scores import ClassTally
from mvrec.tasks.score_text import write_metrics
from mvrec.tasks.scores import ScoreKeeper

NAMES = ["run", 'say "hi", loud', "jump", "never seen", "<b>ü</b>"]


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def keeper_of(logits, labels, *, bad=(), **options):
    tally = ClassTally(len(NAMES), multi_label=options.pop("multi_label", False))
    keeper = ScoreKeeper(tally, num_views=1, expected=None, **options)
    keeper.add(logits, labels, torch.arange(len(labels)))
    keeper.fail(tuple(bad))
    return keeper


@pytest.fixture
def single():
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(4, (60,), generator=generator)]
    logits = torch.randn(60, 5, generator=generator) + 1.5 * torch.eye(5)[labels]
    return logits, labels


def column(rows, name):
    place = rows[0].index(name)
    return [float(row[place]) if row[place] else math.nan for row in rows[1:]]


def test_classes_are_those_of_scikit_learn(single, tmp_path):
    logits, labels = single
    write_per_class(tmp_path / "c.csv", keeper_of(logits, labels).gather(), class_names=NAMES)
    rows = read(tmp_path / "c.csv")
    assert [row[0] for row in rows[1:]] == NAMES
    predicted, options = logits.argmax(dim=1), {"labels": range(5), "average": None, "zero_division": 0}
    known = np.array([True, True, True, False, True])
    for name, measure in {"accuracy": recall_score, "precision": precision_score, "f1": f1_score}.items():
        expected = measure(labels, predicted, **options)
        assert np.array(column(rows, name))[known] == pytest.approx(expected[known], abs=1e-6), name
    assert [rows[4][rows[0].index(name)] for name in ("accuracy", "f1")] == ["", ""]  # no samples: no value
    assert column(rows, "samples") == torch.bincount(labels, minlength=5).tolist()


def test_the_confusion_matrix_is_scikit_learns_with_failures_in_a_column_of_their_own(single, tmp_path):
    logits, labels = single
    bad = [BadSample(100, "x", "empty", target=ClassIndex(2)), BadSample(101, "y", "empty", target=ClassIndex(2))]
    write_confusion(tmp_path / "c.csv", keeper_of(logits, labels, bad=bad).gather(), class_names=NAMES)
    rows = read(tmp_path / "c.csv")
    assert rows[0] == ["", *NAMES, FAILED]
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    assert (counts[:, :-1] == confusion_matrix(labels, logits.argmax(dim=1), labels=range(5))).all()
    assert counts[:, -1].tolist() == [0, 0, 2, 0, 0]


@pytest.mark.parametrize("wrong", [True, False])
def test_failed_files_count_as_wrong_or_are_left_out(single, tmp_path, wrong):
    logits, labels = single
    alone = keeper_of(logits, labels).gather()
    bad = [BadSample(100 + number, "x", "empty", target=ClassIndex(2)) for number in range(20)]
    scores = keeper_of(logits, labels, bad=bad, failed_are_wrong=wrong).gather()
    write_per_class(tmp_path / "c.csv", scores, class_names=NAMES)
    rows = read(tmp_path / "c.csv")
    count = int((labels == 2).sum())
    assert column(rows, "failed") == [0, 0, 20, 0, 0]
    assert column(rows, "samples")[2] == count + 20
    share = count / (count + 20) if wrong else 1
    assert column(rows, "accuracy")[2] == pytest.approx(float(alone.class_accuracies()[2]) * share, abs=1e-6)
    assert scores.top_k(1) == pytest.approx(alone.top_k(1) * (60 / 80 if wrong else 1))
    assert scores.mean_class_accuracy() == pytest.approx(np.nanmean(column(rows, "accuracy")), abs=1e-6)
    assert scores.counts() == f"60/80 videos scored, 20 failed{'' if wrong else ' and left out'}"


def test_classes_of_multi_label_data(tmp_path):
    generator = torch.Generator().manual_seed(4)
    labels = (torch.rand(50, 5, generator=generator) < 0.3).float()
    labels[:, 3] = 0
    logits = torch.randn(50, 5, generator=generator) + 2 * labels
    scores = keeper_of(logits, labels, multi_label=True).gather()
    write_per_class(tmp_path / "c.csv", scores, class_names=NAMES)
    rows = read(tmp_path / "c.csv")
    assert rows[0] == ["class", "samples", "average_precision", "predicted", "failed"]
    found = column(rows, "average_precision")
    for number in (0, 1, 2, 4):
        assert found[number] == pytest.approx(average_precision_score(labels[:, number], logits[:, number]), abs=1e-5)
    assert math.isnan(found[3])
    assert column(rows, "predicted") == (logits > 0).sum(dim=0).tolist()
    assert column(rows, "samples") == labels.sum(dim=0).tolist()


def test_a_file_that_fails_for_one_of_its_views_has_failed_once():
    """Processes that share its views may each meet it, or one may have read its part."""
    keeper = ScoreKeeper(ClassTally(2), num_views=2, expected=2)
    keeper.add(torch.eye(2)[[0, 0]], torch.zeros(2, dtype=torch.int64), torch.tensor([0, 0]))
    keeper.add(torch.eye(2)[[0]], torch.zeros(1, dtype=torch.int64), torch.tensor([1]))
    for cause in ("empty", "empty"):
        keeper.fail((BadSample(1, "x.mp4", cause, target=ClassIndex(0)),))
    scores = keeper.gather()
    assert (scores.sample_ids.tolist(), len(scores.failed), scores.expected) == ([0], 1, 2)
    assert scores.top_k(1) == 0.5


def test_a_score_is_written_with_its_small_print(single, tmp_path):
    logits, labels = single
    scores = keeper_of(logits, labels, bad=[BadSample(100, "x", "empty", target=ClassIndex(2))]).gather()
    facts = {"checkpoint": "last.ckpt", "class_names": NAMES}
    path = tmp_path / "deep/metrics.json"
    write_metrics(path, scores, stage="test", protocol=ClipProtocol(), noun="videos", facts=facts)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["metrics"] == pytest.approx(scores.metrics())
    assert (found["scored"], found["expected"], found["failed"], found["failed_are_wrong"]) == (60, 61, 1, True)
    assert found["protocol_text"] == str(ClipProtocol())
    assert found["protocol"]["views"]["num_clips"] == 5
    assert found["class_names"] == NAMES


def test_a_full_disk_leaves_no_half_file(single, tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    logits, labels = single
    (tmp_path / "c.csv").write_text("before")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_per_class(tmp_path / "c.csv", keeper_of(logits, labels).gather(), class_names=NAMES)
    monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("c.csv", "before")]


def test_a_checkpoint_is_known_by_its_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
