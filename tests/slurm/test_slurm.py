"""The job scripts of `slurm/` on a real Slurm of two nodes: no lost step, whatever ends a job."""

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from cluster import OVER, Cluster, missing_tools, text_of
from step_recorder import steps

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing_tools()), reason=f"no Slurm on this machine: {', '.join(missing_tools())}"),
]
TWO_BY_TWO = ["--nodes=2", "--ntasks-per-node=2"]
FIT = [ROOT / "slurm/fit.sbatch", ROOT / "configs/demo.yaml"]


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

    def output(self, name: str) -> Path:
        """Return the output of a job."""
        return self.folder / name / "job.out"

    def fit(self, name: str, *more: str, slow: float = 0.0) -> int:
        """Submit a training of two epochs of four steps, recorded in `name/steps`; its run directory is `name/run`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        callbacks = [
            {"class_path": "step_recorder.Slow", "init_args": {"seconds": slow, "rank": 3}},
            {"class_path": "step_recorder.StepRecorder", "init_args": {"folder": str(folder / "steps")}},
        ]
        (folder / "callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        flags = ["--config", str(folder / "callbacks.yaml"), *self.flags, "--data.batch_size=2", "--data.num_workers=2"]
        flags += ["--trainer.max_epochs=2", "--trainer.strategy=ddp_find_unused_parameters_true", "--model.mixing={}"]
        return self.cluster.submit(
            *(f"--output={self.output(name)}", *TWO_BY_TWO, *FIT, *flags, *more),
            cwd=ROOT,
            environment=self.environment | {"RUN_DIR": str(folder / "run")},
        )

    def wait_for_step(self, number: int, name: str, step: int) -> None:
        """Wait until rank 0 has begun so many steps; says what the job has printed where it ends before."""
        path = self.folder / name / "steps/rank_0.jsonl"

        def begun() -> bool:
            is_over = self.cluster.job(number)["JobState"] in OVER
            is_there = text_of(path).count("\n") >= step
            assert is_there or not is_over, text_of(self.output(name))[-3000:]
            return is_there

        self.cluster.wait(f"job {number} is at step {step}", begun, 900, self.output(name))

    def end(self, number: int, name: str, state: str = "COMPLETED") -> str:
        """Wait for the end of a job in this state; returns what it printed."""
        ended, printed = self.cluster.end(number, self.output(name))
        assert ended == state, printed
        return printed

    def assert_whole(self, name: str) -> None:
        """The job's run is the one that nothing has interrupted: weights bit for bit, and every sample once."""
        paths = [self.folder / run / "run/checkpoints/last.ckpt" for run in (name, "whole")]
        actual, reference = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
        assert all(torch.equal(actual[key], reference[key]) for key in reference)
        recorded, expected = (steps(self.folder / run / "steps") for run in (name, "whole"))
        assert recorded.keys() == expected.keys()
        # A step that was begun and not finished is done again, with the same samples.
        assert all(sorted(set(recorded[step])) == sorted(set(expected[step])) for step in expected)

    def send(self, name: str, rank: int, number: int) -> int:
        """Send a signal to the process of a rank, found by its environment; returns its id."""
        settings = {f"SLURM_PROCID={rank}".encode(), f"RUN_DIR={self.folder / name / 'run'}".encode()}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = set((path / "environ").read_bytes().split(b"\0"))
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                is_task = Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd")
                if is_task and settings <= environment and b"mvrec" in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), number)
                    return int(path.name)
        raise AssertionError(f"no process of rank {rank} of {name}")


@pytest.fixture(scope="module")
def jobs(tiny, tmp_path_factory) -> Iterator[Jobs]:
    """A cluster that is up, with the uninterrupted run done: two nodes, two tasks each."""
    with tempfile.TemporaryDirectory(prefix="mvrec-slurm-") as folder:  # pytest's are closed to others, munge's may not
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder))
        try:
            cluster.up()
            jobs = Jobs(cluster, tiny, tmp_path_factory.mktemp("jobs"))
            jobs.end(jobs.fit("whole"), "whole")
            yield jobs
        finally:
            cluster.down()


