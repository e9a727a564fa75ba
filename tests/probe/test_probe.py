"""Probes equal scikit-learn and torch called by hand, and the command keeps what it has computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from mvrec.cli.main import main
from mvrec.data.generated.digit_images import generate_digit_images
from mvrec.probe.attentive import AttentivePooling, Tokens, attentive
from mvrec.probe.curve import Point, drawn
from mvrec.probe.heads import STRENGTHS, Probe, folds_of, knn, linear
from mvrec.probe.result import Result, advice


@pytest.fixture(scope="module")
def clouds():
    """Vectors of three overlapping classes in 40 groups: those to learn from with labels and groups, and others."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 160), rng.integers(0, 40, 160)
    centres = rng.normal(size=(3, 12))
    vectors = centres[labels] + rng.normal(scale=1.5, size=(160, 12))
    return vectors, labels, groups, rng.normal(size=(50, 12))


def test_linear_probe_equals_scikit_learn_by_hand(clouds):
    vectors, labels, groups, others = clouds
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring="accuracy", cv=folds)
    search.fit(vectors, labels, groups=groups)
    probe, strength = linear(vectors, labels, folds_of(labels, groups), others)
    assert strength == search.best_params_["logisticregression__C"] < max(STRENGTHS)
    assert probe.answers.tolist() == search.predict(others).tolist()
    assert list(probe.scores.values()) == pytest.approx(search.cv_results_["mean_test_score"].tolist())


def test_folds_keep_groups_together_and_score_every_file_once(clouds):
    _, labels, groups, _ = clouds
    for target in (labels, np.stack([labels == 0, labels > 0], 1)):
        folds = folds_of(target, groups)
        assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(labels)))
        assert not any(set(groups[learned]) & set(groups[held_out]) for learned, held_out in folds)


def test_several_classes_per_file_get_probabilities_that_rank(clouds):
    vectors, labels, groups, _ = clouds
    target = np.stack([labels == 0, labels != 1], 1)
    learned, truth = target[:120], target[120:]
    folds = folds_of(learned, groups[:120])
    for probe in (
        knn(vectors[:120], learned, folds, vectors[120:]),
        linear(vectors[:120], learned, folds, vectors[120:])[0],
    ):
        assert probe.answers.shape == (40, 2)
        assert average_precision_score(truth, probe.answers) > truth.mean() + 0.2


def test_attentive_pooling_is_attention_of_one_query():
    torch.manual_seed(0)
    pooling, attention = (
        AttentivePooling(128, 5).double().eval(),
        nn.MultiheadAttention(128, 2, batch_first=True).double(),
    )
    query, tokens = torch.randn(128, dtype=torch.float64), torch.randn(3, 7, 128, dtype=torch.float64)
    of_query, of_keys, of_values = attention.in_proj_weight.chunk(3)
    with torch.no_grad():
        attention.out_proj.weight.copy_(torch.eye(128))
        folded = (of_query @ query).unflatten(0, (2, 64))[:, :, None] * of_keys.unflatten(0, (2, 64))
        pooling.queries.copy_(folded.sum(1) / 64**0.5)
        pooling.values.weight.copy_(of_values)
        pooling.values.bias.copy_(attention.in_proj_bias[256:])
        normed = pooling.before(tokens.flatten(0, 1)).view_as(tokens)
        pooled = attention(query.expand(3, 1, 128), normed, normed)[0][:, 0]
        torch.testing.assert_close(pooling(tokens), pooling.head(pooling.after(pooled)), rtol=0, atol=1e-12)


def test_attentive_probe_learns_from_maps_whose_mean_is_zero(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    for number, label in enumerate(labels):
        tokens = rng.normal(size=(1, 8, 4, 4)).astype(np.float32)  # (V, C, h, w)
        tokens[0, :, rng.integers(4), rng.integers(4)] = 6 * np.eye(8)[label]
        tokens[0] -= tokens[0].mean((1, 2), keepdims=True)  # the mean of all places is zero
        np.save(tmp_path / f"{number}.npy", tokens)
    stems = [tmp_path / str(number) for number in range(60)]
    folds = folds_of(labels[:40], np.arange(40))[:2]
    probe = attentive(
        Tokens(stems[:40]), labels[:40], folds, Tokens(stems[40:]), num_classes=2, device=torch.device("cpu")
    )
    assert (probe.answers == labels[40:]).mean() >= 0.9


def test_labels_are_drawn_per_class():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 9 + [1] * 2 + [2] * 5)
    assert np.bincount(labels[drawn(labels, 3, rng)]).tolist() == [3, 2, 3]
    several = np.array([[1, 1]] * 4 + [[1, 0]] * 4, bool)
    assert several[drawn(several, 3, rng)].sum(0).min() == 3


