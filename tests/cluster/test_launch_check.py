"""Launches of several processes: what their environment says, what is wrong with them, and two that are live."""

import json
import socket
from pathlib import Path

import pytest
from warm import free_port, start

from mvrec.cluster.launch import Launch, Problem, expand_counts, expand_hosts, launch_of
from mvrec.cluster.launch_check import STAGES
from mvrec.cluster.launch_verdict import Process, judge_equal, judge_missing, judge_stuck
from mvrec.errors import UserError

SCRIPT = Path(__file__).with_name("launch_process.py")
HOST = socket.gethostname()

TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "n1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x"},
    **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"},
}
SLURM = {
    **{"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
    **{"SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "123456"},
    **{"SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"},
}


def test_torchrun_and_srun_are_understood():
    assert launch_of({"PATH": "/bin"}) is None
    assert launch_of(TORCHRUN) == Launch("torchrun", 5, 8, 1, 4, "n1", 29500, agent_store=True, attempt=2)
    assert launch_of({**SLURM, **TORCHRUN}).launcher == "torchrun"
    hosts = ("gpu07", "gpu07", "gpu08", "gpu08")
    assert launch_of(SLURM) == Launch("srun", 3, 4, 1, 2, "gpu07", 18456, hosts=hosts)
    preset = launch_of({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (preset.address, preset.port) == ("10.0.0.1", 1234)


def test_traps_of_slurm_and_an_impossible_environment_are_named():
    for change, part in (
        ({"SLURM_JOB_NAME": "bash"}, "is called 'bash'"),
        ({"SLURM_JOB_NAME": "interactive"}, "every task trains alone"),
        ({"SLURM_NTASKS_PER_NODE": None}, "without --ntasks-per-node"),
        ({"SLURM_STEP_ID": None}, "not started by srun"),
    ):
        environ = {key: value for key, value in {**SLURM, **change}.items() if value is not None}
        (problem,) = launch_of(environ).problems
        assert part in problem.text
        assert launch_of({**environ, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).problems == ()
    for change, message in (
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "x"}, "RANK='x' is not a whole number"),
        ({"RANK": "8"}, "ranks are 0 to 7"),
        ({"MASTER_PORT": "99999"}, "is not a port"),
    ):
        with pytest.raises(UserError, match=message):
            launch_of({**TORCHRUN, **change})


def test_short_lists_of_hosts_are_expanded():
    hosts = ["gpu08", "gpu09", "gpu10", "gpu12", "login", "a1-b2", "a1-b3"]
    assert expand_hosts("gpu[08-10,12],login,a[1]-b[2-3]") == hosts
    assert expand_hosts("") == []
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]


def process(rank, *, host="n1", gpu="", versions=None, size=4, **more):
    device = "A100" if gpu else "CPU"
    return Process(rank, host, 100 + rank, rank, size, device, gpu, 1, versions or {"torch": "2"}, **more)


THREE = [process(rank, size=3) for rank in range(3)]
LAUNCH = Launch("environment", 0, 3, 0, 3, "n1", 29500)


def stuck(stages, silent=None, errors=None):
    options = {"silent": silent or {}, "errors": errors or {}, "order": STAGES}
    (problem,) = judge_stuck(LAUNCH, THREE, stages=dict(enumerate(stages)), **options)
    return problem


def test_ranks_that_differ_in_gpu_or_version_are_named_with_rank_and_host():
    (problem,) = judge_equal([process(0, gpu="a"), process(1, gpu="a"), process(2, gpu="a", host="n2")])
    assert problem.ranks == (0, 1)
    assert "same GPU" in problem.text
    assert judge_equal([process(0, gpu="a"), process(1, gpu="b")]) == []
    (problem,) = judge_equal([process(0, gpu="a"), process(1, host="n2")])
    assert problem.ranks == (1,)
    assert "these have none: rank 1 on n2" in problem.text
    usual = {"torch": "2.11", "torchmetrics": "1.9", "av": "17"}
    odd = process(2, host="n2", versions={"torch": "2.11", "torchmetrics": "0.1.0", "av": None})
    problems = judge_equal([process(0, versions=usual), process(1, versions=usual), odd])
    assert [problem.text for problem in problems] == [
        "torchmetrics is 1.9 on most processes, but rank 2 on n2 (pid 102) has 0.1.0",
        "av is 17 on most processes, but rank 2 on n2 (pid 102) has none",
    ]
    assert all(problem.ranks == (2,) for problem in problems)
    trap = Problem("the job is called 'bash'", "name it")  # is told once
    assert judge_equal([process(rank, problems=(trap,)) for rank in range(2)]) == [trap]


def test_ranks_that_are_missing_twice_or_of_another_launch_are_named():
    slurm = launch_of({**SLURM, "SLURM_PROCID": "0"})
    (problem,) = judge_missing(slurm, [process(0), process(1), process(3)], [])
    assert "rank 2 (expected on gpu08)" in problem.text
    torchrun = Launch("torchrun", 0, 4, 0, 2, "n1", 1)
    (problem,) = judge_missing(torchrun, [process(0), process(1)], [])
    assert "rank 2 (node 1), rank 3 (node 1)" in problem.text
    assert problem.ranks == (2, 3)
    (twice,) = judge_missing(LAUNCH, THREE, [process(1, host="n2", size=3)])
    assert twice.text.startswith("two processes say that they are rank 1: rank 1 on n1 (pid 101) and rank 1 on n2")
    (sizes,) = judge_missing(LAUNCH, [*THREE[:2], process(2)], [])
    assert "processes disagree on their number (3: rank 0" in sizes.text
    assert "4: rank 2" in sizes.text


def test_of_a_stuck_launch_the_silent_rank_is_named_else_errors_else_who_is_behind():
    problem = stuck(["adding up", "joining", "adding up"], silent={1: 3.2}, errors={0: "closed"})
    assert problem.text.startswith("rank 1 on n1 (pid 101) stopped answering 3 s ago, after 'joining'")
    assert "-p 101" in problem.fix
    assert problem.ranks == (1,)
    problem = stuck(["joining"] * 3, errors={2: "RuntimeError: no route"})
    assert problem.text == "rank 2 on n1 (pid 102): RuntimeError: no route, after 'joining'"
    problem = stuck(["joining", "registered", "joining"])
    assert "the others wait for rank 1 on n1 (pid 101), stuck in stage 'registered'" in problem.text
    assert stuck(["joining"] * 3).text == "all 3 processes are stuck in stage 'joining'"


def started(rank, size, port, *, seconds=60.0, stops_at="", register_share=0.55, address="127.0.0.1"):
    """Start a process of a launch, which may stop when it reaches a stage."""
    launch = {"launcher": "environment", "rank": rank, "world_size": size, "local_rank": rank, "local_world_size": size}
    arguments = {"launch": launch | {"address": address, "port": port}, "seconds": seconds}
    return start(json.dumps(arguments | {"stops_at": stops_at, "register_share": register_share}), program=SCRIPT)


def problem_of(child):
    assert child.wait() == 0, child.stderr
    (problem,) = json.loads(child.stdout)["problems"]
    return problem


def test_what_one_process_cannot_reach_is_named_with_its_address():
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        used_port, port = other.getsockname()[1], free_port()
        quick = {"seconds": 30, "register_share": 0.03}
        cases = {
            f"1 of 2 processes never came: rank 1 (expected on {HOST})": (0, free_port(), "127.0.0.1"),
            f"rank 1 on {HOST}: nobody answers at 127.0.0.1:{port}": (1, port, "127.0.0.1"),
            "this host does not know the name MASTER_ADDR=no-such-host.invalid": (1, port, "no-such-host.invalid"),
            "MASTER_ADDR=192.0.2.1 is not an address of this host": (0, free_port(), "192.0.2.1"),
            f"port {used_port} cannot be opened": (0, used_port, "127.0.0.1"),
        }
        children = [started(rank, 2, at, address=where, **quick) for rank, at, where in cases.values()]
        for text, child in zip(cases, children, strict=True):
            assert text in problem_of(child)["text"]


def test_a_rank_that_is_stopped_is_named_to_all_others():
    port = free_port()
    first, second, third = (started(rank, 3, port, stops_at="adding up" if rank == 1 else "") for rank in range(3))
    for problem in map(problem_of, (first, third)):
        assert problem["text"].startswith(f"rank 1 on {HOST} (pid {second.pid}) stopped answering")
        assert "'adding up'" in problem["text"]
        assert problem["ranks"] == [1]


@pytest.mark.slow
def test_a_stopped_rank_0_is_named_by_the_others():
    port = free_port()
    started(0, 2, port, stops_at="joining", seconds=10)
    problem = problem_of(started(1, 2, port, seconds=10))
    assert "rank 0 at 127.0.0.1:" in problem["text"]
    assert "gave no answer for 10 s: it is stopped or hung" in problem["text"]