def test_a_job_on_two_nodes_trains_with_four_processes(jobs):
    recorded = sorted(path.name for path in (jobs.folder / "whole/steps").iterdir())
    assert recorded == [f"rank_{rank}.jsonl" for rank in range(4)]
    rows_of_steps = steps(jobs.folder / "whole/steps")
    assert sorted(rows_of_steps) == list(range(8))
    assert all(len(set(rows)) == len(rows) == 8 for rows in rows_of_steps.values())  # nothing twice in a step of 4 x 2
    hosts = json.loads((jobs.folder / "whole/run/environment.json").read_text())["hosts"]
    assert len(hosts) == 4
    assert "24/24 videos scored" in text_of(jobs.output("whole"))


def test_a_signal_mid_epoch_loses_nothing(jobs):
    number = jobs.fit("signalled", slow=0.7)
    jobs.wait_for_step(number, "signalled", 3)
    jobs.cluster.call("scancel", "--signal=USR1", number)
    printed = jobs.end(number, "signalled")
    assert int(jobs.cluster.job(number)["Restarts"]) == 1
    assert "asked to end (SIGUSR1): saving at step" in printed
    assert "is queued again and will resume from here" in printed
    assert "resume: going on from" in printed
    jobs.assert_whole("signalled")


@pytest.mark.slow
def test_a_more_urgent_job_takes_the_nodes_and_nothing_is_lost(jobs):
    number = jobs.fit("preempted", slow=0.7)
    jobs.wait_for_step(number, "preempted", 3)
    output = jobs.folder / "urgent.out"
    urgent = ("--partition=high", "--nodes=2", "--exclusive", f"--output={output}", "--wrap=sleep 1")
    assert jobs.cluster.end(jobs.cluster.submit(*urgent, cwd=ROOT), output)[0] == "COMPLETED"
    assert "asked to end (SIGTERM): saving at step" in jobs.end(number, "preempted")
    jobs.assert_whole("preempted")


def test_a_killed_rank_ends_the_job_and_the_next_goes_on(jobs):
    """Also where the kill has cut the newest checkpoint short."""
    number = jobs.fit("killed", "--save_every_minutes=0.01", slow=1.0)
    jobs.wait_for_step(number, "killed", 6)
    jobs.send("killed", 1, signal.SIGKILL)
    jobs.end(number, "killed", "FAILED")
    checkpoints = jobs.folder / "killed/run/checkpoints"
    newest = checkpoints / "last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    printed = jobs.end(jobs.fit("killed"), "killed")
    assert f"{newest} is damaged: using the one before" in printed
    assert f"resume: going on from {checkpoints}/previous.ckpt" in printed
    jobs.assert_whole("killed")


@pytest.mark.slow
def test_a_job_that_loses_a_node_goes_on_from_the_last_checkpoint(jobs):
    """No signal comes: Slurm notices that the node is silent, and queues the job again."""
    number = jobs.fit("lost", "--save_every_minutes=0.01", slow=1.0)
    jobs.wait_for_step(number, "lost", 4)
    jobs.cluster.end_daemon("slurmd.n2", signal.SIGKILL)
    silent = [jobs.send("lost", rank, signal.SIGSTOP) for rank in (2, 3)]  # a lost machine closes no connection
    try:
        jobs.cluster.wait("the job is queued again", lambda: jobs.cluster.job(number)["Restarts"] == "1", 300)
    finally:
        for pid in silent:
            os.kill(pid, signal.SIGKILL)
        jobs.cluster.call("slurmd", "-N", "n2")
    assert "resume: going on from" in jobs.end(number, "lost")
    jobs.assert_whole("lost")


