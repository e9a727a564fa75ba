"""Scores and predictions of samples with several classes, or none."""

import csv
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score
from warm import HANG

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.loading.loader import EvalBatches
from mvrec.data.views.targets import MultiHot
from mvrec.tasks.classification.predictions import write_predictions
from mvrec.tasks.classification.scores import ClassTally, MultiLabelScores
from mvrec.tasks.scores import ScoreKeeper


def keeper_of(logits, labels, *, failed=(), views=1):
    """A keeper that has seen all samples, each with as many equal views."""
    keeper = ScoreKeeper(
        ClassTally(logits.shape[1], multi_label=True), num_views=views, expected=len(logits) + len(failed)
    )
    for _ in range(views):
        keeper.add(logits, labels, torch.arange(len(logits)))
    keeper.fail(tuple(failed))
    return keeper


def scores_of(logits, labels, **more) -> MultiLabelScores:
    scores = keeper_of(logits, labels, **more).gather()
    assert isinstance(scores, MultiLabelScores)
    return scores


def random_data(seed, *, count=41, num_classes=7, share=0.3, ties=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, num_classes, generator=generator)
    labels = (torch.rand(count, num_classes, generator=generator) < share).float()
    return (logits.round() if ties else logits), labels


def test_average_precision_worked_by_hand():
    """One class found at ranks 1 and 3, one at rank 2 only, one without samples."""
    logits = torch.tensor([[3.0, 2.0, 1.0], [2.0, 3.0, -1.0], [1.0, 1.0, -1.0], [-9.0, 0.0, -1.0]])
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    scores = scores_of(logits, labels)
    values = scores.average_precisions()
    assert values[:2].tolist() == pytest.approx([(1 / 1 + 2 / 3) / 2, 1 / 2])
    assert math.isnan(values[2])
    metrics = scores.metrics()
    assert list(metrics) == ["map", "micro_f1", "loss"]
    assert metrics["map"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (7 + 3))  # sigmoid(0) is not above one half
    assert metrics["loss"] == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, labels)))
    assert scores.counts() == "4/4 videos scored, 0 failed, map of 2/3 classes"
    assert scores.labels.dtype == torch.bool


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.97])
def test_scores_are_those_of_scikit_learn(seed, ties, share):
    logits, labels = random_data(seed, ties=ties, share=share)
    scores = scores_of(logits, labels, views=3)
    occurring = labels.bool().any(dim=0).numpy()
    truth, predicted = labels.numpy()[:, occurring], logits.double().sigmoid().numpy()
    expected = [average_precision_score(truth[:, k], predicted[:, occurring][:, k]) for k in range(occurring.sum())]
    values = scores.average_precisions().numpy()
    assert (np.isnan(values) == ~occurring).all()
    np.testing.assert_allclose(values[occurring], expected, atol=1e-5)
    if occurring.any():
        macro = average_precision_score(truth, predicted[:, occurring], average="macro")
        assert scores.mean_average_precision() == pytest.approx(macro, abs=1e-5)
    assert scores.micro_f1() == pytest.approx(
        f1_score(labels.numpy(), predicted > 0.5, average="micro", zero_division=0.0)
    )


@pytest.mark.parametrize("seed", range(5))
def test_failed_samples_are_misses(seed):
    """The recall never comes back: as if the failed sample were ranked last and found by no threshold."""
    logits, labels = random_data(seed, count=20)
    labels[:, 3] = 0  # a class that only a failed sample has
    failed = [
        BadSample(20, "x.mp4", "empty", target=MultiHot((0, 3), 4)),
        BadSample(21, "y.mp4", "empty", target=MultiHot((0,), 4)),
    ]
    whole, scores = scores_of(logits, labels), scores_of(logits, labels, failed=failed)
    before, after = whole.average_precisions(), scores.average_precisions()
    assert math.isnan(before[3])
    assert after[3] == 0
    assert after[0] == pytest.approx(float(before[0] * labels[:, 0].sum() / (labels[:, 0].sum() + 2)))
    others = [1, 2, 4, 5, 6]
    assert torch.equal(after[others], before[others])
    assert scores.mean_average_precision() < whole.mean_average_precision()
    assert scores.micro_f1() < whole.micro_f1()
    truth = np.concatenate([labels.numpy(), np.zeros((2, 7))])
    truth[20, [0, 3]] = truth[21, 0] = 1
    predicted = np.concatenate([logits.sigmoid().numpy() > 0.5, np.zeros((2, 7))])
    assert scores.micro_f1() == pytest.approx(f1_score(truth, predicted, average="micro"))
    occurring = int(truth.any(axis=0).sum())
    assert scores.counts("images") == f"20/22 images scored, 2 failed, map of {occurring}/7 classes"


def test_views_are_averaged_after_the_sigmoid_wherever_they_come():
    keeper = ScoreKeeper(ClassTally(2, multi_label=True), num_views=3, expected=2)
    views = {4: [[5.0, -1.0], [-2.0, 1.0], [0.5, 0.0]], 0: [[1.0, 1.0], [2.0, 2.0], [-8.0, 3.0]]}
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for number in range(3):
        keeper.add(torch.tensor([views[4][number], views[0][number]]), labels, torch.tensor([4, 0]))
    keeper.add(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([PADDING_ID]))
    scores = keeper.gather()
    assert scores.sample_ids.tolist() == [0, 4]
    assert scores.labels.tolist() == [[False, False], [True, False]]
    expected = torch.tensor([views[0], views[4]], dtype=torch.float64).sigmoid().mean(dim=1)
    torch.testing.assert_close(scores.probabilities, expected, atol=1e-12, rtol=0)


