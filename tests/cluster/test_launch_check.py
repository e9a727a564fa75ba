"""Launches of real processes on this machine, most of them with something wrong."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
import warnings
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from mvrec.cluster.launch import Launch, Problem, expand_counts, expand_hosts, launch_of
from mvrec.cluster.launch_check import check_launch, versions_here
from mvrec.cluster.launch_verdict import Process, judge_equal, judge_missing
from mvrec.errors import UserError

HOST = socket.gethostname()


def free_port():
    """A port that nobody has, and that the system deals to no connection of another test in the meantime."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # Linux deals from 32768 on
        with socket.socket() as attempt, suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            return port


class Rank:
    """What one process of a launch does that the others do not."""

    def __init__(self, rank, *, at="", do="", times=1, versions=None, **changes):
        self.rank, self.at, self.do, self.times, self.changes = rank, at, do, times, changes
        self.versions = None if versions is None else {**versions_here(), **versions}


def _live(launch, rank, seconds, output):
    def on_stage(stage):
        if stage == rank.at:
            if rank.do == "sleep":
                time.sleep(60)
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "die": signal.SIGKILL}[rank.do])

    torch.set_num_threads(1)
    reports = [
        check_launch(launch, timeout_seconds=seconds, backend="gloo", versions=rank.versions, on_stage=on_stage)
        for _ in range(rank.times)
    ]
    assert not torch.distributed.is_initialized() or not reports[-1].ok
    output.write_text(json.dumps([report.as_dict() for report in reports]))
    os._exit(0)


def launched(tmp_path, ranks, *, world_size=None, seconds=8.0, port=None):
    """Run processes; returns the last report of each that came to one, by its place in `ranks`, and the seconds."""
    context = multiprocessing.get_context("fork")
    port = port or free_port()
    size = world_size or len(ranks)
    started = []
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        for place, rank in enumerate(ranks):
            launch = Launch("environment", rank.rank, size, rank.rank, size, "127.0.0.1", port)
            launch = replace(launch, **rank.changes)
            output = tmp_path / f"{place}.json"
            process = context.Process(target=_live, args=(launch, rank, seconds, output))
            process.start()
            started.append(process)
    ends = {}
    try:
        for place, (process, rank) in enumerate(zip(started, ranks, strict=True)):
            if rank.do != "stop":
                process.join(seconds + 10)
                ends[place] = time.monotonic() - begin
    finally:
        for process in started:
            process.kill()
            process.join()
    reports = {
        place: json.loads((tmp_path / f"{place}.json").read_text())
        for place in range(len(ranks))
        if (tmp_path / f"{place}.json").exists()
    }
    return reports, max(ends.values()), [process.pid for process in started]


def texts(report):
    return " | ".join(problem["text"] for problem in report["problems"])


def test_a_launch_that_holds_together(tmp_path):
    reports, seconds, pids = launched(tmp_path, [Rank(0, times=2), Rank(1, times=2), Rank(2, times=2)])
    assert seconds < 8
    assert len(reports) == 3
    for place, both in reports.items():
        for report in both:  # a second check of the same processes is as good
            assert report["ok"], texts(report)
            assert report["rank"] == place
            assert [one["pid"] for one in report["processes"]] == pids
            assert {one["host"] for one in report["processes"]} == {HOST}
            assert report["all_reduce_ms"] > 0
            assert report["backend"] == "gloo"


def test_a_launch_of_one(tmp_path):
    reports, _, _ = launched(tmp_path, [Rank(0)])
    assert reports[0][0]["ok"], texts(reports[0][0])


def test_a_rank_that_never_comes_is_named_to_all(tmp_path):
    reports, seconds, _ = launched(tmp_path, [Rank(0), Rank(2)], world_size=3, seconds=6)
    assert seconds < 6
    for (report,) in reports.values():
        assert texts(report) == f"1 of 3 processes never came: rank 1 (expected on {HOST})"
        assert [problem["ranks"] for problem in report["problems"]] == [[1]]
    assert len(reports) == 2


