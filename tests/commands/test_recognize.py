"""`mvrec recognize`: the same scores as `test`, from every kind of source, in every format."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from video_files import write_video

from mvrec.cli.main import main as run_mvrec
from mvrec.models import create_model


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


@pytest.fixture(scope="module")
def tested(small_run, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The predictions of `mvrec test` by path."""
    folder = tmp_path_factory.mktemp("tested")
    run_mvrec(["test", str(small_run), f"--run_dir={folder}"])
    return {row["path"]: row for row in read_csv((folder / "predictions.csv").read_text())}


def assert_same(actual: dict[str, str], expected: dict[str, str]) -> None:
    for rank in (1, 2, 3):
        assert actual[f"class_{rank}"] == expected[f"class_{rank}"]
        assert float(actual[f"probability_{rank}"]) == pytest.approx(float(expected[f"probability_{rank}"]), abs=1e-5)


@pytest.fixture
def recognized(command, small_run):
    """The rows of `mvrec recognize ARGUMENTS`, which must have read every file, and its messages."""

    def call(*arguments: object) -> tuple[list[dict[str, str]], str]:
        code, out, err = command("recognize", *arguments, "--ckpt", small_run, "--format=csv")
        assert code == 0, err
        return read_csv(out), err

    return call


def test_a_file_gets_the_score_that_test_gives_it_with_any_number_of_views_at_a_time(recognized, small_data, tested):
    for extra in ([], ["--views_per_forward=2", "--threads=1"]):
        rows, err = recognized(small_data / "test", *extra)
        assert sorted(row["path"] for row in rows) == sorted(tested)
        for row in rows:
            assert_same(row, tested[row["path"]])
        assert "5 clips x 1 crops" in err


def test_windows_and_rows_of_a_list_with_spans_are_scored_alike_by_every_command(
    command, recognized, small_run, tmp_path
):
    path = write_video(tmp_path / "länger als ein clip.mp4", num_frames=100, size=(64, 80))
    spans = [(0, 1), (0.75, 1.75), (1.5, 2.5), (2.25, 3.25), (3.0, 100 / 30)]
    lines = [f"{path.name},grow,{start},{end},{start} s" for start, end in spans]
    listed, outside = tmp_path / "test.csv", f"{tmp_path / 'test.csv'}:7"
    listed.write_text("\n".join(["path,label,start,end,camera", *lines, f"{path.name},grow,90,91,nowhere"]))
    (tmp_path / "classes.txt").write_text("grow\nmove_left\norbit_clockwise")
    code, _, err = command("test", small_run, f"--data.root={tmp_path}", f"--run_dir={tmp_path / 'tested'}")
    assert (code, outside in err) == (0, True), err
    *tested, failed = read_csv((tmp_path / "tested/predictions.csv").read_text())
    assert [(row["camera"], row["error"]) for row in tested] == [(f"{start} s", "") for start, _ in spans]
    assert failed["camera"] == "nowhere"
    assert failed["error"]

    windows, _ = recognized(path, "--window=1", "--stride=0.75", "--threads=1")
    assert len({row["probability_1"] for row in windows}) > 1
    code, out, err = command("recognize", listed, "--ckpt", small_run, "--format=csv")
    assert (code, outside in err) == (1, True), err
    for rows in (windows, read_csv(out)[: len(spans)]):
        for actual, expected, (start, end) in zip(rows, tested, spans, strict=True):
            assert_same(actual, expected)
            assert float(actual["start_seconds"]) == start
            assert float(actual["end_seconds"]) == pytest.approx(end, abs=1e-3)
    code, _, err = command("extract", listed, "--ckpt", small_run, "-o", tmp_path / "features")
    assert (code, outside in err) == (1, True), err
    assert len(list((tmp_path / "features").rglob("*.npy"))) == len(spans)
    code, out, err = command("explain", listed, "--ckpt", small_run, "-o", tmp_path / "heat.png")
    assert (code, outside in err) == (1, True), err
    assert "(2." in out.split(f"{path}: clip")[4].splitlines()[0]


