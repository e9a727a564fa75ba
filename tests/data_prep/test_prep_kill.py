"""A tool that is killed at any moment ends, in the end, where one that was left alone ends."""

import json
import signal

import pytest
from prep_support import (
    at_journal_line,
    at_renaming,
    exit_code,
    hidden,
    kill_often,
    run,
    start,
    tree,
    write_image,
    write_imagenet,
    write_videos,
)
from video_files import truncate

from mvrec.data.sets import kinetics  # noqa: F401 - imported once, not in every fork
from mvrec.prep.journal import Journal


def videos(root):
    paths = write_videos(root, count=3, size=(64, 96))
    truncate(paths[1], 0.5)


def images(root):
    for label in ("a", "b"):
        for number in range(12):
            write_image(root / "train" / label / f"{number}.jpg", seed=number + 100 * (label == "b"))


def same_sizes(root):
    for label in ("a", "b"):
        (root / "train" / label).mkdir(parents=True)
        for number in range(6):
            (root / "train" / label / f"{number:02d}.mp4").write_bytes(f"{label} {number:02d}".encode() * 99)


# What a tool works on, its arguments, its reports, and at which renaming of a file it is killed.
JOBS = {
    "check": (videos, lambda data, out: [data, "--out", out, "--write-lists", out / "lists"], ["report.json"], 1),
    "resize": (videos, lambda data, out: [data, out, "--short-side", 48], ["resize.json"], 1),
    "shard": (images, lambda data, out: [data, out, "--shard-size", "8KB", "--shuffle", 1], [], 2),
    "imagenet": (write_imagenet, lambda data, out: [data, "--no-md5", "--any-size", "--unpack", out], [], 5),
    "index": (same_sizes, lambda data, out: [data, "--out", out], [], 1),
}


@pytest.fixture
def job(request, tmp_path):
    """Name and arguments of a tool with two processes, and what it finishes and what a run left alone gives."""
    build, arguments, reports, renaming = JOBS[request.param]
    data, whole, out = tmp_path / "data", tmp_path / "whole", tmp_path / "out"
    build(data)

    def outcome(folder):
        code, _, _ = run(request.param, *arguments(data, folder), "--workers", 2)
        said = [json.loads((folder / report).read_text()) for report in reports]  # also what was done in this run
        files = tree(folder, without=reports)
        return code, files, hidden(folder), [(report.get("bad"), report.get("failures")) for report in said]

    def finish():
        return outcome(out), outcome(whole)

    return [request.param, *arguments(data, out), "--workers", 2], renaming, finish


@pytest.mark.parametrize("job", JOBS, indirect=True)
def test_a_tool_that_was_killed_in_a_journal_line_and_at_a_renaming_finishes_as_if_left_alone(job):
    words, renaming, finish = job
    if words[0] != "imagenet":  # which has no journal of what it unpacks
        assert exit_code(start(*words, before=lambda: at_journal_line(2, signal.SIGKILL))) == -signal.SIGKILL
    assert exit_code(start(*words, before=lambda: at_renaming(renaming, signal.SIGKILL))) == -signal.SIGKILL
    finished, alone = finish()
    assert finished == alone
    assert finished[2] == []  # hidden files


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, indirect=True)
def test_a_tool_that_was_killed_at_random_moments_finishes_as_if_left_alone(job):
    words, _, finish = job
    kill_often(*words, times=10, seconds=1)
    finished, alone = finish()
    assert finished == alone
    assert finished[2] == []  # hidden files


@pytest.mark.parametrize("job", JOBS, indirect=True)
def test_ctrl_c_ends_a_tool_in_one_line(job, tmp_path):
    words, _, _ = job
    log = tmp_path / "log"

    moment = at_renaming if words[0] == "imagenet" else at_journal_line
    assert exit_code(start(*words, before=lambda: moment(1, signal.SIGINT), log=log)) == 130
    lines = log.read_text().splitlines()
    assert "Traceback" not in "".join(lines)
    assert lines[-1] == f"mvrec prep {words[0]}: interrupted; the same command goes on from here"
    assert hidden(tmp_path / "out") == []


def test_a_second_run_is_refused_while_the_first_writes_the_same_output(tmp_path, monkeypatch):
    write_videos(tmp_path / "data", count=1)
    monkeypatch.setattr("mvrec.prep.journal._WAIT_SECONDS", 0.1)
    with Journal(tmp_path / "out/resize.jsonl"):
        code, _, err = run("resize", tmp_path / "data", tmp_path / "out")
    assert code == 2
    assert "another run is writing there" in err