@pytest.mark.slow
def test_jobs_of_a_sweep_start_fresh_in_directories_of_their_own(jobs, tmp_path):
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    rates = ["1e-3", "'2e-3'", "3e-3"]
    (tmp_path / "values.txt").write_text("".join(f"--model.optimizer.lr {rate}\n" for rate in rates))
    script = [ROOT / "slurm/sweep.sbatch", ROOT / "configs/demo.yaml", tmp_path / "values.txt", *jobs.flags]
    script += ["--data.num_workers=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    output = f"--output={tmp_path}/sweep-%a.out"
    number = jobs.cluster.submit("--array=0-2", output, *script, cwd=tmp_path, environment=jobs.environment)
    for task, rate in enumerate((1e-3, 2e-3, 3e-3)):
        state, printed = jobs.cluster.end(f"{number}_{task}", tmp_path / f"sweep-{task}.out")
        assert state == "COMPLETED", printed
        assert "a fresh start" in printed
        run_dir = tmp_path / f"runs/sweep-{number}_{task}"
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        assert config["model"]["optimizer"]["init_args"]["lr"] == rate
        assert torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 1


def test_an_evaluation_on_four_processes_scores_every_file(jobs, tmp_path):
    checkpoint, output = jobs.folder / "whole/run/checkpoints/last.ckpt", tmp_path / "test.out"
    script = [ROOT / "slurm/test.sbatch", checkpoint, "--trainer.strategy=ddp", f"--run_dir={tmp_path / 'four'}"]
    number = jobs.cluster.submit(*TWO_BY_TWO, f"--output={output}", *script, cwd=ROOT, environment=jobs.environment)
    state, printed = jobs.cluster.end(number, output)
    assert state == "COMPLETED", printed
    assert "24/24 videos scored" in printed
    assert len((tmp_path / "four/predictions.csv").read_text().splitlines()) == 1 + 24


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_task_of_places_trains_and_is_scored_on_four_processes(jobs, tmp_path, task):
    run_dir, counts = tmp_path / "run", {"train": 16, "val": 6, "test": 6}
    flags = [f"--data.root={tmp_path / 'scenes'}", "--data.batch_size=2", "--data.num_workers=0"]
    flags += [*(f"--data.{split}_images={count}" for split, count in counts.items()), "--trainer.max_steps=2"]
    fit = [ROOT / "slurm/fit.sbatch", ROOT / f"configs/demo_{task}.yaml", *flags, "--trainer.strategy=ddp"]
    test = [ROOT / "slurm/test.sbatch", run_dir / "checkpoints/last.ckpt", "--trainer.strategy=ddp"]
    for name, script, folder in (("fit", fit, run_dir), ("test", test, tmp_path / "tested")):
        output, environment = tmp_path / f"{name}.out", jobs.environment | {"RUN_DIR": str(folder)}
        more = [f"--run_dir={folder}"] if name == "test" else []
        number = jobs.cluster.submit(
            *(*TWO_BY_TWO, f"--output={output}", *script, *more), cwd=ROOT, environment=environment
        )
        state, printed = jobs.cluster.end(number, output)
        assert state == "COMPLETED", printed
        assert "6/6 images scored" in printed
    assert len((tmp_path / "tested/predictions.csv").read_text().splitlines()) == 1 + 6


def test_what_is_wrong_before_the_start_is_said_at_once(jobs, tmp_path):
    for environment, arguments, message in (
        ({"MASTER_ADDR": "no.such.host.invalid"}, FIT, "MASTER_ADDR=no.such.host.invalid does not resolve"),
        ({"MVREC": "/nowhere/mvrec"}, FIT, "there is no /nowhere/mvrec on"),
        ({}, FIT[:1], "usage: sbatch [flags] slurm/fit.sbatch CONFIG"),
    ):
        output, environment = tmp_path / "job.out", jobs.environment | environment
        number = jobs.cluster.submit(f"--output={output}", *arguments, cwd=ROOT, environment=environment)
        state, printed = jobs.cluster.end(number, output)
        assert (state, message in printed) == ("FAILED", True), printed
        output.unlink()