@pytest.mark.parametrize("stage", ["registered", "joining", "adding up"])
def test_a_rank_that_is_stopped_is_named(tmp_path, stage):
    reports, seconds, pids = launched(tmp_path, [Rank(0), Rank(1, at=stage, do="stop"), Rank(2)], seconds=12)
    assert seconds < 10
    assert set(reports) == {0, 2}
    for (report,) in reports.values():
        (problem,) = report["problems"]
        assert problem["text"].startswith(f"rank 1 on {HOST} (pid {pids[1]}) stopped answering")
        assert repr(stage) in problem["text"]
        assert problem["ranks"] == [1]
        assert f"-p {pids[1]}" in problem["fix"]


def test_a_rank_that_dies_is_named(tmp_path):
    reports, seconds, pids = launched(tmp_path, [Rank(0), Rank(1), Rank(2, at="adding up", do="die")], seconds=12)
    assert seconds < 12
    assert set(reports) == {0, 1}
    for (report,) in reports.values():
        assert texts(report).startswith(f"rank 2 on {HOST} (pid {pids[2]}) stopped answering")


def test_a_rank_that_lives_and_does_not_get_on_is_named(tmp_path):
    reports, seconds, pids = launched(tmp_path, [Rank(0), Rank(1, at="registered", do="sleep"), Rank(2)], seconds=6)
    assert seconds < 8
    assert set(reports) == {0, 1, 2}
    assert f"the others wait for rank 1 on {HOST} (pid {pids[1]}), stuck in stage 'registered'" in texts(reports[2][0])


def test_rank_0_that_is_stopped_is_told_by_the_others(tmp_path):
    reports, seconds, _ = launched(tmp_path, [Rank(0, at="joining", do="stop"), Rank(1)], seconds=5)
    assert seconds < 10
    assert set(reports) == {1}
    assert "rank 0 at 127.0.0.1:" in texts(reports[1][0])
    assert "gave no answer for 5 s: it is stopped or hung" in texts(reports[1][0])
    assert not reports[1][0]["processes"]


def test_other_versions_are_named_with_rank_and_host(tmp_path):
    reports, _, pids = launched(tmp_path, [Rank(0), Rank(1), Rank(2, versions={"torchmetrics": "0.1.0", "av": None})])
    for (report,) in reports.values():
        assert not report["ok"]
        installed = versions_here()
        first, second = sorted(problem["text"] for problem in report["problems"])
        who = f"rank 2 on {HOST} (pid {pids[2]})"
        assert first == f"av is {installed['av']} on most processes, but {who} has none"
        assert second == f"torchmetrics is {installed['torchmetrics']} on most processes, but {who} has 0.1.0"
        assert report["all_reduce_ms"] > 0  # it is tried all the same


def test_a_wrong_port_on_one_rank(tmp_path):
    other = free_port()
    reports, seconds, _ = launched(tmp_path, [Rank(0), Rank(1, port=other)], seconds=5)
    assert seconds < 6
    assert "never came: rank 1" in texts(reports[0][0])
    assert f"rank 1 on {HOST}: nobody answers at 127.0.0.1:{other}" in texts(reports[1][0])


def test_a_master_address_that_is_no_name(tmp_path):
    reports, _, _ = launched(tmp_path, [Rank(0), Rank(1, address="no-such-host.invalid")], seconds=5)
    assert "this host does not know the name MASTER_ADDR=no-such-host.invalid" in texts(reports[1][0])
    assert "never came: rank 1" in texts(reports[0][0])


def test_a_master_address_of_another_machine(tmp_path):
    reports, seconds, _ = launched(tmp_path, [Rank(0, address="192.0.2.1")], world_size=2, seconds=5)
    assert seconds < 6
    assert "MASTER_ADDR=192.0.2.1 is not an address of this host" in texts(reports[0][0])
    assert "hostname -I" in reports[0][0]["problems"][0]["fix"]


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        reports, _, _ = launched(tmp_path, [Rank(0)], world_size=2, seconds=5, port=port)
    assert f"port {port} cannot be opened" in texts(reports[0][0])
    assert f"grep {port}" in reports[0][0]["problems"][0]["fix"]


def test_two_of_one_rank(tmp_path):
    reports, _, pids = launched(tmp_path, [Rank(0), Rank(1), Rank(1)], world_size=2, seconds=5)
    both = [report for (report,) in reports.values() if "two processes say that they are rank 1" in texts(report)]
    assert len(both) == 3
    assert str(pids[1]) in texts(both[0])
    assert str(pids[2]) in texts(both[0])


