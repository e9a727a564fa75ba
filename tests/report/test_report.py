import csv
import hashlib
import io
import json
import math
import re
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Browser, find_browser
from PIL import Image

from mvrec.errors import DecodeError, UserError
from mvrec.report.charts import Panel, line_chart, png_data, ticks
from mvrec.report.folds import missing_folds, pool_runs
from mvrec.report.page import render_report
from mvrec.report.reading import read_run
from mvrec.runs.curves import panels_of
from mvrec.tasks.chance import wilson
from mvrec.tasks.classification.figures import draw_classes, draw_confusion
from mvrec.tasks.classification.report import blocks, heat, worst
from mvrec.tasks.classification.run_results import Confusion, classes_of, confusion_of, read_predictions

NASTY = ["</td><script>alert(1)</script>", 'quote "x" & <b>', "日本語", "مرحبا", "$x_{1$", "it's\x07"]


def write_predictions(run, rows, *, several=False):
    """Rows of (path, label, the first class and its probability, the second, error); of several also `predicted`."""
    run.mkdir(parents=True)
    label = ["labels", "predicted"] if several else ["label"]
    columns = ["path", *label, "class_1", "probability_1", "class_2", "probability_2", "error"]
    with (run / "predictions.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return run


def names_of(count):
    return (NASTY + [f"class {number}" for number in range(count)])[:count]


def make_run(tmp_path, names, *, name="run"):
    """A tested run with `names` classes, in which every fourth file of a class is taken for the next class."""
    rows = []
    for number, label in enumerate(names):
        for file in range(4):
            other = names[(number + 1) % len(names)]
            first, second = (other, label) if file == 3 else (label, other)
            rows.append((f"/data/{number}/{file} <&>.jpg", label, first, 0.7, second, 0.2, ""))
    rows.append(("/data/broken.jpg", names[0], "", "", "", "", "damaged <here>"))
    run = write_predictions(tmp_path / name, rows)
    scored = len(rows) - 1
    score = {"scored": scored, "expected": len(rows), "failed": 1, "noun": "images", "class_names": names}
    score["metrics"] = {"top1": 0.75 * scored / len(rows), "top2": scored / len(rows), "mean_class": 0.75, "loss": 0.5}
    score |= {"protocol_text": "val images, short side 32, crop 32, bicubic", "multi_label": False}
    (run / "metrics.json").write_text(json.dumps(score))
    return run


def change_score(run, **changes):
    """Write other values into the score of a run."""
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def elements_of(page):
    """The names of the elements of a page, which must be well formed: XML but for elements without an end."""
    assert not re.search(r"<(?!line|circle|polyline|rect|image|meta|img)\w+[^>]*/>", page)
    closed = re.sub(r"<((?:meta|img) [^>]*[^/])>", r"<\1/>", page.removeprefix("<!DOCTYPE html>"))
    return {element.tag for element in ElementTree.fromstring(closed).iter()}


def jpeg(row):
    """A picture, in place of a file."""
    content = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 40, 40)).save(content, "JPEG")
    return [content.getvalue()] * 4


CURVES = [
    Panel("loss", {"train/loss": ([1, 2, 3], [2.0, 1.5, 1.0]), "val/loss": ([3], [1.2])}),
    Panel("score", {"val/top1": ([3, 6], [0.5, 0.4])}),
    Panel("gradient norm", {"train/grad_norm": ([1, 2, 3], [1.0, 100.0, 0.0])}, logarithmic=True),
]


def test_nothing_of_the_data_becomes_markup(tmp_path):
    page = render_report(read_run(make_run(tmp_path, NASTY)), panels=CURVES, thumbnails=jpeg)
    elements = elements_of(page)
    assert "script" not in elements
    assert "b" in elements
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x07" not in page
    assert "it&#x27;s\N{REPLACEMENT CHARACTER}" in page


def test_score_has_protocol_counts_and_interval_with_failed_files_wrong_or_left_out(tmp_path):
    run = make_run(tmp_path, ["a", "b"])
    page = render_report(read_run(run))
    assert "66.67 %" in page  # 6 of 9
    assert "chance 50.0 %" in page
    low, high = wilson(6 / 9, 9)
    assert f"6 of 9; 95 % interval {100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%" in page
    assert "8 of 9 images scored, 1 could not be read and count as wrong" in page
    assert "val images, short side 32, crop 32, bicubic" in page
    assert "damaged &lt;here&gt;" in page
    change_score(run, failed_are_wrong=False, metrics={"top1": 0.75})
    page = render_report(read_run(run))
    assert "6 of 8; 95 %" in page
    assert "are left out of the score" in page


