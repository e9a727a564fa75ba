"""Differences between the processes of a run are found before its first step, and named with rank and host."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from warm import free_port, start

from mvrec.cluster import preflight
from mvrec.cluster.launch import Problem
from mvrec.cluster.preflight import SharedState, check_processes, first_difference
from mvrec.errors import UserError

FACTS = {"train": {"files": 36, "hash": "a"}, "val": {"files": 24, "hash": "b"}}


def facts(rank: int, *, problem: str = "", splits: dict | None = None) -> dict:
    return {"host": f"n{rank}", "splits": FACTS if splits is None else splits, "problem": problem}


@pytest.mark.parametrize(
    ("other", "count"), [({"files": 35, "hash": "a"}, 35), ({"files": 36, "hash": "c"}, 36), (None, None)]
)
def test_other_data_are_named_with_rank_host_and_split(other, count):
    assert first_difference([facts(0), facts(1), facts(2)]) == ""
    splits = {"val": FACTS["val"]} | ({"train": other} if other else {})
    assert first_difference([facts(0), facts(1), facts(2, splits=splits), facts(3, splits=splits)]) == (
        "rank 2 on n2 has other data than rank 0 on n0: "
        f"split 'train' has {count} files there and 36 here, or other paths or labels"
    )


def test_a_directory_that_is_not_shared_comes_before_the_data():
    text = first_difference([facts(0), facts(1, problem="does not see it", splits={})])
    assert text.startswith("rank 1 on n1 does not see it: the run directory must be on a file system that all")


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}


@pytest.fixture
def checked(monkeypatch) -> list[tuple[int, float]]:
    """The launches that were checked, with the seconds; each has a problem."""
    launches: list[tuple[int, float]] = []

    def check(launch, *, timeout_seconds):
        launches.append((launch.world_size, timeout_seconds))
        return SimpleNamespace(problems=(Problem("rank 1 on n1 is odd", "fix it"),))

    monkeypatch.setattr(preflight, "check_launch", check)
    return launches


def test_a_launch_is_checked_within_its_time(checked):
    for more in ({}, {"MVREC_PREFLIGHT_SECONDS": "7.5"}):
        with pytest.raises(UserError, match=r"^rank 1 on n1 is odd; fix it$"):
            check_processes({**TORCHRUN, **more})
    assert checked == [(2, 50.0), (2, 7.5)]
    with pytest.raises(UserError, match="MVREC_PREFLIGHT_SECONDS='soon' is not a number of seconds"):
        check_processes({**TORCHRUN, "MVREC_PREFLIGHT_SECONDS": "soon"})


def test_one_process_lightnings_own_children_and_who_asked_for_none_are_not_checked(checked):
    children = {key: value for key, value in TORCHRUN.items() if key != "TORCHELASTIC_RUN_ID"}
    for environment in ({}, children, TORCHRUN | {"MVREC_PREFLIGHT_SECONDS": "0"}, TORCHRUN | {"WORLD_SIZE": "1"}):
        check_processes(environment)
    assert checked == []


def test_an_environment_with_a_problem_is_not_even_joined(checked):
    job = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}
    with pytest.raises(UserError, match="the job is called 'bash'"):
        check_processes({**job, "SLURM_JOB_NAME": "bash", "SLURM_JOB_ID": "3", "MASTER_ADDR": "127.0.0.1"})
    assert checked == []


def shared(monkeypatch, run_dir: Path, *, rank: int):
    """`SharedState` of one of two equal processes, without the other one."""
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, src: None)
    monkeypatch.setattr(dist, "barrier", lambda: None)

    def gather(everyone, value):
        everyone[:] = [value, value]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    data = SimpleNamespace(record=lambda: {"splits": {}})
    trainer = SimpleNamespace(world_size=2, is_global_zero=rank == 0, datamodule=data)
    SharedState(run_dir).on_fit_start(trainer, None)  # type: ignore[arg-type]


def test_a_shared_directory_is_left_as_it_was_and_one_that_is_not_is_named(monkeypatch, tmp_path):
    shared(monkeypatch, tmp_path / "run", rank=0)
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(UserError, match=r"rank 0 on \S+ does not see what rank 0 writes in \S+run: the run directory"):
        shared(monkeypatch, tmp_path / "run", rank=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"rank 0 on \S+ cannot write in \S+file/run: Not a directory"):
        shared(monkeypatch, tmp_path / "file/run", rank=0)


def test_other_data_end_the_run(tiny, small_data, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(small_data, fewer)
    next(fewer.glob("val/grow/*.mp4")).unlink()
    arguments = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    arguments += ["--data=mvrec.data.Kinetics", "--trainer.num_nodes=2", "--trainer.devices=1"]
    arguments += [f"--run_dir={tmp_path / 'run'}", "--trainer.strategy=ddp"]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "x"}
    environment |= {"WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MVREC_PREFLIGHT_SECONDS": 300}
    processes = [
        start("fit", *arguments, f"--data.root={root}", env={**environment, "RANK": rank, "GROUP_RANK": rank})
        for rank, root in enumerate((small_data, fewer))
    ]
    codes = [process.wait() for process in processes]
    output = "".join(process.stdout + process.stderr for process in processes)
    assert all(codes), output
    assert not (tmp_path / "run/checkpoints").exists()
    assert "mvrec: error: rank 1 on" in output
    assert "split 'val' has 5 files there and 6 here" in output
