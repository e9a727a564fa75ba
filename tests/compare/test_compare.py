import csv
import json
import math
import re

import numpy as np
import pytest

from mvrec.cli.main import main
from mvrec.compare.outcomes import TableRun
from mvrec.compare.scored import ScoredRun, sorted_keys
from mvrec.compare.statistics import difference_interval, drawn_scores, mcnemar, percentiles, swap_test
from mvrec.compare.tables import NUMBERS
from mvrec.tasks.segmentation.image_counts import PixelCounts

PROTOCOL = {"kind": "images", "size": 32, "resize": 40}
NAMES = ["cat", "<dog>"]


def write_run(folder, answers, **changes):
    """A tested run whose answer to each file, by name, is right or not; `changes` replace parts of metrics.json."""
    folder.mkdir(parents=True)
    columns = ["path", "label", "class_1", "probability_1", "error"]
    rows = [
        (f"{changes.get('root', '/data')}/{name}", NAMES[place % 2], NAMES[(place + 1 - right) % 2], 0.9, "")
        for place, (name, right) in enumerate(answers.items())
    ]
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    score = {"metrics": {"top1": sum(answers.values()) / len(answers)}, "task": "classification", "split": "test"}
    score |= {"expected": len(answers), "noun": "images", "protocol": PROTOCOL, "class_names": NAMES}
    score |= {"data": {"root": changes.pop("root", "/data")}, "protocol_text": "test images"} | changes
    (folder / "metrics.json").write_text(json.dumps(score))
    seed = changes.get("seed")
    settings = f"model: {{name: {folder.name}}}" if seed is None else f"seed_everything: {seed}\nmodel: {{name: same}}"
    (folder / "config.yaml").write_text(f"run_dir: {folder}\n{settings}\n")
    return folder


def answers_of(rights):
    return {f"{number}.jpg": int(right) for number, right in enumerate(rights)}


def simulated(generator, files, *, first, second, both):
    """Return whether each of two runs is right on each file, with their shares and that of files both have right."""
    cells = generator.choice(4, size=files, p=[both, first - both, second - both, 1 - first - second + both])
    return np.isin(cells, (0, 1)), np.isin(cells, (0, 2))


def test_the_interval_covers_the_true_difference_as_often_as_it_says_and_alarms_are_as_rare():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        base, other = simulated(generator, 400, first=0.7, second=0.76, both=0.6)
        low, high = difference_interval(other.astype(float) - base, repeats=1000)
        covered += low <= 0.06 <= high
    assert 930 <= covered <= 970
    alarms = sum(mcnemar(*simulated(generator, 400, first=0.7, second=0.7, both=0.6)).p < 0.05 for _ in range(1000))
    assert alarms <= 50


def test_clips_of_one_video_count_as_one_draw():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):  # 60 videos of 10 clips, which are right or wrong together
        base, other = simulated(generator, 60, first=0.6, second=0.7, both=0.5)
        differences = np.repeat(other.astype(float) - base, 10)
        low, high = difference_interval(differences, np.repeat(np.arange(60), 10), repeats=1000)
        covered += low <= 0.1 <= high
    assert covered >= 182
    assert math.isclose(mcnemar(np.array([1] * 9 + [0] * 2, bool), np.array([0] * 9 + [1] * 2, bool)).p, 134 / 2048)


def simulated_pixels(generator, images, *, share):
    """Counts of images with 5 classes, most of them in few images; their mean IoU is about the share."""
    true = generator.poisson(200, (images, 5)) * (generator.random((images, 5)) < 0.5)
    easy = generator.beta(8 * share, 8 * (1 - share), (images, 1))  # an image is hard or easy in all classes
    right = generator.binomial(true, easy)
    return PixelCounts(right, true, right + generator.binomial(50, 1 - share, (images, 5)))


def test_a_score_that_is_no_mean_over_files_has_an_interval_and_a_test_that_hold():
    generator = np.random.default_rng(0)
    rows = groups = np.arange(80)
    ones = np.ones((1, 100_000))
    truth = np.subtract(*(simulated_pixels(generator, 100_000, share=share).scores(ones)[0] for share in (0.7, 0.6)))
    covered = alarms = 0
    for _ in range(300):
        base, other = (simulated_pixels(generator, 80, share=share) for share in (0.6, 0.7))
        drawn = [drawn_scores(run, rows, groups, repeats=400) for run in (base, other)]
        low, high = percentiles(drawn[1] - drawn[0])
        covered += low <= truth <= high
        equal = simulated_pixels(generator, 80, share=0.6)
        alarms += swap_test((base, rows), (equal, rows[::-1]), groups, repeats=100) < 0.05
    assert 0.92 * 300 <= covered <= 0.98 * 300
    assert alarms <= 0.08 * 300


