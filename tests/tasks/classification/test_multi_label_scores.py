"""Scores and predictions of samples with several classes, or none."""

import csv
import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from score_keepers import scores_of
from sklearn.metrics import average_precision_score, f1_score

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.loading.loader import EvalBatches
from mvrec.data.views.targets import MultiHot
from mvrec.tasks.classification.predictions import write_predictions
from mvrec.tasks.classification.scores import ClassTally
from mvrec.tasks.scores import ScoreKeeper


def random_data(seed, *, count=41, share=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 7, generator=generator)
    return logits, (torch.rand(count, 7, generator=generator) < share).float()


def test_scores_are_those_of_scikit_learn():
    for seed, (share, ties) in enumerate(itertools.product((0.02, 0.3, 0.97), (False, True))):
        logits, labels = random_data(seed, share=share)
        logits = logits.round() if ties else logits
        scores = scores_of(logits, labels, views=3)
        occurring = labels.bool().any(dim=0).numpy()
        predicted = logits.double().sigmoid().numpy()
        expected = average_precision_score(labels.numpy()[:, occurring], predicted[:, occurring], average=None)
        values = scores.average_precisions().numpy()
        assert (np.isnan(values) == ~occurring).all()
        np.testing.assert_allclose(values[occurring], expected, atol=1e-5)
        micro = f1_score(labels.numpy(), predicted > 0.5, average="micro", zero_division=0.0)
        loss = float(F.binary_cross_entropy_with_logits(logits, labels))
        means = {"map": pytest.approx(np.mean(expected), abs=1e-5), "micro_f1": pytest.approx(micro)}
        assert scores.metrics() == means | {"loss": pytest.approx(loss)}


def test_failed_samples_are_misses():
    """The recall never comes back: as if the failed sample were ranked last, below every threshold."""
    logits, labels = random_data(0, count=20)
    labels[:, 3] = 0  # a class that only a failed sample has
    failed = [BadSample(20 + n, "x", "empty", target=MultiHot(classes, 7)) for n, classes in enumerate([(0, 3), (0,)])]
    whole, scores = scores_of(logits, labels), scores_of(logits, labels, failed=failed)
    before, after = whole.average_precisions(), scores.average_precisions()
    assert math.isnan(before[3])
    assert after[3] == 0
    assert after[0] == pytest.approx(float(before[0] * labels[:, 0].sum() / (labels[:, 0].sum() + 2)))
    others = [1, 2, 4, 5, 6]
    assert torch.equal(after[others], before[others])
    truth = np.concatenate([labels.numpy(), np.zeros((2, 7))])
    truth[20, [0, 3]] = truth[21, 0] = 1
    predicted = np.concatenate([logits.sigmoid().numpy() > 0.5, np.zeros((2, 7))])
    assert scores.micro_f1() == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert scores.micro_f1() < whole.micro_f1()
    occurring = int(truth.any(axis=0).sum())
    assert scores.counts("images") == f"20/22 images scored, 2 failed, map of {occurring}/7 classes"


def test_sure_predictions_keep_their_order():
    """In float32 the sigmoid of 18 and of 25 are both 1."""
    logits = torch.tensor([[18.0], [25.0], [20.0], [-3.0]]).repeat(1, 2)
    labels = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).repeat(1, 2)
    assert scores_of(logits, labels).mean_average_precision() == 1
    assert scores_of(logits.bfloat16().requires_grad_(), labels).mean_average_precision() == 1


def test_an_empty_evaluation_scores_zero_without_a_loss():
    for failed in (0, 2):
        bad = [BadSample(n, f"{n}.mp4", "empty", target=MultiHot((1,), 4)) for n in range(failed)]
        scores = scores_of(torch.empty(0, 3), torch.empty(0, 3), failed=bad)
        assert scores.labels.shape == scores.probabilities.shape == (0, 3)
        metrics = scores.metrics()
        assert math.isnan(metrics.pop("loss"))
        assert metrics == {"map": 0.0, "micro_f1": 0.0}
        assert scores.counts() == f"0/{failed} videos scored, {failed} failed, map of {min(failed, 1)}/3 classes"