def make_fold(tmp_path, number, rights, **changes):
    """A tested fold of three files, of which so many are right."""
    rows = [
        (f"/data/{number}/{file}.jpg", "ж", *(("ж", 0.7, "b", 0.3) if file < rights else ("b", 0.7, "ж", 0.3)), "")
        for file in range(3)
    ]
    run = write_predictions(tmp_path / f"fold {number}", rows)
    score = {"scored": 3, "expected": 3, "of": 3, "failed": 0, "noun": "images", "class_names": ["b", "ж"]}
    score |= {"metrics": {"top1": rights / 3, "mean_class": rights / 3, "loss": 0.1 * number}, "protocol_text": "P"}
    score |= {"data": {"fold": f"{number}/3"}, "split": "val", **changes}
    (run / "metrics.json").write_text(json.dumps(score))
    return run


def test_runs_of_a_cross_validation_get_one_score_in_which_each_file_counts_once(tmp_path):
    runs = [make_fold(tmp_path, number, rights) for number, rights in ((1, 3), (2, 1))]
    lines = pool_runs(runs, tmp_path / "folds")
    low, high = wilson(4 / 6, 6)
    assert lines[0] == f"{runs[0]}: top1 100.00 % (3 images)"
    assert lines[2].startswith("all 2 runs: top1 66.67 % (chance 100.00 %), 95 % interval ")
    assert f"{100 * low:.0f} to {100 * high:.0f} %, 6 images, each scored once" in lines[2]
    report = read_run(tmp_path / "folds")
    assert report.results.score["metrics"] == pytest.approx({"top1": 4 / 6, "mean_class": 4 / 6, "loss": 0.15})
    assert [row.path for row in report.predictions] == [f"/data/{n}/{f}.jpg" for n in (1, 2) for f in range(3)]
    page = render_report(report)
    assert "The 2 runs" in page
    assert "not all folds are here: without 3/3" in page
    assert missing_folds(["2/3", "1/3", "3/3"]) == []


def test_runs_that_are_no_folds_are_refused_and_a_run_is_not_overwritten(tmp_path):
    first = make_fold(tmp_path, 1, 3)
    with pytest.raises(UserError, match=r"/data/1/0\.jpg was scored in .* share no file"):
        pool_runs([first, first.parent / "." / first.name], tmp_path / "folds")
    other = make_fold(tmp_path, 2, 1, class_names=["a", "b"])
    with pytest.raises(UserError, match="differ in their classes"):
        pool_runs([first, other], tmp_path / "folds")
    (other / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"fold 2 was not tested: mvrec test "):
        pool_runs([first, other], tmp_path / "folds")
    assert not (tmp_path / "folds").exists()
    (first / "environment.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run"):
        pool_runs([first, make_fold(tmp_path, 3, 1)], first)


def test_curves_have_chance_and_a_training_loss_that_is_not_comparable_has_its_own():
    columns = {
        name: ([1, 2], [1.0, 0.5]) for name in ("train/loss", "val/loss", "val/top1", "val/mean_class", "val/top5")
    }
    validation = {
        "chance": {"top1": 0.25, "mean_class": 0.25, "top5": 1.0, "loss": 1.386},
        "training_loss_with": ["mixing"],
    }
    training, of_validation, score = panels_of(columns, validation)
    assert (training.names, training.levels) == (("train/loss",), {})
    assert training.caption == "With mixing: not comparable with the validation loss."
    assert (of_validation.names, of_validation.levels) == (("val/loss",), {"chance": 1.386})
    assert score.levels == {"chance of top1, mean_class": 0.25}
    assert [panel.title for panel in panels_of(columns, {})] == ["loss", "score"]
    chart = line_chart(Panel(score.title, {"val/top1": ([1, 2], [0.4, 0.5])}, levels=score.levels, caption="<A>"))
    assert chart.count('class="level"') == 1
    assert "chance of top1, mean_class 0.25" in chart
    assert "&lt;A&gt;" in chart


