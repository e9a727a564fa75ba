"""Scores of segmentation, next to those that mmsegmentation's IoUMetric recorded."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mvrec.data.loading.batch import BadSample
from mvrec.data.views.targets import NOT_LABELLED, MaskMap
from mvrec.tasks.scores import ScoreKeeper
from mvrec.tasks.segmentation.class_numbers import ClassNumbers
from mvrec.tasks.segmentation.image_counts import PixelCounts
from mvrec.tasks.segmentation.scores import KEPT, MaskTally, confusions

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/dense/seg_iou_mmseg_k6.json").read_text())


def keeper(tally, expected=None):
    return ScoreKeeper(tally, num_views=1, expected=expected)


def scored(predicted, true, *, num_classes, processes=1, order=None, failed=(), merge=True):
    """Scores of images, which several processes share out."""
    keepers = [keeper(MaskTally(num_classes), len(true)) for _ in range(processes)]
    for place, sample in enumerate(order or range(len(true))):
        if sample in failed:
            target = MaskMap(np.asarray(true[sample], np.uint8))
            keepers[0].fail((BadSample(sample, f"{sample}.png", "damaged", target=target),))
            continue
        maps = [torch.tensor(np.asarray(predicted[sample]), dtype=torch.uint8)]
        targets = torch.tensor(np.asarray(true[sample]), dtype=torch.int64)[None]
        keepers[place % processes].add(maps, targets, torch.tensor([sample]))
    first, *others = keepers
    for other in others:
        first.tally.merge(other.tally)
        first._views |= other._views
    return first.gather()


def golden_maps():
    return GOLDEN["input"]["predictions"], GOLDEN["input"]["labels"]


def test_counts_and_means_are_those_of_mmsegmentation():
    scores, recorded = scored(*golden_maps(), num_classes=6), GOLDEN["outputs"]
    confusion = scores.confusion()
    assert np.diag(confusion).tolist() == recorded["intersect"]
    assert confusion.sum(axis=0).tolist() == recorded["predicted"]
    nan = [math.nan if value is None else value for value in recorded["IoU"]]
    np.testing.assert_allclose(scores.ious(), nan, atol=1e-6)
    nan = [math.nan if value is None else value for value in recorded["Acc"]]
    np.testing.assert_allclose(scores.accuracies(), nan, atol=1e-6)
    assert scores.metrics()["miou"] == pytest.approx(recorded["mIoU_float64"], abs=1e-9)
    assert scores.metrics()["pixel_accuracy"] == pytest.approx(recorded["aAcc"], abs=1e-6)


def test_counts_of_images_give_the_score_of_any_draw_of_them():
    predicted, true = golden_maps()
    failed = (1,)
    scores = scored(predicted, true, num_classes=6, failed=failed)
    counts = PixelCounts.of(scores)
    whole = np.ones((1, len(true)))
    assert counts.scores(whole)[0] == pytest.approx(scores.metrics()["miou"], abs=1e-12)
    drawn = np.array([2, *([1] * (len(true) - 2)), 0])
    maps = [[values[place] for place in np.repeat(np.arange(len(true)), drawn)] for values in (predicted, true)]
    figure = scored(*maps, num_classes=6, failed=(2,)).metrics()["miou"]
    assert counts.scores(drawn[None] * 1.0)[0] == pytest.approx(figure, abs=1e-12)
    assert counts.joined(counts).scores(np.append(0 * drawn, drawn)[None] * 1.0)[0] == pytest.approx(figure, abs=1e-12)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_scores_are_equal_on_any_number_of_processes_in_any_order(processes):
    predicted, true = golden_maps()
    order = list(range(len(true)))[::-1]
    whole, shared = (
        scored(predicted, true, num_classes=6, processes=n, order=o) for n, o in ((1, None), (processes, order))
    )
    assert whole.metrics() == shared.metrics()
    assert whole.sample_ids.tolist() == shared.sample_ids.tolist()
    assert [image.pixels.tolist() for image in whole.images] == [image.pixels.tolist() for image in shared.images]


def test_unlabelled_pixels_count_nowhere():
    counts = confusions(np.array([[0, 1, 1]], np.uint8), np.array([[0, NOT_LABELLED, 0]], np.uint8), 2)
    assert counts.tolist() == [[1, 1], [0, 0]]


def test_pixels_of_an_unreadable_image_are_missed():
    true = [[[0, 0]], [[1, NOT_LABELLED]]]
    scores = scored(true, true, num_classes=2, failed={1})
    assert scores.missed().tolist() == [0, 1]
    assert scores.metrics() == {"miou": 0.5, "mean_accuracy": 0.5, "pixel_accuracy": 2 / 3}
    assert "1 failed" in scores.counts("images")


def test_an_image_with_logits_that_are_not_finite_fails_with_its_pixels():
    scorer = keeper(MaskTally(2), 1)
    scorer.add([None], torch.tensor([[[0, 1, 1]]]), torch.tensor([0]))
    scores = scorer.gather()
    assert scores.missed().tolist() == [1, 2]
    assert scores.metrics()["pixel_accuracy"] == 0


def test_chance_is_the_most_frequent_class_for_every_pixel():
    true = [[[0, 0, 0, 1]]]
    chance, guess = (scored(predicted, true, num_classes=3) for predicted in (true, [[[0, 0, 0, 0]]]))
    assert chance.chance() == pytest.approx(guess.metrics())


def test_the_maps_of_the_worst_images_are_kept():
    rng = np.random.default_rng(0)
    true = [np.zeros((4, 5), np.uint8) for _ in range(KEPT + 8)]
    predicted = [(rng.random((4, 5)) < number / len(true)).astype(np.uint8) for number in range(len(true))]
    single, shared = (scored(predicted, true, num_classes=2, processes=n) for n in (1, 3))
    accuracies = [float((image == 0).mean()) for image in predicted]
    best_kept = max(accuracies[sample] for sample in single.worst)
    assert sum(accuracy < best_kept for accuracy in accuracies) <= KEPT == len(single.worst)
    assert single.worst.keys() == shared.worst.keys()
    sample = min(single.worst)
    assert single.worst[sample].maps().tolist() == [predicted[sample].tolist(), true[sample].tolist()]


def test_class_numbers_follow_the_names():
    numbers = ClassNumbers(["sky", "sea", "land"], ["land", "sky", "sea"])
    mask = torch.tensor([[0, 1, 2, NOT_LABELLED]])
    assert numbers.labels(mask).tolist() == [[2, 0, 1, NOT_LABELLED]]
    assert ClassNumbers(["a", "b"], ["a", "b"]).order is None
