"""A tool that is killed at any moment ends, in the end, where one that was left alone ends."""

import json
import os
import signal
import time

import pytest
from prep_support import (
    exit_code,
    hidden,
    kill_often,
    run,
    slow_down,
    start,
    tree,
    write_image,
    write_imagenet,
    write_videos,
)
from video_files import truncate

KILLS = 5


def videos(root):
    paths = write_videos(root, count=6, size=(64, 96))
    truncate(paths[1], 0.5)


def images(root):
    for label in ("a", "b"):
        for number in range(40):
            write_image(root / "train" / label / f"{number}.jpg", seed=number + 100 * (label == "b"))


def same_sizes(root):
    for label in ("a", "b"):
        (root / "train" / label).mkdir(parents=True)
        for number in range(20):
            (root / "train" / label / f"{number:02d}.mp4").write_bytes(f"{label} {number:02d}".encode() * 99)


def imagenet(root):
    write_imagenet(root, per_class=15)


JOBS = {
    "check": (videos, lambda data, out: [data, "--out", out, "--write-lists", out / "lists"], ["report.json"]),
    "resize": (videos, lambda data, out: [data, out, "--short-side", 48], ["resize.json"]),
    "shard": (images, lambda data, out: [data, out, "--shard-size", "8KB", "--shuffle", 1], []),
    "imagenet": (imagenet, lambda data, out: [data, "--no-md5", "--any-size", "--unpack", out], []),
    "index": (same_sizes, lambda data, out: [data, "--out", out], []),
}


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_random_points_and_finished(name, tmp_path):
    build, arguments, reports = JOBS[name]
    data, whole, out = tmp_path / "data", tmp_path / "whole", tmp_path / "out"
    build(data)
    begin = time.monotonic()
    wanted = exit_code(start(name, *arguments(data, whole), "--workers", 2, before=slow_down))
    seconds = time.monotonic() - begin
    killed = kill_often(name, *arguments(data, out), "--workers", 2, times=KILLS, seconds=seconds / 3)
    assert killed  # some may have been ready already
    code, _, err = run(name, *arguments(data, out), "--workers", 2)
    assert code == wanted, err
    assert hidden(out) == []
    assert tree(out, without=reports) == tree(whole, without=reports)
    for report in reports:  # which also say what was done in this run
        ours, theirs = (json.loads((folder / report).read_text()) for folder in (out, whole))
        assert ours.get("bad") == theirs.get("bad")
        assert ours.get("failures") == theirs.get("failures")


@pytest.mark.parametrize("name", JOBS)
def test_ctrl_c_is_one_line(name, tmp_path):
    build, arguments, _ = JOBS[name]
    build(tmp_path / "data")
    log = tmp_path / "log"

    def interrupt_soon():
        slow_down()
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.1)  # in the middle of importing, or of the work

    arguments = arguments(tmp_path / "data", tmp_path / "out")
    code = exit_code(start(name, *arguments, "--workers", 1, before=interrupt_soon, log=log))
    lines = log.read_text().splitlines()
    assert "Traceback" not in "".join(lines)
    assert code == 130
    assert lines[-1] == f"mvrec prep {name}: interrupted; the same command goes on from here"
    assert hidden(tmp_path / "out") == []


def test_two_runs_never_write_the_same_output_at_once(tmp_path, monkeypatch):
    data, out, log = tmp_path / "data", tmp_path / "out", tmp_path / "log"
    write_videos(data, count=12)
    first = start("resize", data, out, "--workers", 1, before=slow_down)
    while not (out / "resize.jsonl").exists():
        time.sleep(0.01)
    monkeypatch.setattr("mvrec.prep.journal._WAIT_SECONDS", 0.1)
    assert exit_code(start("resize", data, out, log=log)) == 2
    assert "another run is writing there" in log.read_text()
    assert exit_code(first) == 0
