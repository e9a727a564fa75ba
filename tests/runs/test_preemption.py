"""Requests to end: signals, the end of a job, and how it is queued again. test_exact_resume.py has the runs."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_support import stored
from warm import run

from mvrec.errors import UserError
from mvrec.runs.preemption import REQUEUE_EXIT, Preemption, job_end_time, on_own_clock, requeue
from mvrec.runs.signals import REQUEUE, STOP, Requests

SIGNAL_AT_IMPORT = """
import os, signal, sys
from mvrec.cli.main import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mvrec.cli.lightning":  # whose imports take seconds
            os.kill(os.getpid(), signal.SIGUSR1)

sys.meta_path.insert(0, Finder())
del sys.modules["mvrec.cli.lightning"]
main()
"""


def test_a_signal_during_imports_is_not_lost(tiny, tmp_path):
    """The signal comes long before there is a trainer."""
    limits = ["--trainer.max_epochs=50", "--trainer.limit_val_batches=0", f"--run_dir={tmp_path}"]
    process = run("fit", *tiny, *limits, program=SIGNAL_AT_IMPORT)
    assert process.returncode == REQUEUE_EXIT, process.stderr
    assert stored(tmp_path)["global_step"] == 1


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(monkeypatch):
    for name in ("MVREC_STOP_SIGNALS", "MVREC_REQUEUE_SIGNALS"):
        monkeypatch.delenv(name, raising=False)
    requests = Requests()
    yield requests
    requests.restore()


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


def test_the_environment_sets_other_signals(requests, monkeypatch):
    monkeypatch.setenv("MVREC_REQUEUE_SIGNALS", "usr2, SIGXCPU")
    requests.listen()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert requests.level == REQUEUE
    assert signal.getsignal(signal.SIGUSR1) != requests._note
    for name in ("KILL", "USR3", "9"):
        monkeypatch.setenv("MVREC_STOP_SIGNALS", name)
        with pytest.raises(UserError, match=f"MVREC_STOP_SIGNALS={name}: '{name}' is not a signal that can be caught"):
            Requests().listen()


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
    for text, end in (("1700000000", 1.7e9), ("", None), ("Unknown", None)):
        assert job_end_time({"SLURM_JOB_END_TIME": text}) == end


def test_last_is_saved_once_per_interval(tmp_path):
    now = [1000.0]
    callback = Preemption(tmp_path, save_every_minutes=2, now=lambda: now[0])
    saved: list[tuple[float, Path]] = []
    trainer = SimpleNamespace(save_checkpoint=lambda path: saved.append((now[0], path)))
    for _ in range(10):
        callback.on_train_batch_end(trainer, None, None, None, 0)
        now[0] += 40
    assert saved == [(moment, tmp_path / "last.ckpt") for moment in (1120.0, 1240.0, 1360.0)]


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
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (tmp_path / "code").write_text("0")
    return tmp_path


def test_the_first_process_requeues_its_job(scontrol):
    array = {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}
    for environment in ({"SLURM_JOB_ID": "17"}, array, {**array, "SLURM_PROCID": "1"}):
        assert requeue(environment) == 0
    assert (scontrol / "called").read_text() == "requeue 17\nrequeue 17_2\n"


def test_a_refusal_of_slurm_is_a_message_and_an_exit_code(scontrol, caplog):
    (scontrol / "code").write_text("1")
    assert requeue({"SLURM_JOB_ID": "17"}) == REQUEUE_EXIT
    assert "scontrol requeue 17 failed: no such job" in caplog.text


def test_without_slurm_or_scontrol_the_exit_code_asks_for_another_start(scontrol, monkeypatch):
    for environment in ({}, {"SLURM_JOB_ID": "17; rm -rf /"}, {"SLURM_JOB_ID": ""}):
        assert requeue(environment) == REQUEUE_EXIT
    assert not (scontrol / "called").exists()
    monkeypatch.setenv("PATH", str(scontrol))
    for environment in ({"SLURM_JOB_ID": "17"}, {"SLURM_JOB_ID": "17", "SLURM_PROCID": "3"}):
        assert requeue(environment) == REQUEUE_EXIT