def test_a_report_has_the_remarks_of_training_its_unreadable_files_and_the_certainty_of_the_best_validation(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("x")
    remarks = ["this run is not above chance: <x>", "likely cause 1: y"]
    (run / "validation.json").write_text(json.dumps({"expected": 9, "chance": {"top1": 0.25}, "remarks": remarks}))
    lines = [{"path": "/d/<ж>.mp4", "cause": "cut short"}, {"path": "/d/a.mp4", "cause": "empty"}]
    (run / "unreadable.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]))
    page = render_report(read_run(run), panels=[Panel("score", {"val/top1": ([3, 6], [1 / 3, 1 / 9])})])
    assert "not above chance: &lt;x&gt;" in page
    assert page.count("/d/&lt;ж&gt;.mp4") == 1
    low, high = wilson(1 / 3, 9)
    assert f"3 of 9; 95 % interval {100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%; chance 25.00 %)" in page
    (run / "unreadable.jsonl").write_text("{")
    assert any("unreadable.jsonl is damaged" in note for note in read_run(run).results.notes)


def test_a_run_that_was_not_tested_says_how(tmp_path):
    run = tmp_path / "my run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: <x>\n")
    page = render_report(read_run(run), panels=CURVES)
    assert "it has no checkpoint to test yet" in page
    (run / "checkpoints/last.ckpt").write_bytes(b"x")
    page = render_report(read_run(run), panels=CURVES)
    assert f"mvrec test --ckpt_path &#x27;{run}/checkpoints/last.ckpt&#x27;" in page
    assert "Confusions" not in page
    assert "model: &lt;x&gt;" in page
    assert "Best validation: Top-1 accuracy 50.00 % at step 3; the last of 2: 40.00 %" in page


def test_of_equal_validations_the_one_of_best_ckpt_is_named(tmp_path):
    report = read_run(make_run(tmp_path, ["a", "b"]))
    for losses, step in (([1.0, 0.8, 0.9], 2), ([1.0, 1.0, 1.0], 3), ([0.8, 0.9, 1.0], 1)):
        lines = {"val/top1": ([1, 2, 3, 4], [0.5, 0.5, 0.5, 0.4]), "val/loss": ([1, 2, 3, 4], [*losses, 0.1])}
        page = render_report(report, panels=[Panel(name, {name: line}) for name, line in lines.items()])
        assert f"Top-1 accuracy 50.00 % at step {step};" in page, losses


def test_a_report_of_several_classes_per_file_shows_map_and_missed_files(tmp_path):
    rows = [
        ("z.mp4", "x;y", "x", "x", 0.9, "z", 0.1, ""),  # y is missed, and not even listed
        ("b.mp4", "", "z", "z", 0.8, "x", 0.3, ""),
        ("c.mp4", "y", "y", "y", 0.6, "x", 0.4, ""),
        ("d.mp4", "y", "", "", "", "", "", "no such file"),
    ]
    run = write_predictions(tmp_path / "run", rows, several=True)
    per_class = "class,samples,average_precision,predicted,failed\nx,1,0.5,1,0\ny,3,0.25,1,1\nz,0,,1,0\n"
    (run / "per_class.csv").write_text(per_class)
    score = {"metrics": {"map": 0.375}, "multi_label": True, "noun": "videos", "failed": 1, "scored": 3, "expected": 4}
    (run / "metrics.json").write_text(json.dumps(score))
    report = read_run(run)
    assert [row.path for row in worst(report.predictions, 9)] == ["z.mp4", "b.mp4"]
    assert [row.badness for row in worst(report.predictions, 9)] == pytest.approx([0.9, 0.8])
    page = render_report(report)
    elements_of(page)
    assert report.confusion is None
    assert "Mean average precision (mAP)" in page
    assert "37.50 %" in page
    assert "1 of 3 classes have no files in the test" in page
    assert "3 of 4 videos scored, 1 could not be read and count as missed" in page
    assert "2 mistakes" in page


def test_worst_mistakes_come_first_and_a_missing_file_is_said(tmp_path):
    rows = [
        ("z sure.jpg", "a", "b", 0.99, "a", 0.01, ""),
        ("right.jpg", "a", "a", 0.999, "b", 0.001, ""),
        ("a unsure.jpg", "b", "a", 0.51, "b", 0.49, ""),
        ("broken.jpg", "b", "", "", "", "", "is empty (0 bytes)"),
    ]
    run = write_predictions(tmp_path / "run", rows)

    def moved(row):
        raise DecodeError(row.path, "the file is not there <any> more")

    page = render_report(read_run(run), thumbnails=moved)
    assert page.index("z sure.jpg") < page.index("a unsure.jpg")
    assert "right.jpg" not in page
    assert page.count("no picture: the file is not there &lt;any&gt; more") == 2
    assert "All 2 mistakes" in page
    shown = render_report(read_run(run), thumbnails=moved, most_mistakes=1)
    assert "a unsure.jpg" not in shown
    assert "The 1 of 2 mistakes" in shown


def test_what_the_test_did_not_write_is_worked_out(tmp_path):
    run = make_run(tmp_path, ["a", "b", "c"])
    (run / "metrics.json").unlink()
    report = read_run(run)
    assert report.results.score["metrics"] == pytest.approx({"top1": 9 / 13, "top2": 12 / 13})
    assert report.confusion.counts.tolist() == [[3, 1, 0], [0, 3, 1], [1, 0, 3]]
    assert report.confusion.failed.tolist() == [1, 0, 0]
    assert [row.value for row in report.classes] == pytest.approx([3 / 5, 3 / 4, 3 / 4])
    assert "computed from predictions.csv" in render_report(report)
    two = make_run(tmp_path, ["a", "b"], name="two")
    (two / "metrics.json").unlink()
    assert list(read_run(two).results.score["metrics"]) == ["top1"]  # the second of two classes is the other one
    assert confusion_of(report.predictions, ["a", "b"]) is None  # of a class that nobody named
    classes = classes_of(confusion_of(report.predictions, ["a", "b", "c", "d"]))
    assert math.isnan(classes[3].value)


@pytest.mark.parametrize(
    ("name", "content", "damaged"),
    [
        ("metrics.json", "[1, 2", True),
        ("metrics.json", "[]", True),
        ("predictions.csv", "path,label\n", False),
        ("predictions.csv", 'path,label,class_1,probability_1,error\na,b,c,"x\n', True),
        ("predictions.csv", "path,label,class_1,probability_1,error\na,b,c,high,\n", True),
        ("per_class.csv", "class,samples\na,1\n", True),
        ("confusion.csv", ",a,b\na,1\n", True),
        ("confusion.csv", "", True),
        ("environment.json", '{"hosts": [1, 2], "devices": null, "packages": [], "command": "x"}', False),
        ("data.json", '{"splits": [], "protocol": {"clip": {}}}', False),
        ("parameter_groups.json", '{"a": 1}', True),
        ("parameter_groups.json", '[{"name": "<x>"}]', False),
    ],
)
def test_a_damaged_file_is_a_note_and_an_odd_one_is_none(tmp_path, name, content, damaged):
    run = make_run(tmp_path, ["a", "b"])
    (run / name).write_text(content)
    report = read_run(run)
    elements_of(render_report(report))
    assert [note.startswith(f"{name} is damaged") for note in report.results.notes].count(True) == damaged


def test_a_score_of_another_checkpoint_is_noticed(tmp_path):
    run = make_run(tmp_path, ["a", "b"])
    change_score(run, checkpoint="/elsewhere/best.ckpt", checkpoint_sha256=hashlib.sha256(b"x").hexdigest())
    assert not read_run(run).results.notes
    (run / "checkpoints").mkdir()
    (run / "checkpoints/best.ckpt").write_bytes(b"x")
    assert not read_run(run).results.notes
    (run / "checkpoints/best.ckpt").write_bytes(b"y")
    assert "is of another best.ckpt" in read_run(run).results.notes[0]


def test_file_names_that_are_not_utf8(tmp_path):
    run = write_predictions(tmp_path / "run", [("/data/\udcff.jpg", "a", "b", 0.9, "a", 0.1, "")])
    assert read_predictions(run / "predictions.csv")[0].path == "/data/\udcff.jpg"
    render_report(read_run(run)).encode("utf-8")


def matrix(counts):
    counts = np.asarray(counts, dtype=np.int64)
    return Confusion(tuple(f"c{k}" for k in range(len(counts))), counts, np.zeros(len(counts), np.int64))


def test_pairs_are_the_most_frequent_confusions():
    pairs = matrix([[5, 3, 0], [0, 9, 1], [3, 0, 1]]).pairs(2)
    assert pairs == [("c2", "c0", 3, 0.75), ("c0", "c1", 3, 0.375)]


def test_blocks_keep_the_shares_of_rows():
    shares, width = blocks(matrix(np.eye(7) * 3 + np.eye(7, k=1)), most=4)
    assert width == 2
    assert shares.shape == (4, 4)
    # Rows 0 and 1: 3 + 1 + 3 within the first two classes, 1 in class 2.
    assert shares[0].tolist() == pytest.approx([7 / 8, 1 / 8, 0, 0])
    assert shares[3].tolist() == pytest.approx([0, 0, 0, 1])


def test_heat_is_blue_on_the_diagonal_and_red_beside_it():
    pixels = heat(np.array([[1.0, 0.1], [0.0, 0.25]])).astype(int)
    assert pixels[0, 0].tolist() == [16, 62, 145]
    assert pixels[1, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [165, 30, 10]  # the greatest next to the diagonal
    assert pixels[1, 1].tolist() == [136, 158, 200]  # half way


def test_png_is_what_pillow_reads():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    content = b64decode(png_data(pixels).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_ticks_are_round_numbers():
    assert ticks(0, 1, logarithmic=False) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(-3, 12, logarithmic=False) == [0, 5, 10]
    assert ticks(1e-5, 1e-3, logarithmic=True) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert ticks(0.3, 3, logarithmic=True) == [0.5, 1, 2]
    assert ticks(1.1, 1.3, logarithmic=True) == pytest.approx([1.1, 1.15, 1.2, 1.25, 1.3])


def test_a_long_line_keeps_its_peak():
    values = [1.0] * 100_000
    values[77_777] = 9.0
    chart = line_chart(Panel("loss", {"train/loss": (list(range(100_000)), values)}))
    assert len(chart) < 20_000
    heights = [float(point.split(",")[1]) for point in re.search(r'points="([^"]+)"', chart)[1].split()]
    assert min(heights) == 10  # the upper edge


def test_a_chart_of_one_point_of_equal_values_and_of_nothing():
    assert "circle" in line_chart(Panel("a", {"x": ([5], [0.0])}))
    assert "polyline" in line_chart(Panel("a", {"x": ([5, 6], [3.0, 3.0])}, logarithmic=True))
    assert line_chart(Panel("a", {"x": ([1], [-1.0])}, logarithmic=True)) == ""


@pytest.mark.parametrize("count", [6, 70])
def test_figures_are_drawn(tmp_path, count):
    names = names_of(count)
    confusion = Confusion(tuple(names), np.eye(count, dtype=np.int64) * 3, np.zeros(count, np.int64))
    assert draw_confusion(confusion, tmp_path / "confusion.png")
    assert draw_classes(classes_of(confusion), tmp_path / "classes.png", label="accuracy")
    for name in ("confusion.png", "classes.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert not draw_classes([], tmp_path / "none.png", label="accuracy")
    assert not (tmp_path / "none.png").exists()


needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium: apt install chromium-headless-shell")


@pytest.mark.browser
@needs_browser
def test_a_browser_shows_it_and_asks_for_nothing(tmp_path):
    with Browser(tmp_path / "profile") as browser:
        for count in (2, 6, 400):
            run = make_run(tmp_path, names_of(count), name=f"run {count}")
            page = run / "report.html"
            page.write_text(render_report(read_run(run), panels=CURVES, thumbnails=jpeg))
            for width, dark in ((1200, False), (400, True)):
                browser.open(page, width=width, dark=dark)
                assert browser.requests == [page.as_uri()]
                assert browser.complaints == []
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
                assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth && i.alt)")
                assert browser.evaluate("document.querySelectorAll('img').length") > 0
                # Every shape of the charts has a place of its own on the page.
                assert browser.evaluate("[...document.querySelectorAll('polyline')].every(p => p.getBBox().width >= 0)")
                shown = "[...document.querySelectorAll('svg text')].every(t => t.getBoundingClientRect().width > 0)"
                assert browser.evaluate(shown)
                pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
                assert pixels.shape == (900, width)
                assert pixels.std() > 5
                assert bool(pixels.mean() < 90) is dark
            assert browser.evaluate("document.querySelectorAll('.confusion').length") == (1 if count < 27 else 0)


@pytest.mark.browser
@needs_browser
def test_the_browser_would_complain(tmp_path):
    """The test above can fail: the same checks on a page that asks for a picture and throws."""
    page = tmp_path / "page.html"
    page.write_text("<img src='nowhere.png'><script>throw new Error('x')</script>")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert len(browser.requests) == 2
        assert any("ERR_FILE_NOT_FOUND" in text for text in browser.complaints)
        assert any("exceptionThrown" in text for text in browser.complaints)
