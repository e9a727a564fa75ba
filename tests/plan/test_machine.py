"""Cores and threads of a process: by affinity, control groups, Slurm and the number of processes."""

import os

import pytest
import torch

from mvrec import machine
from mvrec.cli.lightning import instantiate
from mvrec.data.loading.loader import worker_count
from mvrec.machine import cores_per_process, cpu_quota, limit_threads, visible_cores
from mvrec.tasks.base import Task

FREE = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}
TWO = {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


def in_folder(name, files):
    return {f"{name}/{file}": text for file, text in files.items()}


@pytest.fixture
def big_machine(tmp_path, monkeypatch):
    """A machine of 64 cores, without limits: the folder of its control groups, and the file with those of a process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(machine, "set_by_mvrec", {})
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_NTASKS_PER_NODE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("groups", "files", "quota", "cores"),
    [
        pytest.param("0::/", {"cpu.max": "200000 100000"}, 2, 2, id="version 2"),
        pytest.param("0::/", {"cpu.max": "150000 100000"}, 1.5, 2, id="a part of a core counts in full"),
        pytest.param("0::/", {"cpu.max": "5000 100000"}, 0.05, 1, id="at least one"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, None, 64, id="no limit"),
        pytest.param("0::/", {"cpu.max": "9900000 100000"}, 99, 64, id="more than there are"),
        pytest.param("0::/a/b", {"cpu.max": "max 1", "a/cpu.max": "3 1", "a/b/cpu.max": "max 1"}, 3, 3, id="parent"),
        pytest.param("0::/a", {"cpu.max": "8 1", "a/cpu.max": "4 1"}, 4, 4, id="the least of all levels"),
        pytest.param("0::/a", {"a/cpu.max": "4 1", "b/cpu.max": "1 1"}, 4, 4, id="not of another group"),
        pytest.param("0::/docker/x", {"cpu.max": "2 1"}, 2, 2, id="the host's path, in a container"),
        pytest.param("0::/../../x", {"cpu.max": "2 1"}, 2, 2, id="a path outside of the container"),
        pytest.param("3:cpu,cpuacct:/\n2:cpuset:/", in_folder("cpu", TWO), 2, 2, id="version 1"),
        pytest.param("3:cpu,cpuacct:/", in_folder("cpu,cpuacct", TWO), 2, 2, id="version 1, by its controllers"),
        pytest.param("3:cpu:/a/b", in_folder("cpu", FREE) | in_folder("cpu/a", TWO), 2, 2, id="version 1, parent"),
        pytest.param("1:cpu:/\n0::/a", in_folder("unified/a", {"cpu.max": "2 1"}), 2, 2, id="both versions"),
        pytest.param("0::/", in_folder("cpu", FREE), None, 64, id="version 1 without a limit"),
        pytest.param("0::/", {"cpu.max": "2 0"}, None, 64, id="period 0"),
        pytest.param("nonsense\n\n::", {"cpu.max": "many"}, None, 64, id="broken files"),
        pytest.param(None, {}, None, 64, id="no files"),
    ],
)
def test_cores_that_control_groups_allow(big_machine, groups, files, quota, cores):
    if groups is not None:
        write(big_machine, {"self": groups})
    write(big_machine / "cgroup", files)
    assert cpu_quota() == quota
    assert visible_cores({}) == cores


@pytest.mark.parametrize(
    ("environment", "processes", "cores"),
    [
        ({}, 1, 32),
        ({}, 2, 16),
        ({"LOCAL_WORLD_SIZE": "4"}, 1, 8),
        ({"LOCAL_WORLD_SIZE": "4"}, 4, 8),
        ({"LOCAL_WORLD_SIZE": "100"}, 1, 1),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 1, 4),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS_PER_NODE": "8"}, 8, 2),
        ({"SLURM_CPUS_PER_TASK": "7", "SLURM_NTASKS_PER_NODE": "4"}, 4, 7),
        ({"SLURM_CPUS_PER_TASK": "40"}, 1, 32),
        ({"SLURM_CPUS_PER_TASK": "24", "SLURM_NTASKS_PER_NODE": "1", "LOCAL_WORLD_SIZE": "4"}, 4, 6),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_NTASKS_PER_NODE": "4", "LOCAL_WORLD_SIZE": "4"}, 4, 6),
        ({"SLURM_CPUS_PER_TASK": "many"}, 1, 32),
    ],
)
def test_processes_of_a_machine_share_its_cores(big_machine, environment, processes, cores):
    write(big_machine / "cgroup", {"cpu.max": "32 1"})
    assert cores_per_process(processes, environment) == cores


@pytest.mark.parametrize(
    ("environment", "processes", "before", "after"),
    [
        ({}, 1, 5, 3),
        ({}, 1, 2, 2),  # by torch.set_num_threads
        ({}, 2, 5, 1),
        ({"OMP_NUM_THREADS": "5"}, 1, 5, 5),
        ({"MKL_NUM_THREADS": "5"}, 1, 5, 5),
    ],
)
def test_threads_are_limited_unless_the_user_has_set_any(
    big_machine, monkeypatch, environment, processes, before, after
):
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    limit_threads(1, environment | {})
    assert threads == []  # without a limit of the machine torch's own number stays

    write(big_machine / "cgroup", {"cpu.max": "300000 100000"})
    changed = dict(environment)
    limit_threads(1, changed)  # of the command, before it knows the number of processes
    limit_threads(processes, changed)
    assert (threads or [before])[-1] == after
    assert changed == environment or changed == {"OMP_NUM_THREADS": str(3 // processes)}


@pytest.mark.parametrize(("devices", "threads"), [(1, 2), (2, 1)])
def test_a_fit_in_a_container_of_two_cores(big_machine, monkeypatch, tiny, command, devices, threads):
    """Threads and loader workers of the run itself; on two devices of the first process, before it starts the other."""
    write(big_machine / "cgroup", {"cpu.max": "200000 100000"})
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    counts = []
    step = Task.training_step
    monkeypatch.setattr(Task, "training_step", lambda *args: counts.append(torch.get_num_threads()) or step(*args))
    torch.set_num_threads(4)
    try:
        arguments = ["fit", *tiny, f"--trainer.devices={devices}", "--trainer.fast_dev_run=1"]
        if devices == 1:
            assert command(*arguments)[0] == 0
        else:
            instantiate(arguments)
            counts.append(torch.get_num_threads())
        assert counts == [threads]
        assert os.environ["OMP_NUM_THREADS"] == str(threads)  # for processes that the run starts
        assert worker_count("auto", processes=devices) == threads
    finally:
        torch.set_num_threads(1)