POINTS = [Point(count, 10 * count, score, score - 0.02, score + 0.02, 5) for count, score in ((5, 0.6), (10, 0.7))]


@pytest.mark.parametrize(
    ("right", "points", "start"),
    [
        (30, POINTS, "fine-tune: linear reaches 30.0 % of 100 files and chance 25.0 %"),
        (96, POINTS, "a probe is enough: linear reaches 96.0 %"),
        (70, POINTS, "more labels: from 5 to 10 files per class the linear probe gained 10.0 points"),
        (70, [POINTS[1], Point(20, 200, 0.715, 0.715, 0.715, 1)], "fine-tune: linear stays at 70.0 %, and with more"),
        (70, POINTS[:1], "fine-tune: linear stays at 70.0 %, and there are too few labels for a curve"),
    ],
)
def test_advice_follows_the_stated_rules(right, points, start):
    truth = np.zeros(100, int)
    answers = (np.arange(100) >= right).astype(int)
    result = Result(
        network="net", has_weights=True, protocol="", split="val", width=8, files=40, groups=40, truth=truth,
        chance=0.25, probes=[Probe("linear", "C = 1", {}, answers, 1.0)], points=points, enough=0.95, left_out=0,
    )  # fmt: skip
    assert advice(result).startswith(start)


@pytest.fixture
def probed(tmp_path, monkeypatch, capsys):
    """Probe a few images of digits with a network without weights, and return the lines of the command."""
    monkeypatch.chdir(tmp_path)
    generate_digit_images(tmp_path / "digits", images_per_class={"train": 3, "val": 1, "test": 1}, size=32)
    flags = ["--data", "mvrec.data.ImageFolder", "--data.root", "digits", "--data.size", "32"]

    def run(*more: str) -> str:
        main(["probe", "demo_images_shunted", *flags, *more])
        return capsys.readouterr().out

    return run


def test_a_second_run_reads_nothing_and_answers_the_same(tmp_path, probed):
    text = probed()
    assert "the network has no weights" in text
    assert "vectors of 192; 30 files of train" in text
    results = [(tmp_path / "probe" / name).read_bytes() for name in ("probe.json", "probe.html")]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "probe/features").rglob("*.npy")}
    assert len(written) == 40
    probed()
    assert [(tmp_path / "probe" / name).read_bytes() for name in ("probe.json", "probe.html")] == results
    assert {path: path.stat().st_mtime_ns for path in written} == written
    broken, changed = sorted((tmp_path / "digits/train/7").iterdir())[:2]
    broken.write_bytes(b"no image")
    changed.write_bytes((sorted((tmp_path / "digits/train/3").iterdir())[0]).read_bytes())
    assert "left out because unreadable: 1 file\n" in probed("--probes", "linear", "--test")
    assert sum(path.stat().st_mtime_ns != time for path, time in written.items()) == 1
    fields = json.loads((tmp_path / "probe/probe.json").read_text())
    assert (fields["split"], fields["files"]["train"], len(fields["curve"])) == ("test", 29, 3)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nothing"], "there is no checkpoint 'nothing'"),
        (["demo_images_shunted", "--probes", "kn"], "--probes: there is no probe 'kn'; did you mean 'knn'?"),
        (["demo_images_shunted", "--enough", "95"], "--enough must lie in 0..1, got 95"),
        (["demo_segmentation"], "a probe takes videos or images with classes, not "),
    ],
)
def test_faults_are_named(arguments, fault, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(SystemExit):
        main(["probe", *arguments])
    assert fault in capsys.readouterr().err
