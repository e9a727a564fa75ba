"""A run that a cluster ends is saved at the same batch by all processes and goes on as if nothing had been."""

import csv
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
import yaml
from step_recorder import steps

from mvrec.errors import UserError
from mvrec.runs.preemption import REQUEUE_EXIT, Preemption, job_end_time, on_own_clock, requeue
from mvrec.runs.signals import REQUEUE, STOP, STOP_EXIT, Requests

HERE = Path(__file__).parent
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
KNOBS = [
    *("--data.batch_size=3", "--data.repeats=2", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=2"),
    *("--data.augment.random_erasing.probability=0.5", "--model.mixing={}", "--model.backbone.head_dropout=0.3"),
    "--data.num_workers=2",
]


def fit(tiny, run_dir: Path, *more: str, callbacks: list[dict], environment: dict[str, str] | None = None):
    """`mvrec fit` as a process of its own, with steps recorded."""
    run_dir.mkdir(parents=True, exist_ok=True)
    record = {"class_path": "step_recorder.StepRecorder", "init_args": {"folder": str(run_dir / "steps")}}
    config = run_dir / "callbacks.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [EMA, *callbacks, record]}}))
    arguments = [*tiny, *KNOBS, f"--config={config}", f"--run_dir={run_dir / 'run'}", "--resume=auto", *more]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **(environment or {})}
    command = [sys.executable, "-m", "mvrec", "fit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=own, check=False)


def signal_at(batch: int, name: str, rank: int = 0) -> dict:
    return {"class_path": "step_recorder.SignalAt", "init_args": {"batch": batch, "name": name, "rank": rank}}


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "run/checkpoints/last.ckpt", weights_only=True)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, averages, optimiser, and every logged value but the times."""
    a, b = checkpoint(ours), checkpoint(theirs)
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
    first, second = (saved["optimizer_states"][0]["state"] for saved in (a, b))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])
    rows = []
    for folder in (ours, theirs):
        with (folder / "run/metrics.csv").open(newline="") as file:
            rows.append(
                [
                    (int(row["step"]), row["train/loss"], row["train/lr"], row["val/loss"])
                    for row in csv.DictReader(file)
                    if row["train/loss"] or row["val/loss"]
                ]
            )
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> dict[int, Path]:
    """The same run from start to end, on one process and on two."""
    folders = {}
    for devices in (1, 2):
        folders[devices] = tmp_path_factory.mktemp(f"whole{devices}")
        result = fit(tiny, folders[devices], *ddp(devices), callbacks=[])
        assert result.returncode == 0, result.stderr
    return folders


def ddp(devices: int) -> list[str]:
    return ["--trainer.strategy=ddp", f"--trainer.devices={devices}"] if devices > 1 else []


@pytest.mark.parametrize(
    ("batch", "name", "devices", "rank", "code"),
    [
        (5, "USR1", 1, 0, REQUEUE_EXIT),
        pytest.param(6, "TERM", 1, 0, STOP_EXIT, marks=pytest.mark.slow),
        pytest.param(12, "USR1", 1, 0, REQUEUE_EXIT, marks=pytest.mark.slow),
        (3, "TERM", 2, 1, STOP_EXIT),  # Lightning would broadcast in its handler, and wait for ever
    ],
)
def test_a_signal_at_any_batch_loses_nothing(tiny, whole, tmp_path, batch, name, devices, rank, code):
    result = fit(tiny, tmp_path, *ddp(devices), callbacks=[signal_at(batch, name, rank)])
    assert result.returncode == code, result.stderr
    assert f"asked to end (SIG{name})" in result.stderr or rank > 0
    assert "Traceback" not in result.stderr
    stopped = checkpoint(tmp_path)["global_step"]
    assert 0 < stopped < checkpoint(whole[devices])["global_step"]
    assert "val:" not in result.stderr.split("asked to end")[1]  # no validation that nobody has time for
    result = fit(tiny, tmp_path, *ddp(devices), callbacks=[])
    assert result.returncode == 0, result.stderr
    assert f"going on from {tmp_path / 'run/checkpoints/last.ckpt'} at step {stopped}" in result.stderr
    assert_same_run(tmp_path, whole[devices])
    # Also the samples; those of the step that the signal came in are read twice.
    ours, theirs = steps(tmp_path / "steps"), steps(whole[devices] / "steps")
    assert {step: rows for step, rows in ours.items() if step != stopped} == {
        step: rows for step, rows in theirs.items() if step != stopped
    }


def test_a_signal_during_imports_is_not_lost(tiny, tmp_path):
    """It comes when Python is at its first imports, long before there is a trainer."""
    config = ["--trainer.max_epochs=50", f"--run_dir={tmp_path / 'run'}"]
    command = [sys.executable, "-X", "importtime", "-m", "mvrec", "fit", *tiny, *config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "mvrec.messages" in line:  # the last of our own imports before torch's
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == REQUEUE_EXIT, err[-2000:]
    assert checkpoint(tmp_path)["global_step"] == 1


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