def test_sure_predictions_keep_their_order():
    """In float32 the sigmoid of 18 and of 25 are both 1."""
    logits = torch.tensor([[18.0], [25.0], [20.0], [-3.0]]).repeat(1, 2)
    labels = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).repeat(1, 2)
    assert scores_of(logits, labels).mean_average_precision() == 1
    assert scores_of(logits.bfloat16().requires_grad_(), labels).mean_average_precision() == 1


@pytest.mark.parametrize("failed", [0, 2])
def test_nothing_to_score(failed):
    bad = [BadSample(n, f"{n}.mp4", "empty", target=MultiHot((1,), 4)) for n in range(failed)]
    scores = scores_of(torch.empty(0, 3), torch.empty(0, 3), failed=bad)
    assert scores.labels.shape == scores.probabilities.shape == (0, 3)
    metrics = scores.metrics()
    assert math.isnan(metrics.pop("loss"))
    assert metrics == {"map": 0.0, "micro_f1": 0.0}
    assert scores.counts() == f"0/{failed} videos scored, {failed} failed, map of {min(failed, 1)}/3 classes"


def test_labels_of_the_other_kind_are_our_fault():
    keeper = ScoreKeeper(ClassTally(3, multi_label=True), num_views=1, expected=1)
    with pytest.raises(AssertionError):
        keeper.add(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([0]))


# -- several processes --------------------------------------------------------------------------------------------


def _score_part(rank, world_size, store, answer):
    """Views in a different split per process: the batches are those of the evaluation's own sampler."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        answer.put((rank, _scores_of_rank(rank, world_size, 1), _scores_of_rank(rank, world_size, 13)))
    except Exception as error:  # nobody else would hear of it
        answer.put((rank, repr(error)))
    finally:
        dist.destroy_process_group()


def _scores_of_rank(rank, world_size, count):
    logits, labels = random_data(count, count=count, share=0.4)
    keeper = ScoreKeeper(ClassTally(7, multi_label=True), num_views=2, expected=count)
    for keys in EvalBatches(count, batch_size=2, rank=rank, world_size=world_size):
        for key in keys:
            if key.index == 5:
                keeper.fail(
                    (BadSample(5, "x.mp4", "empty", target=MultiHot(tuple(labels[5].nonzero().flatten().tolist()), 7)),)
                )
                continue
            views = logits[key.index].repeat(2, 1)
            views[1] -= 1
            sample = key.index if key.counted else PADDING_ID
            keeper.add(views, labels[key.index].repeat(2, 1), torch.tensor([sample, sample]))
    scores = keeper.gather()
    return scores.sample_ids.tolist(), scores.probabilities.tolist(), scores.labels.tolist(), scores.metrics()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_processes_scores_the_same(tmp_path, world_size):
    """13 samples, one of which fails, are divided by none; of one sample most processes have nothing."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    store = tmp_path / "store"
    arguments = [(rank, world_size, store, answer) for rank in range(world_size)]
    processes = [context.Process(target=_score_part, args=given) for given in arguments]
    for process in processes:
        process.start()
    answers = [answer.get(timeout=HANG) for _ in processes]
    for process in processes:
        process.join(timeout=HANG)
    assert [process.exitcode for process in processes] == [0] * world_size
    alone = [_scores_of_rank(0, 1, count) for count in (1, 13)]
    assert len(alone[1][0]) == 12
    for _, *found in answers:
        assert found == alone


# -- predictions --------------------------------------------------------------------------------------------------

NAMES = ["run", 'say "hi", loud', "jump", "fall down", "ü"]


def test_predictions_come_back_as_they_were(tmp_path):
    logits = torch.tensor([[2.0, -1, 3, -4, 0], [-1.0, -2, -3, -4, -5], [0.0, 9, 9, 0, 0]])
    labels = torch.tensor([[1.0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    bad = [
        BadSample(4, "/data/bad, one.mp4", "cut; short", target=MultiHot((1, 3), 4)),
        BadSample(3, "none.mp4", "empty"),
    ]
    scores = scores_of(logits, labels, failed=bad)
    paths = [Path(f"a;{number}, x.mp4") for number in range(5)]
    write_predictions(tmp_path / "p.csv", scores, paths=paths, class_names=NAMES, top=3)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ranks = [f"{what}_{rank}" for rank in (1, 2, 3) for what in ("class", "probability")]
    assert list(rows[0]) == ["path", "labels", "predicted", *ranks, "views", "error"]
    assert [row["views"] for row in rows] == ["1", "1", "1", "0", "0"]
    assert [row["path"] for row in rows] == [*map(str, paths[:3]), "none.mp4", "/data/bad, one.mp4"]

    def sets(column):
        return [set(filter(None, row[column].split(";"))) for row in rows]

    assert sets("labels") == [{"run", NAMES[1], "ü"}, set(), {"jump"}, set(), {NAMES[1], "fall down"}]
    assert [row["predicted"] for row in rows] == ["jump;run", "", f"{NAMES[1]};jump", "", ""]
    probabilities = logits.double().sigmoid()
    for row, values in zip(rows, probabilities, strict=False):
        for rank in (1, 2, 3):
            number = NAMES.index(row[f"class_{rank}"])
            assert float(row[f"probability_{rank}"]) == pytest.approx(float(values[number]), abs=1e-6)
        assert row["error"] == ""
    assert [row["error"] for row in rows[3:]] == ["empty", "cut; short"]
    assert [row["class_1"] for row in rows[3:]] == ["", ""]
