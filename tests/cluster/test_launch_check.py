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


# -- verdicts, from what the processes say ---------------------------------------------------------------------------


def process(rank, *, host="n1", gpu="", versions=None, size=4, **more):
    device = "A100" if gpu else "CPU"
    return Process(rank, host, 100 + rank, rank, size, device, gpu, 1, versions or {"torch": "2"}, **more)


THREE = [process(rank, size=3) for rank in range(3)]
LAUNCH = Launch("environment", 0, 3, 0, 3, "n1", 29500)


def stuck(stages, silent=None, errors=None):
    return judge_stuck(
        LAUNCH, THREE, stages=dict(enumerate(stages)), silent=silent or {}, errors=errors or {}, order=STAGES
    )


def test_two_ranks_on_one_gpu_are_named():
    (problem,) = judge_equal([process(0, gpu="a"), process(1, gpu="a"), process(2, gpu="a", host="n2")])
    assert problem.ranks == (0, 1)
    assert "same GPU" in problem.text
    assert judge_equal([process(0, gpu="a"), process(1, gpu="b")]) == []


def test_a_rank_without_gpu_among_others_is_named():
    (problem,) = judge_equal([process(0, gpu="a"), process(1, host="n2")])
    assert problem.ranks == (1,)
    assert "rank 1 on n2" in problem.text


def test_other_versions_are_named_with_rank_and_host():
    usual = {"torch": "2.11", "torchmetrics": "1.9", "av": "17"}
    odd = process(2, host="n2", versions={"torch": "2.11", "torchmetrics": "0.1.0", "av": None})
    problems = judge_equal([process(0, versions=usual), process(1, versions=usual), odd])
    assert [problem.text for problem in problems] == [
        "torchmetrics is 1.9 on most processes, but rank 2 on n2 (pid 102) has 0.1.0",
        "av is 17 on most processes, but rank 2 on n2 (pid 102) has none",
    ]
    assert all(problem.ranks == (2,) for problem in problems)


def test_a_missing_rank_is_named_with_the_host_where_it_is_expected():
    slurm = launch_of({**SLURM, "SLURM_PROCID": "0"})
    (problem,) = judge_missing(slurm, [process(0), process(1), process(3)], [])
    assert "rank 2 (expected on gpu08)" in problem.text
    torchrun = Launch("torchrun", 0, 4, 0, 2, "n1", 1)
    (problem,) = judge_missing(torchrun, [process(0), process(1)], [])
    assert "rank 2 (node 1), rank 3 (node 1)" in problem.text
    assert problem.ranks == (2, 3)


def test_two_processes_of_one_rank_and_of_different_sizes_are_named():
    (twice,) = judge_missing(LAUNCH, THREE, [process(1, host="n2", size=3)])
    assert twice.text.startswith("two processes say that they are rank 1: rank 1 on n1 (pid 101) and rank 1 on n2")
    (sizes,) = judge_missing(LAUNCH, [*THREE[:2], process(2)], [])
    assert "processes disagree on their number (3: rank 0" in sizes.text
    assert "4: rank 2" in sizes.text


def test_what_is_wrong_with_the_environment_is_told_once():
    trap = Problem("the job is called 'bash'", "name it")
    assert judge_equal([process(rank, problems=(trap,)) for rank in range(2)]) == [trap]


def test_a_silent_rank_is_named_before_those_with_errors():
    (problem,) = stuck(["adding up", "joining", "adding up"], silent={1: 3.2}, errors={0: "closed"})
    assert problem.text.startswith("rank 1 on n1 (pid 101) stopped answering 3 s ago, after 'joining'")
    assert "-p 101" in problem.fix
    assert problem.ranks == (1,)
    (problem,) = stuck(["joining"] * 3, errors={2: "RuntimeError: no route"})
    assert problem.text == "rank 2 on n1 (pid 102): RuntimeError: no route, after 'joining'"


def test_a_rank_that_is_behind_the_others_is_named():
    (problem,) = stuck(["joining", "registered", "joining"])
    assert "the others wait for rank 1 on n1 (pid 101), stuck in stage 'registered'" in problem.text
    (problem,) = stuck(["joining"] * 3)
    assert problem.text == "all 3 processes are stuck in stage 'joining'"


