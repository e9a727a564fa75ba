"""What differs between the processes of a run is found before its first step, and told with rank and host."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from warm import free_port, start

from mvrec.cluster import preflight
from mvrec.cluster.launch import Problem
from mvrec.cluster.preflight import SharedState, check_processes, first_difference
from mvrec.data.generated.moving_digits_video import generate_moving_digits
from mvrec.errors import UserError

FACTS = {"train": {"files": 36, "hash": "a"}, "val": {"files": 24, "hash": "b"}}


def told(rank: int, *, problem: str = "", splits: dict | None = None) -> dict:
    return {"host": f"n{rank}", "splits": FACTS if splits is None else splits, "problem": problem}


def test_equal_processes_are_no_news():
    assert first_difference([told(0), told(1), told(2)]) == ""


@pytest.mark.parametrize(
    ("other", "end"),
    [
        ({"files": 35, "hash": "a"}, "split 'train' has 35 files there and 36 here, or other paths or labels"),
        ({"files": 36, "hash": "c"}, "split 'train' has 36 files there and 36 here, or other paths or labels"),
        (None, "split 'train' has None files there and 36 here, or other paths or labels"),
    ],
)
def test_other_data_are_named_with_rank_host_and_split(other, end):
    splits = {"val": FACTS["val"]} | ({"train": other} if other else {})
    found = first_difference([told(0), told(1), told(2, splits=splits), told(3, splits=splits)])
    assert found == f"rank 2 on n2 has other data than rank 0 on n0: {end}"


def test_a_directory_that_is_not_shared_comes_before_the_data():
    found = first_difference([told(0), told(1, problem="does not see it", splits={})])
    assert found.startswith("rank 1 on n1 does not see it: the run directory must be on a file system that all")


# -- before the processes join ---------------------------------------------------------------------------------------

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}


@pytest.fixture
def checked(monkeypatch) -> list[tuple[int, float]]:
    """The launches that were checked, with the seconds; each has a problem."""
    found: list[tuple[int, float]] = []

    def check(launch, *, timeout_seconds):
        found.append((launch.world_size, timeout_seconds))
        return SimpleNamespace(problems=(Problem("rank 1 on n1 is odd", "mend it"),))

    monkeypatch.setattr(preflight, "check_launch", check)
    return found


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, (2, 50.0)), ({"MVREC_PREFLIGHT_SECONDS": "7.5"}, (2, 7.5))],
)
def test_a_launch_is_checked_within_its_time(checked, more, expected):
    with pytest.raises(UserError, match=r"^rank 1 on n1 is odd; mend it$"):
        check_processes({**TORCHRUN, **more})
    assert checked == [expected]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},  # Lightning's own children
        {**TORCHRUN, "MVREC_PREFLIGHT_SECONDS": "0"},
        {**TORCHRUN, "WORLD_SIZE": "1"},
    ],
    ids=["alone", "own children", "left out", "one process"],
)
def test_what_needs_no_check(checked, environment):
    check_processes(environment)
    assert checked == []


def test_no_number_of_seconds():
    with pytest.raises(UserError, match="MVREC_PREFLIGHT_SECONDS='soon' is not a number of seconds"):
        check_processes({**TORCHRUN, "MVREC_PREFLIGHT_SECONDS": "soon"})


def test_an_environment_with_a_problem_is_not_even_joined(checked):
    job = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}
    with pytest.raises(UserError, match="the job is called 'bash'"):
        check_processes({**job, "SLURM_JOB_NAME": "bash", "SLURM_JOB_ID": "3", "MASTER_ADDR": "127.0.0.1"})
    assert checked == []


# -- after they have joined ------------------------------------------------------------------------------------------


def shared(monkeypatch, run_dir: Path, *, rank: int, marks: list[str] | None = None):
    """`SharedState` of one of two equal processes, without the other one."""
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, src: None)
    monkeypatch.setattr(dist, "barrier", lambda: None)

    def gather(everyone, mine):
        everyone[:] = [mine, mine]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    data = SimpleNamespace(record=lambda: {"splits": {}})
    trainer = SimpleNamespace(world_size=2, is_global_zero=rank == 0, datamodule=data)
    SharedState(run_dir).on_fit_start(trainer, None)  # type: ignore[arg-type]


def test_the_directory_is_written_to_and_left_as_it_was(monkeypatch, tmp_path):
    shared(monkeypatch, tmp_path / "run", rank=0)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_that_does_not_see_the_directory(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"rank 0 on \S+ does not see what rank 0 writes in \S+run: the run directory"):
        shared(monkeypatch, tmp_path / "run", rank=1)


def test_a_directory_that_cannot_be_written_to(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"rank 0 on \S+ cannot write in \S+file/run: Not a directory"):
        shared(monkeypatch, tmp_path / "file/run", rank=0)


# -- whole runs of two processes -------------------------------------------------------------------------------------


def launch(tiny: list[str], tmp_path: Path, *second: str, other: dict[str, str] | None = None) -> str:
    """Run `mvrec fit` as torchrun starts it on two machines; returns what both have printed when both have failed."""
    base = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "x"}
    base |= {"WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MVREC_PREFLIGHT_SECONDS": 300}
    common = [*tiny, f"--run_dir={tmp_path / 'run'}", "--trainer.num_nodes=2", "--trainer.devices=1"]
    common.append("--trainer.strategy=ddp")
    processes = [
        start("fit", *common, env={**base, "RANK": 0, "GROUP_RANK": 0}),
        start("fit", *common, *second, env={**base, "RANK": 1, "GROUP_RANK": 1, **(other or {})}),
    ]
    codes = [process.wait() for process in processes]
    output = "".join(process.stdout + process.stderr for process in processes)
    assert all(codes), output
    assert not (tmp_path / "run/checkpoints").exists()
    return output


def test_other_data_end_the_run(tiny, tmp_path):
    root = tmp_path / "fewer"
    generate_moving_digits(root, clips_per_class={"train": 3, "val": 3, "test": 3})
    output = launch(tiny, tmp_path, f"--data.root={root}", "--data.eval_clips_per_class=3")
    assert "mvrec: error: rank 1 on" in output
    assert "split 'val' has 36 files there and 24 here" in output


@pytest.mark.slow
def test_another_run_directory_ends_the_run(tiny, tmp_path):
    output = launch(tiny, tmp_path, f"--run_dir={tmp_path / 'elsewhere'}")
    assert "mvrec: error: rank 1 on" in output
    assert "does not see what rank 0 writes in" in output


@pytest.mark.slow
def test_other_versions_end_the_run(tiny, tmp_path):
    info = tmp_path / "packages/torchmetrics-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchmetrics\nVersion: 0.0.1\n")
    output = launch(tiny, tmp_path, other={"PYTHONPATH": str(info.parent)})
    assert "mvrec: error: torchmetrics is" in output
    assert "rank 1 on" in output
    assert "has 0.0.1; start all from the same environment" in output