def test_two_runs_are_compared_on_files_that_have_moved(tmp_path, capsys):
    base = write_run(tmp_path / "base", answers_of([1] * 40 + [0] * 60))
    other = write_run(tmp_path / "other", answers_of([0] * 4 + [1] * 76 + [0] * 20), root="/moved")
    main(["compare", str(base), str(other), "--html", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert "only base right 4, only other right 40; McNemar's exact test: p = 1.71e-08" in lines[4]
    assert "difference (share of files that are right): +36.00 points" in lines[3]
    assert "  model.name: base -> other" in lines
    assert "other is better" in lines
    page = (tmp_path / "c.html").read_text()
    assert "other is better on 40, of which 24" in page
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    with (tmp_path / "c.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["top1"]) for row in rows] == [("other", "0.76"), ("base", "0.4")]
    low, high, difference, *others, p = (float(rows[1][name]) for name in NUMBERS)
    assert (low, difference, p) == (0.309401, -0.36, 1.70514e-08)
    assert low < 0.4 < high
    assert others[0] < -0.36 < others[1] < 0
    assert [rows[0][name] for name in NUMBERS[2:]] == [""] * 4


def write_segmentation(folder, share, order):
    """A tested run of segmentation over 30 images, whose rows have an order."""
    generator = np.random.default_rng(0)
    true = generator.poisson(200, (30, 2))
    right = np.rint(true * share * generator.uniform(0.9, 1.0, (30, 1))).astype(np.int64)
    wrong = true - right
    counts = PixelCounts(right[order], true[order], (right + wrong[:, ::-1])[order])
    folder.mkdir(parents=True)
    counts.write(folder / "images.npz")
    rows = "".join(f"/data/{place}.png,0.5,{share},{true[place].sum()},\n" for place in order)
    (folder / "predictions.csv").write_text(f"path,pixel_accuracy,miou,labelled_pixels,error\n{rows}")
    score = {"metrics": {"miou": counts.scores(np.ones((1, 30)))[0]}, "task": "segmentation", "split": "test"}
    score |= {"outputs": "mvrec.tasks.segmentation.outputs.SegmentationOutputs", "expected": 30, "noun": "images"}
    (folder / "metrics.json").write_text(
        json.dumps(score | {"data": {"root": "/data"}, "protocol_text": "test images"})
    )
    return folder


def test_segmentation_runs_are_compared_by_draws_of_images_in_any_order(tmp_path, capsys):
    order = np.arange(30)
    base = write_segmentation(tmp_path / "base", 0.8, order)
    other = write_segmentation(tmp_path / "other", 0.85, order[::-1])
    main(["compare", str(base), str(other)])
    lines = capsys.readouterr().out.splitlines()
    low, high = map(float, re.search(r"95 % interval (\S+) to (\S+)", lines[3]).groups())
    assert lines[3].startswith("  difference of miou: +")
    assert high - low < 1  # the images are equally hard for both, so only paired draws have so little spread
    assert lines[-1] == "other is better"
    assert "images differ as much with p = 0.000999" in lines[4]
    (base / "images.npz").write_bytes((base / "images.npz").read_bytes()[:300])
    main(["compare", str(base), str(other)])
    assert f"test again with this version of mvrec (mvrec test {base})" in capsys.readouterr().out
    (base / "images.npz").write_bytes((other / "images.npz").read_bytes())
    with pytest.raises(SystemExit):
        main(["compare", str(base), str(other)])
    assert "its files give a miou of 0." in capsys.readouterr().err


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("failed_are_wrong", [False, True])
def test_a_table_counts_the_files_that_a_pair_counts(tmp_path, several, failed_are_wrong):
    folder = write_run(tmp_path / "run", {"b.mp4": 1, "a.mp4": 0}, failed_are_wrong=failed_are_wrong)
    header = "path,labels,predicted" if several else "path,label,class_1"
    rows = ["b.mp4,cat,cat,1,2", "b.mp4,cat,cat,0,1", "c.mp4,cow,cat,,", "d.mp4,cow,cow,,", "a.mp4,cat,,,"]
    if several:
        rows += ["e.mp4,cat;cow,cow;cat,,", "f.mp4,cat;cow,cat,,", "g.mp4,,,,"]
    errors = ["", "", "", "damaged", "", "", "", ""]
    text = "".join(f"/data/{row},{error},cat,0.9\n" for row, error in zip(rows, errors, strict=False))
    columns = "start_seconds,end_seconds,error," + ("class_1" if several else "") + ",probability_1"
    (folder / "predictions.csv").write_text(f"{header},{columns}\n{text}")
    run = ScoredRun(folder, "run", "test")
    values = [run.files[key].value for key in sorted_keys(run)]
    assert TableRun(run).outcome.values.tolist() == values
    assert len(values) == len(rows) - (not failed_are_wrong)
    assert sum(values) == 2 + 2 * several


def test_a_folder_stands_for_its_runs(tmp_path, capsys):
    for name, right in (("a", 50), ("b", 80), ("c", 10)):
        write_run(tmp_path / "runs" / name, answers_of([1] * right + [0] * (100 - right)))
    main(["compare", str(tmp_path / "runs")])
    first, *rows, last = capsys.readouterr().out.splitlines()
    assert first == "100 images, the same in all 3 runs; test images"
    assert [line.split()[0] for line in rows] == ["run", "b", "a", "c"]
    assert last == "the best of 3 runs looks better than it is: test it on files that did not choose it"


def test_a_table_of_validations_says_so_and_why_it_has_no_test(tmp_path, capsys):
    for name in "abc":
        folder = write_run(tmp_path / name, answers_of([1, 0]), split="val", protocol_text="val images")
        (folder / "metrics.json").rename(folder / "validation.json")
        (folder / "environment.json").write_text('{"task": "classification"}')
    main(["compare", str(tmp_path), "--csv", str(tmp_path / "t.csv")])
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "2 images, the same in all 3 runs; last validation, val images"
    reason = "validations have no results per file, tests have (mvrec test RUN)"
    assert second == f"differences without interval and test: {reason}"


def test_a_gain_and_a_loss_look_different(tmp_path):
    base = write_run(tmp_path / "base", {"0": 1, "1": 0, "2": 0, "3": 0})
    other = write_run(tmp_path / "other", {"0": 0, "1": 1, "2": 0, "3": 0})
    main(["compare", str(base), str(other), "--html", str(tmp_path / "c.html")])
    page = (tmp_path / "c.html").read_text()
    assert '<span class="bar" style="margin-left:50.0%;width:25.0%">' in page
    assert '<span class="bar loss" style="margin-left:25.0%;width:25.0%">' in page
    same = write_run(tmp_path / "same", {"0": 1, "1": 0, "2": 0, "3": 0})
    main(["compare", str(base), str(same), "--html", str(tmp_path / "c.html")])
    page = (tmp_path / "c.html").read_text()
    assert "margin-left:" not in page
    assert ">+0<" not in page


def test_a_folder_of_odd_runs_has_a_table_per_protocol_means_over_seeds_and_names_what_is_left_out(tmp_path, capsys):
    folder = tmp_path / "runs"
    for seed, right in ((0, 6), (1, 7), (2, 8)):
        write_run(folder / f"seed ü {seed}", answers_of([1] * right + [0] * (10 - right)), seed=seed)
    write_run(folder / "b", answers_of([1] * 9 + [0]))
    write_run(folder / "other", answers_of([1] * 10), protocol={**PROTOCOL, "resize": 32})
    write_run(folder / "untested", answers_of([1] * 10), metrics={})
    (folder / "no run").mkdir()
    main(["compare", str(folder), "--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "t.html")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["b", "seed ü 2", "seed ü 1", "seed ü 0"]
    at = next(place for place, line in enumerate(lines) if line.startswith("runs that differ by seed alone"))
    cells = ["3: seed ü 2, seed ü 1, seed ü 0", "70.00 %", "10.00 points", "60.00 %", "80.00 %"]
    assert re.split(r"  +", lines[at + 1]) == cells
    assert "not comparable with the runs above: their protocols differ in resize: 40 and 32" in lines
    assert any(line.startswith(f"left out: {folder}/untested: this run has no test score") for line in lines)
    with (tmp_path / "t.csv").open(encoding="utf-8-sig") as file:
        assert [(row["table"], row["run"]) for row in csv.DictReader(file)][-1] == ("2", "other")
    assert "10.00 points" in (tmp_path / "t.html").read_text()


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [("metrics.json", "{x", "metrics.json is damaged"), ("predictions.csv", None, "predictions.csv is missing")],
)
def test_a_run_whose_test_is_not_whole_is_refused(tmp_path, capsys, name, text, fault):
    base, other = (write_run(tmp_path / folder, answers_of([1] * 10)) for folder in ("base", "other"))
    (other / name).unlink()
    if text:
        (other / name).write_text(text)
    with pytest.raises(SystemExit):
        main(["compare", str(base), str(other)])
    assert capsys.readouterr().err == f"mvrec: error: {other}: {fault}: mvrec test {other}\n"


@pytest.mark.parametrize(
    ("answers", "changes", "fault"),
    [
        (answers_of([1] * 9), {}, "scores of 10 and of 9 files"),
        ({**answers_of([1] * 9), "x.jpg": 1}, {}, "1 files are in .*base only, such as 9.jpg"),
        (answers_of([1] * 10), {"protocol": {**PROTOCOL, "resize": 32}}, "protocols differ in resize: 40 and 32"),
        (answers_of([1] * 10), {"class_names": NAMES[::-1]}, "their classes have another order"),
        (answers_of([1] * 10), {"class_names": [*NAMES, "cow"]}, "2 and 3 classes, 'cow' in one of them only"),
        (answers_of([1] * 10), {"split": "val"}, "split test and val"),
        (answers_of([1] * 10), {"metrics": {}}, "this run has no test score"),
        (dict(reversed(answers_of([1] * 10).items())), {}, "has another label in each"),
    ],
)
def test_runs_that_differ_in_more_than_the_network_are_refused(tmp_path, capsys, answers, changes, fault):
    base = write_run(tmp_path / "base", answers_of([1] * 10))
    other = write_run(tmp_path / "other", answers, **changes)
    with pytest.raises(SystemExit):
        main(["compare", str(base), str(other)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(fault, error), error