# -- real processes --------------------------------------------------------------------------------------------------


def started(rank, size, port, *, seconds=60.0, at="", do="", times=1, register_share=0.55, **changes):
    """Start a process of a launch; `do` is "stop", "die" or "sleep" when it reaches the stage `at`."""
    launch = {"launcher": "environment", "rank": rank, "world_size": size, "local_rank": rank, "local_world_size": size}
    launch |= {"address": "127.0.0.1", "port": port, **changes}
    arguments = {"launch": launch, "seconds": seconds, "at": at, "do": do, "times": times}
    return start(json.dumps(arguments | {"register_share": register_share}), program=SCRIPT)


def test_what_one_process_cannot_reach_is_named_with_its_address():
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        taken, port = other.getsockname()[1], free_port()
        quick = {"seconds": 30, "register_share": 0.03}
        cases = {
            f"1 of 2 processes never came: rank 1 (expected on {HOST})": started(0, 2, free_port(), **quick),
            f"rank 1 on {HOST}: nobody answers at 127.0.0.1:{port}": started(1, 2, port, **quick),
            "this host does not know the name MASTER_ADDR=no-such-host.invalid": started(
                1, 2, port, address="no-such-host.invalid", **quick
            ),
            "MASTER_ADDR=192.0.2.1 is not an address of this host": started(
                0, 2, free_port(), address="192.0.2.1", **quick
            ),
            f"port {taken} cannot be opened": started(0, 2, taken, **quick),
        }
        for text, child in cases.items():
            assert child.wait() == 0, child.stderr
            ((problem,),) = (report["problems"] for report in json.loads(child.stdout))
            assert text in problem["text"]


def launched(size, odd=None, **knobs):
    """Run a launch of which one rank may be odd; returns the reports of each that came to one, and the ids of all."""
    port = free_port()
    children = [started(rank, size, port, **knobs, **((odd or {}) if rank == 1 else {})) for rank in range(size)]
    for rank, child in enumerate(children):
        if rank != 1 or not odd or odd["do"] == "die":
            child.wait()
    reports = {rank: json.loads(child.stdout) for rank, child in enumerate(children) if child.stdout}
    return reports, [child.pid for child in children]


def texts(report):
    return " | ".join(problem["text"] for problem in report["problems"])


def test_a_launch_that_holds_together_is_good_twice():
    reports, pids = launched(3, times=2)
    assert len(reports) == 3
    for rank, both in reports.items():
        for report in both:  # a second check of the same processes is as good
            assert report["ok"], texts(report)
            assert report["rank"] == rank
            assert [one["pid"] for one in report["processes"]] == pids
            assert {one["host"] for one in report["processes"]} == {HOST}
            assert report["all_reduce_ms"] > 0
            assert report["backend"] == "gloo"


@pytest.mark.parametrize(
    ("do", "stage"),
    [
        ("stop", "adding up"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("stop", "registered"), ("die", "adding up"))),
    ],
)
def test_a_rank_that_is_stopped_or_dies_is_named_to_all_others(do, stage):
    reports, pids = launched(3, {"at": stage, "do": do})
    assert set(reports) == {0, 2}
    for (report,) in reports.values():
        (problem,) = report["problems"]
        assert problem["text"].startswith(f"rank 1 on {HOST} (pid {pids[1]}) stopped answering")
        assert repr(stage) in problem["text"]
        assert problem["ranks"] == [1]


@pytest.mark.slow
def test_a_rank_that_lives_and_does_not_continue_is_named():
    reports, pids = launched(3, {"at": "registered", "do": "sleep"}, seconds=12)
    assert f"the others wait for rank 1 on {HOST} (pid {pids[1]}), stuck in stage 'registered'" in texts(reports[2][0])


@pytest.mark.slow
def test_a_stopped_rank_0_is_named_by_the_others():
    port = free_port()
    started(0, 2, port, at="joining", do="stop", seconds=10)
    other = started(1, 2, port, seconds=10)
    other.wait()
    (report,) = json.loads(other.stdout)
    assert "rank 0 at 127.0.0.1:" in texts(report)
    assert "gave no answer for 10 s: it is stopped or hung" in texts(report)
    assert not report["processes"]
