"""Requests to end: signals, the end of a job, and how it is queued again. test_exact_resume.py has the runs."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from warm import HANG

from mvrec.errors import UserError
from mvrec.runs.preemption import REQUEUE_EXIT, Preemption, job_end_time, on_own_clock, requeue
from mvrec.runs.signals import REQUEUE, STOP, Requests


def test_a_signal_during_imports_is_not_lost(tiny, tmp_path):
    """It comes at the first imports of a real start, long before there is a trainer."""
    limits = ["--trainer.max_epochs=50", "--trainer.limit_val_batches=0", f"--run_dir={tmp_path}"]
    command = [sys.executable, "-X", "importtime", "-m", "mvrec", "fit", *tiny, *limits]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "torch" in line:  # which is imported once the handlers stand
                break
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == REQUEUE_EXIT, err[-2000:]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 1


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(monkeypatch):
    for name in ("MVREC_STOP_SIGNALS", "MVREC_REQUEUE_SIGNALS"):
        monkeypatch.delenv(name, raising=False)
    found = Requests()
    yield found
    found.restore()


def test_the_most_urgent_request_counts(requests):
    before = signal.getsignal(signal.SIGTERM)
    requests.listen()
    assert requests.level == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert (requests.level, requests.names) == (STOP, ["SIGTERM"])
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert requests.level == REQUEUE
    requests.ignore()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert requests.names == ["SIGTERM", "SIGUSR1", "SIGTERM"]
    requests.restore()
    assert signal.getsignal(signal.SIGTERM) == before
    assert requests.level == 0


def test_other_signals_by_the_environment(requests, monkeypatch):
    monkeypatch.setenv("MVREC_REQUEUE_SIGNALS", "usr2, SIGXCPU")
    requests.listen()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert requests.level == REQUEUE
    assert signal.getsignal(signal.SIGUSR1) != requests._note


@pytest.mark.parametrize("name", ["KILL", "USR3", "STOP", "9"])
def test_signals_that_cannot_be_caught_are_refused(requests, monkeypatch, name):
    monkeypatch.setenv("MVREC_STOP_SIGNALS", name)
    with pytest.raises(UserError, match=f"MVREC_STOP_SIGNALS={name}: '{name}' is not a signal that can be caught"):
        requests.listen()


def test_a_fork_has_no_say(requests):
    requests.listen()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(requests.level)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_end_of_a_job_is_a_request_to_requeue(tmp_path):
    now = [1000.0]
    callback = Preemption(tmp_path, end_time=1200.0, now=lambda: now[0])
    assert callback._agreed() == (0, False)
    now[0] = 1111.0
    assert callback._agreed() == (REQUEUE, False)


def test_checkpoints_in_an_interval(tmp_path):
    now = [1000.0]
    callback = Preemption(tmp_path, save_every_minutes=2, now=lambda: now[0])
    saved: list[tuple[float, Path]] = []
    trainer = SimpleNamespace(save_checkpoint=lambda path: saved.append((now[0], path)))
    for _ in range(10):
        callback.on_train_batch_end(trainer, None, None, None, 0)
        now[0] += 40
    assert saved == [(moment, tmp_path / "last.ckpt") for moment in (1120.0, 1240.0, 1360.0)]


@pytest.mark.parametrize(("text", "expected"), [("1700000000", 1.7e9), ("", None), ("Unknown", None)])
def test_when_slurm_ends_the_job(text, expected):
    assert job_end_time({"SLURM_JOB_END_TIME": text}) == expected


def test_a_clock_that_is_set_ends_no_job_and_saves_nothing(tmp_path, monkeypatch):
    callback = Preemption(tmp_path, save_every_minutes=30, end_time=on_own_clock(time.time() + 3600))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert callback._agreed() == (0, False)
    assert on_own_clock(None) is None


# -- requeueing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in that writes down how it was called, and the exit code that it is to have."""
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\necho no such job >&2\nexit $(cat {tmp_path}/code)\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (tmp_path / "code").write_text("0")
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "called"),
    [
        ({"SLURM_JOB_ID": "17"}, "requeue 17\n"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}, "requeue 17_2\n"),
    ],
)
def test_slurm_is_told_which_job(scontrol, environment, called):
    assert requeue(environment) == 0
    assert (scontrol / "called").read_text() == called
    assert requeue({**environment, "SLURM_PROCID": "1"}) == 0
    assert (scontrol / "called").read_text() == called  # the first process speaks for all


def test_a_refusal_of_slurm_is_said_and_has_its_exit_code(scontrol, caplog):
    (scontrol / "code").write_text("1")
    assert requeue({"SLURM_JOB_ID": "17"}) == REQUEUE_EXIT
    assert "scontrol requeue 17 failed: no such job" in caplog.text


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "17; rm -rf /"}, {"SLURM_JOB_ID": ""}])
def test_without_slurm_the_exit_code_says_it(scontrol, environment):
    assert requeue(environment) == REQUEUE_EXIT
    assert not (scontrol / "called").exists()


def test_without_scontrol_the_exit_code_says_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue({"SLURM_JOB_ID": "17"}) == REQUEUE_EXIT
    assert requeue({"SLURM_JOB_ID": "17", "SLURM_PROCID": "3"}) == REQUEUE_EXIT