def keeper_of_rank(rank, world_size, count):
    """Return the tally of a process over the batches that the evaluation's own sampler gives it."""
    logits, labels = random_data(count, count=count, share=0.4)
    keeper = ScoreKeeper(ClassTally(7, multi_label=True), num_views=2, expected=count)
    for key in itertools.chain(*EvalBatches(count, batch_size=2, rank=rank, world_size=world_size)):
        if key.index == 5:
            target = MultiHot(tuple(labels[5].nonzero().flatten().tolist()), 7)
            keeper.fail((BadSample(5, "x.mp4", "empty", target=target),))
            continue
        views = logits[key.index].repeat(2, 1)
        views[1] -= 1
        sample = key.index if key.counted else PADDING_ID
        keeper.add(views, labels[key.index].repeat(2, 1), torch.tensor([sample, sample]))
    return keeper


def test_several_processes_score_as_one(monkeypatch):
    """13 samples, one of which fails, are divided by no number; of one sample most processes have nothing."""
    for count, world_size in itertools.product((1, 13), (2, 3, 4)):
        alone = keeper_of_rank(0, 1, count).gather()
        keepers = [keeper_of_rank(rank, world_size, count) for rank in range(world_size)]
        states = pickle.dumps([keeper._all_states()[0] for keeper in keepers])
        monkeypatch.setattr(ScoreKeeper, "_all_states", lambda keeper, states=states: pickle.loads(states))
        for scores in [keeper.gather() for keeper in keepers]:
            assert len(scores.sample_ids) == len(alone.sample_ids) == (1 if count == 1 else 12)
            assert torch.equal(scores.sample_ids, alone.sample_ids)
            assert torch.equal(scores.probabilities, alone.probabilities)
            assert torch.equal(scores.labels, alone.labels)
            assert scores.metrics() == alone.metrics()
        monkeypatch.undo()


NAMES = ["run", 'say "hi", loud', "jump", "fall down", "ü"]


def test_predictions_come_back_in_the_order_of_the_list_and_open_in_spreadsheets(tmp_path):
    logits = torch.tensor([[2.0, -1, 3, -4, 0], [-1.0, -2, -3, -4, -5], [0.0, 9, 9, 0, 0]])
    labels = torch.tensor([[1.0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    bad = [
        BadSample(1, "/data/bad, one.mp4", "cut; short", target=MultiHot((1, 3), 4)),
        BadSample(0, "none.mp4", "empty"),
    ]
    paths = [Path(f"a;{number}, x.mp4") for number in range(5)]
    scores = scores_of(logits, labels, ids=[2, 3, 4], failed=bad)
    write_predictions(tmp_path / "p.csv", scores, paths=paths, class_names=NAMES, top=3)
    assert (tmp_path / "p.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")  # UTF-8 to a spreadsheet
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    ranks = [f"{column}_{rank}" for rank in (1, 2, 3) for column in ("class", "probability")]
    assert list(rows[0]) == ["path", "labels", "predicted", *ranks, "views", "error"]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert columns["views"] == ["0", "0", "1", "1", "1"]
    assert columns["path"] == ["none.mp4", "/data/bad, one.mp4", *map(str, paths[2:])]
    classes = [set(filter(None, names.split(";"))) for names in columns["labels"]]
    assert classes == [set(), {NAMES[1], "fall down"}, {"run", NAMES[1], "ü"}, set(), {"jump"}]
    assert columns["predicted"] == ["", "", "jump;run", "", f"{NAMES[1]};jump"]
    assert columns["error"] == ["empty", "cut; short", "", "", ""]
    assert columns["class_1"][:2] == ["", ""]
    for row, probabilities in zip(rows[2:], logits.double().sigmoid(), strict=False):
        for rank in (1, 2, 3):
            probability = float(probabilities[NAMES.index(row[f"class_{rank}"])])
            assert float(row[f"probability_{rank}"]) == pytest.approx(probability, abs=1e-6)