def test_unreadable_files_are_named_and_the_others_done(command, small_run, small_data, tmp_path):
    good = next((small_data / "test/grow").glob("*.mp4"))
    for name, content in {"a.mp4": b"", "b.mp4": b"no video", "d.mp4": good.read_bytes()[:900]}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("c.mp4", "e.mp4"):
        shutil.copy(good, tmp_path / name)
    for window in ([], ["--window=0.5"]):
        code, out, err = command("recognize", tmp_path, "--ckpt", small_run, "--format=csv", *window)
        assert code == 1
        rows = read_csv(out)
        assert {Path(row["path"]).name for row in rows if row["error"]} == {"a.mp4", "b.mp4", "d.mp4"}
        assert {Path(row["path"]).name for row in rows if row["class_1"]} == {"c.mp4", "e.mp4"}
        assert f"unreadable: {tmp_path / 'a.mp4'}: is empty (0 bytes)" in err


def test_formats_say_the_same(command, small_run, small_data):
    path = next((small_data / "test/grow").glob("*.mp4"))
    texts = {}
    for form in ("csv", "jsonl", "table"):
        code, texts[form], err = command("recognize", path, "--ckpt", small_run, f"--format={form}", "--top=2")
        assert code == 0, err
    (row,) = read_csv(texts["csv"])
    columns = "path,start_seconds,end_seconds,class_1,probability_1,class_2,probability_2,error"
    assert ",".join(row) == columns
    line = json.loads(texts["jsonl"])
    assert [entry["class"] for entry in line["classes"]] == [row["class_1"], row["class_2"]]
    assert line["classes"][0]["probability"] == pytest.approx(float(row["probability_1"]), abs=1e-6)
    assert line["end_seconds"] == pytest.approx(float(row["end_seconds"]), abs=1e-3)
    share = 100 * line["classes"][0]["probability"]
    assert texts["table"].startswith(f"{path}  0:00:00.0-0:00:0")
    assert f"  {row['class_1']} {share:.1f} %, {row['class_2']} " in texts["table"]


def test_a_file_appears_when_it_is_whole(command, small_run, small_data, tmp_path, monkeypatch):
    from mvrec.commands import writers as module

    path, output = next((small_data / "test/grow").glob("*.mp4")), tmp_path / "deep/out.csv"
    arguments = ["recognize", path, path.parent, "--ckpt", small_run, "--format=csv", "-o", output]
    assert command(*arguments)[0] == 0
    before = output.read_text()
    assert len(read_csv(before)) == 2

    def full(self, result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.CsvWriter, "write", full)
    code, _, err = command(*arguments)
    assert code == 2
    assert err.splitlines()[-1] == f"mvrec: error: No space left on device: {output}; nothing half-written is left"
    assert [(entry.name, entry.read_text()) for entry in output.parent.iterdir()] == [("out.csv", before)]


def test_a_protocol_by_flag_replaces_that_of_the_run(recognized, small_data):
    _, err = recognized(next((small_data / "test/grow").glob("*.mp4")), "--protocol=slowfast-10x3")
    assert "10 clips x 3 crops, short side 64" in err


def test_images_get_the_class_names_of_a_file_or_a_run(command, tmp_path):
    """A network for images, from published weights whose classes a file names."""
    torch.save({"model": create_model("cloformer_xxs", num_classes=3, image_size=64).state_dict()}, tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("eins\nzwei\ndrei", encoding="utf-8")
    Image.new("RGB", (90, 70), (200, 30, 90)).save(tmp_path / "x y.png")
    weights = ["--ckpt", tmp_path / "w.pth", "--classes", tmp_path / "names.txt"]
    code, out, err = command("recognize", tmp_path / "x y.png", "--format=jsonl", *weights)
    assert code == 0, err
    line = json.loads(out)
    assert {entry["class"] for entry in line["classes"]} == {"eins", "zwei", "drei"}
    assert sum(entry["probability"] for entry in line["classes"]) == pytest.approx(1)
    assert line["start_seconds"] is None
