"""The job scripts of `slurm/` on a real Slurm of two nodes: no lost step, whatever ends a job."""

import contextlib
import csv
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from cluster import Cluster, missing_tools
from step_recorder import steps

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing_tools()), reason=f"no Slurm on this machine: {', '.join(missing_tools())}"),
]
TWO_BY_TWO = ["--nodes=2", "--ntasks-per-node=2"]


@pytest.fixture(scope="module")
def cluster():
    """Up for all tests of this file."""
    with tempfile.TemporaryDirectory(prefix="mvrec-slurm-") as folder:  # pytest's are closed to others, munge's may not
        Path(folder).chmod(0o755)
        found = Cluster(Path(folder))
        found.up()
        yield found
        found.down()


class Jobs:
    """Submits the project's scripts for small runs."""

    def __init__(self, cluster: Cluster, tiny: list[str], folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.flags = [argument for argument in tiny if "--config" not in argument and "demo.yaml" not in argument]
        self.environment = {
            "MVREC": str(Path(sys.executable).parent / "mvrec"),
            "PYTHONPATH": str(HERE.parent / "runs"),
            "PYTHONWARNINGS": "ignore",
            "MASTER_ADDR": "127.0.0.1",
            "MVREC_PREFLIGHT_SECONDS": "120",
        }

    def callbacks(self, name: str, *wanted: dict) -> list[str]:
        """A config with callbacks for tests, which record the samples of every step."""
        path = self.folder / f"{name}.yaml"
        record = {
            "class_path": "step_recorder.StepRecorder",
            "init_args": {"folder": str(self.folder / name / "steps")},
        }
        path.write_text(yaml.safe_dump({"trainer": {"callbacks": [*wanted, record]}}))
        return ["--config", str(path)]

    def fit(self, name: str, *more: str, slow: float = 0.0, sbatch: list[str] = TWO_BY_TWO) -> int:
        """Submit a training of two epochs of four steps; its run directory is `folder/name/run`."""
        (self.folder / name).mkdir(exist_ok=True)
        waits = {"class_path": "step_recorder.Slow", "init_args": {"seconds": slow, "rank": 3}}
        flags = [*self.callbacks(name, waits), *self.flags, "--data.batch_size=2", "--data.num_workers=2"]
        flags += [
            "--trainer.max_epochs=2",
            "--trainer.strategy=ddp_find_unused_parameters_true",
            "--model.mixing={}",
            *more,
        ]
        output = f"--output={self.folder / name}/job.out"
        environment = {**self.environment, "RUN_DIR": str(self.folder / name / "run")}
        script = [ROOT / "slurm/fit.sbatch", ROOT / "configs/demo.yaml"]
        return self.cluster.submit(output, *sbatch, *script, *flags, cwd=ROOT, environment=environment)

    def said(self, name: str) -> str:
        """What the job has printed."""
        path = self.folder / name / "job.out"
        return path.read_text() if path.is_file() else ""

    def steps_done(self, name: str) -> int:
        """How many optimiser steps rank 0 has begun."""
        path = self.folder / name / "steps/rank_0.jsonl"
        return len(path.read_text().splitlines()) if path.is_file() else 0

    def wait_for_step(self, number: int, name: str, step: int) -> None:
        """Wait until rank 0 has begun so many steps; says what the job has printed where it ends before."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        self.cluster.wait(
            f"job {number} is at step {step} or over",
            lambda: self.steps_done(name) >= step or self.cluster.job(number)["JobState"] in over,
            900,
        )
        assert self.steps_done(name) >= step, self.said(name)[-3000:]

    def end(self, number: int, name: str, *states: str) -> str:
        """Wait for the end of a job; returns what it printed."""
        try:
            self.cluster.wait_for(number, *states)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said(name)[-3000:]}") from None
        return self.said(name)

    def end_well(self, number: int, name: str) -> str:
        """Wait for the end of a job, which must not fail; returns what it printed."""
        said = self.end(number, name, "COMPLETED", "FAILED", "CANCELLED")
        assert self.cluster.job(number)["JobState"] == "COMPLETED", said
        return said

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """The last checkpoint's."""
        return torch.load(self.folder / name / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]

    def assert_whole(self, name: str) -> None:
        """The job's run is the one that nothing has interrupted: weights bit for bit, and every sample once."""
        ours, theirs = self.weights(name), self.weights("whole")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        found, expected = (steps(self.folder / which / "steps") for which in (name, "whole"))
        assert found.keys() == expected.keys()
        # A step that was begun and not finished is done again, with the same samples.
        assert all(sorted(set(found[step])) == sorted(set(expected[step])) for step in expected)


@pytest.fixture(scope="module")
def jobs(cluster, tiny, tmp_path_factory) -> Jobs:
    """With the uninterrupted run done: two nodes, two tasks each."""
    sys.path.insert(0, str(HERE.parent / "runs"))
    found = Jobs(cluster, tiny, tmp_path_factory.mktemp("jobs"))
    found.end(found.fit("whole"), "whole", "COMPLETED", "FAILED")
    return found


def test_a_job_on_two_nodes_trains_with_four_processes(jobs):
    said = jobs.said("whole")
    assert jobs.cluster.job(1)["JobState"] == "COMPLETED", said
    recorded = sorted(path.name for path in (jobs.folder / "whole/steps").iterdir())
    assert recorded == [f"rank_{rank}.jsonl" for rank in range(4)]
    found = steps(jobs.folder / "whole/steps")
    assert sorted(found) == list(range(8))
    assert all(len(set(rows)) == len(rows) == 8 for rows in found.values())  # nothing twice in a step of 4 x 2
    hosts = json.loads((jobs.folder / "whole/run/environment.json").read_text())["hosts"]
    assert len(hosts) == 4
    assert said.count("24/24 videos scored") >= 1


def test_a_signal_mid_epoch_loses_nothing(jobs):
    number = jobs.fit("signalled", slow=0.7)
    jobs.wait_for_step(number, "signalled", 3)
    jobs.cluster.call("scancel", "--signal=USR1", number)
    said = jobs.end_well(number, "signalled")
    assert int(jobs.cluster.job(number)["Restarts"]) == 1
    assert "asked to end (SIGUSR1): saving at step" in said
    assert "is queued again and will resume from here" in said
    assert "resume: going on from" in said
    jobs.assert_whole("signalled")


@pytest.mark.slow
def test_a_more_urgent_job_takes_the_nodes_and_nothing_is_lost(jobs):
    number = jobs.fit("preempted", slow=0.7)
    jobs.wait_for_step(number, "preempted", 3)
    urgent = jobs.cluster.submit(
        *("--partition=high", "--nodes=2", "--exclusive", f"--output={jobs.folder}/urgent.out", "--wrap=sleep 1"),
        cwd=ROOT,
    )
    jobs.cluster.wait_for(urgent, "COMPLETED")
    said = jobs.end_well(number, "preempted")
    assert "asked to end (SIGTERM): saving at step" in said
    jobs.assert_whole("preempted")


def send(jobs: Jobs, name: str, rank: int, number: int) -> int:
    """Send a signal to the process of a rank; returns its id."""
    pid = pid_of_rank(jobs, name, rank)
    assert pid > 0, f"no process of rank {rank} of {name}"
    os.kill(pid, number)
    return pid


def pid_of_rank(jobs: Jobs, name: str, rank: int) -> int:
    """The process of a rank, found by its environment; 0 where there is none."""
    wanted = {f"SLURM_PROCID={rank}".encode(), f"RUN_DIR={jobs.folder / name / 'run'}".encode()}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            command = (path / "cmdline").read_bytes()
            number = (path / "stat").read_text().rpartition(")")[2].split()[1]
            parent = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if b"mvrec" in command and wanted <= set(environment) and parent.startswith(b"slurmstepd"):
            return int(path.name)
    return 0


@pytest.mark.slow
def test_a_frozen_rank_ends_the_job_within_the_timeout_and_is_named(jobs):
    number = jobs.fit("frozen", "--hang_timeout_minutes=0.5", slow=1.0)
    jobs.wait_for_step(number, "frozen", 2)
    pid = send(jobs, "frozen", 3, signal.SIGSTOP)
    try:
        said = jobs.end(number, "frozen", "FAILED", "COMPLETED", "CANCELLED")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert jobs.cluster.job(number)["JobState"] == "FAILED", said
    assert re.search(rf"mvrec: error: rank 3 on \S+ \(pid {pid}\) has given no sign of life for \d+ s", said), said


def test_a_killed_rank_ends_the_job_and_the_next_goes_on(jobs):
    """Also where the kill has cut the newest checkpoint short."""
    number = jobs.fit("killed", "--save_every_minutes=0.01", slow=1.0)
    jobs.wait_for_step(number, "killed", 6)
    send(jobs, "killed", 1, signal.SIGKILL)
    said = jobs.end(number, "killed", "FAILED", "COMPLETED", "CANCELLED")
    assert jobs.cluster.job(number)["JobState"] == "FAILED", said
    checkpoints = jobs.folder / "killed/run/checkpoints"
    newest = checkpoints / "last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    said = jobs.end(jobs.fit("killed"), "killed", "COMPLETED", "FAILED")
    assert f"{newest} is damaged: using the one before" in said
    assert f"resume: going on from {checkpoints}/previous.ckpt" in said
    jobs.assert_whole("killed")


@pytest.mark.slow
def test_a_lost_node_is_made_up_for_from_the_last_checkpoint(jobs):
    """No signal comes: Slurm notices that the node is silent, and queues the job again."""
    number = jobs.fit("lost", "--save_every_minutes=0.01", slow=1.0)
    jobs.wait_for_step(number, "lost", 4)
    jobs.cluster.kill_daemon("slurmd.n2", signal.SIGKILL)
    silent = [send(jobs, "lost", rank, signal.SIGSTOP) for rank in (2, 3)]  # a lost machine closes no connection
    try:
        jobs.cluster.wait("the job is queued again", lambda: jobs.cluster.job(number)["Restarts"] == "1", 120)
    finally:
        for pid in silent:
            os.kill(pid, signal.SIGKILL)
        jobs.cluster.call("slurmd", "-N", "n2")
    said = jobs.end_well(number, "lost")
    assert "resume: going on from" in said
    jobs.assert_whole("lost")


@pytest.mark.slow
def test_another_job_in_the_same_place_starts_fresh(jobs, tmp_path):
    environment = {**jobs.environment, "RUN_DIR": ""}
    del environment["RUN_DIR"]
    flags = [*jobs.flags, "--data.num_workers=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    script = [ROOT / "slurm/sweep.sbatch", ROOT / "configs/demo.yaml", tmp_path / "values.txt", *flags]
    (tmp_path / "values.txt").write_text(
        "--model.optimizer.lr 1e-3\n--model.optimizer.lr '2e-3'\n--model.optimizer.lr 3e-3\n"
    )
    number = jobs.cluster.submit(
        "--array=0-2", f"--output={tmp_path}/sweep-%a.out", *script, cwd=tmp_path, environment=environment
    )
    for task in range(3):
        jobs.cluster.wait_for(f"{number}_{task}", "COMPLETED", "FAILED")
        said = (tmp_path / f"sweep-{task}.out").read_text()
        assert jobs.cluster.job(f"{number}_{task}")["JobState"] == "COMPLETED", said
        assert "a fresh start" in said
    rates = []
    for task in range(3):
        run_dir = tmp_path / f"runs/sweep-{number}_{task}"
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        rates.append(config["model"]["optimizer"]["init_args"]["lr"])
        assert torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    assert rates == [1e-3, 2e-3, 3e-3]


def test_an_evaluation_on_four_processes_scores_as_one(jobs, command, tmp_path):
    checkpoint = jobs.folder / "whole/run/checkpoints/last.ckpt"
    number = jobs.cluster.submit(
        *TWO_BY_TWO,
        f"--output={tmp_path}/test.out",
        ROOT / "slurm/test.sbatch",
        checkpoint,
        *("--trainer.strategy=ddp", f"--run_dir={tmp_path / 'four'}"),
        cwd=ROOT,
        environment=jobs.environment,
    )
    jobs.cluster.wait_for(number, "COMPLETED", "FAILED")
    assert jobs.cluster.job(number)["JobState"] == "COMPLETED", (tmp_path / "test.out").read_text()
    code, _, err = command("test", checkpoint, f"--run_dir={tmp_path / 'one'}", "--trainer.devices=1")
    assert code == 0, err
    four, one = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("four", "one"))
    assert (four["scored"], four["expected"]) == (one["scored"], one["expected"]) == (24, 24)
    assert four["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    rows = []
    for name in ("four", "one"):
        with (tmp_path / name / "predictions.csv").open(newline="") as file:
            rows.append([(row["path"], row["class_1"]) for row in csv.DictReader(file)])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        (
            {"MASTER_ADDR": "no.such.host.invalid"},
            ["configs/demo.yaml"],
            "MASTER_ADDR=no.such.host.invalid does not resolve",
        ),
        ({"MVREC": "/nowhere/mvrec"}, ["configs/demo.yaml"], "there is no /nowhere/mvrec on"),
        ({}, [], "usage: sbatch [flags] slurm/fit.sbatch CONFIG"),
    ],
    ids=["address", "no environment", "no config"],
)
def test_what_is_wrong_before_the_start_is_said_at_once(jobs, tmp_path, environment, arguments, message):
    script = [ROOT / "slurm/fit.sbatch", *(ROOT / argument for argument in arguments)]
    number = jobs.cluster.submit(
        f"--output={tmp_path}/job.out", *script, cwd=ROOT, environment={**jobs.environment, **environment}
    )
    assert jobs.cluster.wait_for(number, "FAILED", "COMPLETED", seconds=300)["JobState"] == "FAILED"
    assert message in (tmp_path / "job.out").read_text()


@pytest.mark.slow
def test_a_job_called_bash_is_refused(jobs, tmp_path):
    """Lightning would train four times alone."""
    output = [f"--output={tmp_path}/job.out", "--job-name=bash", *TWO_BY_TWO]
    script = [ROOT / "slurm/fit.sbatch", ROOT / "configs/demo.yaml", *jobs.flags]
    environment = {**jobs.environment, "RUN_DIR": str(tmp_path / "run")}
    number = jobs.cluster.submit(*output, *script, cwd=ROOT, environment=environment)
    assert jobs.cluster.wait_for(number, "FAILED", "COMPLETED")["JobState"] == "FAILED"
    assert "the job is called 'bash': Lightning takes it for an interactive one" in (tmp_path / "job.out").read_text()
