"""A tool that is killed at any moment ends, in the end, where one that was left alone ends."""

import importlib
import itertools
import os
import re
import resource
import signal
import sys
import types
from pathlib import Path

import pytest
from data_trees import make
from prep_support import called, hidden, read_json, run, tree, write_image, write_imagenet, write_videos
from video_files import truncate

from mvrec.data.sets import kinetics  # noqa: F401 - imported once, not in every fork
from mvrec.prep import journal
from mvrec.prep.journal import Journal


def videos(root):
    paths = write_videos(root, count=3, size=(64, 96))
    truncate(paths[1], 0.5)


def images(root):
    for number in range(24):
        write_image(root / "train" / "ab"[number % 2] / f"{number}.jpg", seed=number)


def same_sizes(root):
    make(root, {f"train/{'ab'[number % 2]}/{number:02d}.mp4": f"{number:02d}" * 99 for number in range(12)})


def start(name, *arguments, before=lambda: None, log=os.devnull):
    """Run a tool in a process of its own, forked because importing takes seconds; returns its exit code."""
    importlib.import_module(f"mvrec.prep.{name}")
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        sys.stdout = sys.stderr = open(log, "w")  # noqa: PTH123, SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.dont_write_bytecode = True  # which a limit on the size of files would cut off
        before()
        code = called(name, arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def at_journal_line(count, number):
    """Let this process get a signal when it has written half of such a line of its journal."""
    write, lines = os.write, itertools.count(1)

    def torn(file, data):
        if Path(f"/proc/self/fd/{file}").readlink().suffix != ".jsonl" or next(lines) != count:
            return write(file, data)
        written = write(file, data[: len(data) // 2])
        os.kill(os.getpid(), number)
        return written + write(file, data[written:])

    journal.os = types.SimpleNamespace(**{**vars(os), "write": torn})


def at_renaming(count, number):
    """Let this process get a signal before it, or one that it forked, gives such a file its name."""
    owner, replace, renamings = os.getpid(), os.replace, itertools.count(1)

    def watched(*arguments):
        if next(renamings) == count:
            os.kill(owner, number)
            if number == signal.SIGKILL:
                os._exit(1)  # dies with its owner
        return replace(*arguments)

    os.replace = watched


# By tool: what it works on, its arguments, its report, at which renaming of a file it is killed, words of a dry run.
JOBS = {
    "check": (videos, "DATA --out OUT --write-lists OUT/lists", "report.json", 1, "6 files of 6 rows to check, 0"),
    "resize": (videos, "DATA OUT --short-side 48", "resize.json", 1, "6 videos to resize to short side 48, 0 of them"),
    "shard": (images, "DATA OUT --shard-size 8KB --shuffle 1", None, 2, "24 files, "),
    "imagenet": (write_imagenet, "DATA --no-md5 --any-size --unpack OUT", None, 5, "18 images would be "),
    "index": (same_sizes, "DATA --out OUT", None, 1, "nothing was hashed or written"),
}


@pytest.fixture
def job(request, tmp_path):
    """A tool: its name and arguments, and what it and a run left alone end with."""
    build, arguments, report, renaming, dry_words = JOBS[request.param]
    build(tmp_path / "data")

    def words(out):
        values = arguments.replace("DATA", str(tmp_path / "data")).replace("OUT", str(out)).split()
        return [request.param.split()[0], *values, "--workers", 1]

    def outcome(folder):
        code, _, _ = run(*words(folder))
        result = read_json(folder / report) if report else {}  # also what was done in this run
        assert hidden(folder) == []
        return code, tree(folder, without=[report]), result.get("bad"), result.get("failures")

    def outcomes():
        return outcome(tmp_path / "out"), outcome(tmp_path / "whole")

    return types.SimpleNamespace(
        words=words(tmp_path / "out"), renaming=renaming, dry_words=dry_words, outcomes=outcomes
    )


every_tool = pytest.mark.parametrize("job", JOBS, indirect=True)


@every_tool
def test_a_tool_that_was_killed_in_a_journal_line_and_at_a_renaming_finishes_as_if_left_alone(job):
    if job.words[0] != "imagenet":  # which has no journal of what it unpacks
        assert start(*job.words, before=lambda: at_journal_line(2, signal.SIGKILL)) == -signal.SIGKILL
    assert start(*job.words, before=lambda: at_renaming(job.renaming, signal.SIGKILL)) == -signal.SIGKILL
    finished, alone = job.outcomes()
    assert finished == alone


@pytest.mark.parametrize("job", ["resize", "imagenet"], indirect=True)
def test_a_full_disk_and_ctrl_c_end_a_tool_in_one_line_and_the_next_run_goes_on(job, tmp_path):
    name, log = job.words[0], tmp_path / "log"

    def limit():
        sys.dont_write_bytecode = True  # Python would leave halves of what it compiles
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    interrupt = lambda: (at_renaming if name == "imagenet" else at_journal_line)(1, signal.SIGINT)  # noqa: E731
    for code, before, cause in (
        (1, limit, "(File too large|No space left on device)"),
        (130, interrupt, "interrupted"),
    ):
        assert start(*job.words, before=before, log=log) == code
        assert "Traceback" not in log.read_text()
        line = rf"mvrec prep {name}: .*{cause}; the same command goes on from here"
        assert re.fullmatch(line, log.read_text().splitlines()[-1])
        assert hidden(tmp_path / "out") == []
    assert run(*job.words)[0] == (name == "resize")  # where one video is damaged


@every_tool
def test_a_dry_run_writes_nothing(job, tmp_path):
    before = tree(tmp_path)
    code, text, _ = run(*job.words, "--dry-run")
    assert code == 0
    assert job.dry_words in text
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_second_run_is_refused_while_the_first_writes_the_same_output(tmp_path, monkeypatch):
    write_videos(tmp_path / "data", count=1)
    monkeypatch.setattr("mvrec.prep.journal._WAIT_SECONDS", 0.1)
    with Journal(tmp_path / "out/resize.jsonl"):
        code, _, err = run("resize", tmp_path / "data", tmp_path / "out")
    assert (code, "another run is writing there" in err) == (2, True)
    assert run("resize", tmp_path / "data", tmp_path / "out")[0] == 0  # which does not wait for a dead one
