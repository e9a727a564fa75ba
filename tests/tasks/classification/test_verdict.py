"""A run that is not above chance says so, with the likeliest causes of this very run."""

from dataclasses import replace

import pytest

from mvrec.tasks.classification.verdict import Training, few_files_note, verdict

PLAIN = Training(
    steps=5000,
    num_files=2000,
    has_weights=True,
    freeze=0,
    layer_decay=0.75,
    peak_rate=1e-3,
    label_smoothing=0.0,
    mixes=False,
    flip_probability=0.5,
    class_names=("run", "jump"),
    losses=[0.7, 0.6, 0.55, 0.5] * 2,
)


def remarks(history=(0.25, 0.31), training=PLAIN, **options):
    values = {"count": 48, "guess": 0.25, "loss": 1.386, "noun": "videos"} | options
    return verdict(history, training, **values)


def test_a_run_at_chance_says_so_and_others_say_nothing():
    first, *causes = remarks()
    assert first == (
        "this run is not above chance: the best of 2 validations has top-1 31.00 % of 48 videos (95 % interval 20 to "
        "45 %), and chance, the most frequent class, is 25.00 %"
    )
    assert [cause.split(":")[0] for cause in causes] == ["likely cause 1", "likely cause 2"]
    assert remarks((0.25, 0.5)) == []
    assert remarks(training=replace(PLAIN, steps=19)) == []  # nothing is expected of so few
    assert remarks(()) == []


def test_files_that_cannot_show_it_are_named_instead():
    (line,) = remarks((0.5, 1.0), count=2, guess=0.5)
    assert line.startswith("2 validation videos cannot show whether this run is above chance: chance")


@pytest.mark.parametrize(
    ("changes", "causes"),
    [
        (
            {"has_weights": False, "freeze": "backbone"},
            ["the frozen backbone has random", "layer decay 0.75 on random"],
        ),
        (
            {"has_weights": False, "layer_decay": 1.0, "steps": 45, "num_files": 29},
            ["45 steps are few", "random weights"],
        ),
        ({"class_names": ("turn left", "turn_right")}, ["a mirror changes classes ('turn left', 'turn_right')"]),
        ({"class_names": ("向左", "向右")}, ["a mirror changes classes"]),
        ({"class_names": ("copyright", "leftover")}, ["labels may not"]),
        ({"class_names": ("left", "b"), "flip_probability": 0.0}, ["labels may not"]),
        ({"losses": [1.39, 1.4, 1.38, 1.39]}, ["the training loss did not fall (1.39 to 1.39): the peak"]),
        (
            {"losses": [1.4, 0.9, 0.4, 0.1], "has_weights": False, "layer_decay": 1.0, "steps": 45, "num_files": 29},
            ["the training loss fell from 1.40 to 0.10", "random weights"],  # more steps would be no help
        ),
        ({"mixes": True, "label_smoothing": 0.1}, ["mixing hides", "label smoothing 0.1"]),
        ({"freeze": "backbone"}, ["the backbone is frozen"]),
    ],
)
def test_causes_are_those_of_the_run(changes, causes):
    lines = remarks(training=replace(PLAIN, **changes))[1:]
    assert len(lines) <= 3
    for number, cause in enumerate(causes, 1):
        assert lines[number - 1].startswith(f"likely cause {number}: {cause}")


def test_few_validation_files_are_said_with_the_way_out():
    note = few_files_note(12, noun="videos", fold=None, most_folds=10, total=120)
    assert note == (
        "12 validation videos: top-1 is known to +-25 points; cross-validation knows it to +-9: "
        "--data.fold 1/5 to 5/5, a run each"
    )
    assert "--data.fold 1/2 to 2/2" in few_files_note(1, noun="videos", fold=None, most_folds=2, total=9)
    assert "more of them" in few_files_note(12, noun="images", fold=None, most_folds=0, total=120)
    assert "of all folds together" in few_files_note(12, noun="images", fold="2/5", most_folds=0, total=120)
    assert few_files_note(100, noun="videos", fold=None, most_folds=10, total=1000) == ""
