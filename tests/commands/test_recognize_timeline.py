import json

import numpy as np
import pytest

from mvrec.inference.timeline.segments import TimelineKnobs, merge


@pytest.fixture
def recognize(command, small_run, small_data):
    """The JSON lines of `mvrec recognize` of the test videos, and its messages."""

    def call(*arguments):
        code, out, err = command("recognize", small_data / "test", "--ckpt", small_run, "--format=jsonl", *arguments)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()], err

    return call


def test_a_timeline_merges_the_windows_of_each_video(recognize, tmp_path, small_data):
    flags = ("--window=0.5", "--stride=0.25")
    parts, _ = recognize(*flags, "--top=100")
    names = sorted({entry["class"] for part in parts for entry in part["classes"]})
    knobs = TimelineKnobs(on=0.15, off=0.1)
    expected = []
    for path in dict.fromkeys(part["path"] for part in parts):
        of_video = [part for part in parts if part["path"] == path]
        rows = [{entry["class"]: entry["probability"] for entry in part["classes"]} for part in of_video]
        starts, ends = (np.array([part[key] for part in of_video]) for key in ("start_seconds", "end_seconds"))
        segments = merge([[row[name] for name in names] for row in rows], starts, ends, names, knobs)
        expected += [
            (path, part.name, part.start, part.end, pytest.approx(part.confidence, abs=1e-5)) for part in segments
        ]
    assert len(expected) > 1
    truth = tmp_path / "truth.csv"
    rows = [f"{path},{label},{start},{end}" for path, label, start, end, _ in expected]
    truth.write_text("\n".join(["path,label,start,end", *rows]))
    lines, err = recognize(*flags, "--timeline", "--on=0.15", "--off=0.1", f"--truth={truth}")
    keys = ("path", "label", "start_seconds", "end_seconds", "confidence")
    assert [tuple(line[key] for key in keys) for line in lines] == expected
    assert "tIoU mAP 100.00 % at 0.5" in err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--on=0.4"], "--on is for timelines: add --timeline"),
        (["--timeline", "--off=0.9"], "0 < off <= on <= 1"),
        (["--timeline", "--background=nothing"], "'nothing' is no class"),
        (["--timeline", "--overlays=o"], "--timeline writes no pictures"),
        (["--timeline", "--truth=absent.csv"], "absent.csv"),
    ],
)
def test_a_timeline_that_cannot_be_is_refused_in_one_line(command, small_run, small_data, flags, fault):
    code, _, err = command("recognize", small_data / "test", "--ckpt", small_run, *flags)
    assert code == 2
    assert fault in err.splitlines()[-1]