def test_processes_that_count_differently(tmp_path):
    reports, _, _ = launched(tmp_path, [Rank(0), Rank(1, world_size=3)], seconds=5)
    assert "processes disagree on their number (2: rank 0" in texts(reports[0][0])
    assert "3: rank 1" in texts(reports[1][0])


def test_what_is_wrong_with_the_environment_is_told_once(tmp_path):
    trap = Problem("the job is called 'bash'", "name it")
    reports, _, _ = launched(tmp_path, [Rank(0, problems=(trap,)), Rank(1, problems=(trap,))])
    assert texts(reports[1][0]) == "the job is called 'bash'"


# -- what launchers say -----------------------------------------------------------------------------------------------

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
}


def test_torchrun_and_srun_are_understood():
    assert launch_of({"PATH": "/bin"}) is None
    assert launch_of(TORCHRUN) == Launch("torchrun", 5, 8, 1, 4, "n1", 29500, agent_store=True, attempt=2)
    assert launch_of({**SLURM, **TORCHRUN}).launcher == "torchrun"
    hosts = ("gpu07", "gpu07", "gpu08", "gpu08")
    assert launch_of(SLURM) == Launch("srun", 3, 4, 1, 2, "gpu07", 18456, hosts=hosts)
    preset = launch_of({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (preset.address, preset.port) == ("10.0.0.1", 1234)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"SLURM_JOB_NAME": "bash"}, "is called 'bash'"),
        ({"SLURM_JOB_NAME": "interactive"}, "every task trains alone"),
        ({"SLURM_NTASKS_PER_NODE": None}, "without --ntasks-per-node"),
        ({"SLURM_STEP_ID": None}, "not started by srun"),
    ],
)
def test_traps_of_slurm(change, part):
    environ = {key: value for key, value in {**SLURM, **change}.items() if value is not None}
    (problem,) = launch_of(environ).problems
    assert part in problem.text
    assert launch_of({**environ, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).problems == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "x"}, "RANK='x' is not a whole number"),
        ({"RANK": "8"}, "ranks are 0 to 7"),
        ({"MASTER_PORT": "99999"}, "is not a port"),
    ],
)
def test_an_environment_that_cannot_be(change, message):
    with pytest.raises(UserError, match=message):
        launch_of({**TORCHRUN, **change})


def test_short_forms_of_slurm():
    assert expand_hosts("n1") == ["n1"]
    assert expand_hosts("gpu[08-10,12],login,a[1]-b[2-3]") == [
        "gpu08",
        "gpu09",
        "gpu10",
        "gpu12",
        "login",
        "a1-b2",
        "a1-b3",
    ]
    assert expand_hosts("") == []
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]


# -- verdicts that need GPUs or many hosts ----------------------------------------------------------------------------


def process(rank, *, host="n1", gpu="", versions=None):
    return Process(rank, host, 100 + rank, rank, 4, "A100" if gpu else "CPU", gpu, 1, versions or {"torch": "2"})


def test_two_ranks_on_one_gpu():
    (problem,) = judge_equal([process(0, gpu="a"), process(1, gpu="a"), process(2, gpu="a", host="n2")])
    assert problem.ranks == (0, 1)
    assert "same GPU" in problem.text
    assert judge_equal([process(0, gpu="a"), process(1, gpu="b")]) == []


def test_a_rank_without_gpu_among_others():
    (problem,) = judge_equal([process(0, gpu="a"), process(1, host="n2")])
    assert problem.ranks == (1,)
    assert "rank 1 on n2" in problem.text


def test_where_a_missing_rank_should_be():
    slurm = launch_of({**SLURM, "SLURM_PROCID": "0"})
    (problem,) = judge_missing(slurm, [process(0), process(1), process(3)], [])
    assert "rank 2 (expected on gpu08)" in problem.text
    torchrun = Launch("torchrun", 0, 4, 0, 2, "n1", 1)
    (problem,) = judge_missing(torchrun, [process(0), process(1)], [])
    assert "rank 2 (node 1), rank 3 (node 1)" in problem.text
    assert problem.ranks == (2, 3)
