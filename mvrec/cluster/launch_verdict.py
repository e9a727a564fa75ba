"""What rank 0 makes of what the processes of a launch told it: pure functions, from facts to problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvrec.cluster.heartbeat import Member
from mvrec.cluster.launch import Launch, Problem

NETWORK_FIX = (
    "name the network interface that the hosts share (ip -br addr lists them): "
    "export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0; NCCL_DEBUG=INFO tells more"
)


@dataclass(frozen=True)
class Process(Member):
    """What a process says of itself.

    Attributes:
        local_rank: Its number on its host.
        world_size: How many it believes there are.
        device: The name of what it computes on.
        device_id: What tells the device from others of the name; empty for a CPU.
        visible_devices: GPUs that it sees.
        versions: Of packages.
        problems: What is wrong with its environment.
    """

    local_rank: int
    world_size: int
    device: str
    device_id: str
    visible_devices: int
    versions: Mapping[str, str | None]
    problems: tuple[Problem, ...] = field(default=())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Process":
        """Return the inverse of `dataclasses.asdict`."""
        problems = tuple(Problem(one["text"], one["fix"], tuple(one["ranks"])) for one in values["problems"])
        return cls(**{**values, "problems": problems})


def alone_problems(
    launch: Launch, host: str, what: str, seconds: float, error: Exception | None = None
) -> list[Problem]:
    """What a process says that has no verdict of rank 0.

    Args:
        launch: The process.
        host: Where it runs.
        what: What happened: "unresolved", "elsewhere", "taken", "unreached", "lost" or "silent".
        seconds: The time of the whole check.
        error: What was raised.
    """
    me, place = f"rank {launch.rank} on {host}", f"MASTER_ADDR={launch.address}"
    cause = " ".join(str(error).split())[:200] if error is not None else ""
    first = f"the node of rank 0, where `hostname -I` gives its addresses{_expected(launch, 0, ())}"
    texts = {
        "unresolved": (
            f"{me}: {place} is no name that this host knows ({cause})",
            f"export MASTER_ADDR with an address of {first}",
        ),
        "elsewhere": (
            f"{me}: {place} is not an address of this host, and does not lead to it ({cause})",
            f"export MASTER_ADDR with an address of {first}",
        ),
        "taken": (
            f"{me}: port {launch.port} cannot be opened ({cause})",
            f"if it is in use, another rank 0 or an earlier run is alive (ss -ltnp | grep {launch.port} names it): end "
            "it, or export MASTER_PORT with another number",
        ),
        "unreached": (
            f"{me}: nobody answers at {launch.address}:{launch.port} ({cause or 'no answer'})",
            f"rank 0 did not start, or MASTER_ADDR is wrong here, or a firewall is between: it must be an address of "
            f"{first}",
        ),
        "lost": (f"{me}: lost rank 0 at {launch.address}:{launch.port} ({cause})", "see what rank 0 printed last"),
        "silent": (
            f"{me}: rank 0 at {launch.address}:{launch.port} took the connection and then gave no answer for "
            f"{seconds:g} s: it is stopped or hangs",
            f"look at the process of rank 0{_expected(launch, 0, ())}: ps -o pid,stat,wchan:30,cmd -u $USER",
        ),
    }
    text, fix = texts[what]
    return [Problem(text, fix, (launch.rank,)), *launch.problems]


def judge_missing(launch: Launch, processes: Sequence[Process], twice: Sequence[Process]) -> list[Problem]:
    """Who did not come, came twice, or believes in another number of processes."""
    there = {one.rank: one for one in processes}
    problems = _environment_problems(processes)
    missing = [rank for rank in range(launch.world_size) if rank not in there]
    if missing:
        named = ", ".join(f"rank {rank}{_expected(launch, rank, processes)}" for rank in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        problems.append(
            Problem(
                f"{len(missing)} of {launch.world_size} processes never came: {named}{more}",
                f"see what they printed; each must be started, and reach rank 0 at {launch.address}:{launch.port} "
                "(same MASTER_ADDR and MASTER_PORT everywhere, no firewall)",
                tuple(missing),
            )
        )
    for other in twice:
        problems.append(
            Problem(
                f"two processes say that they are rank {other.rank}: {there[other.rank]} and {other}",
                "give each its own RANK; torchrun needs another --node-rank on each node",
                (other.rank,),
            )
        )
    sizes = Counter(one.world_size for one in processes)
    if len(sizes) > 1:
        told = "; ".join(f"{size}: {_ranks([one for one in processes if one.world_size == size])}" for size in sizes)
        problems.append(
            Problem(f"processes differ in how many there are ({told})", "start all with the same --nnodes and number")
        )
    return problems


def judge_equal(processes: Sequence[Process]) -> list[Problem]:
    """Who has other versions than most, and who shares a GPU."""
    problems = _environment_problems(processes)
    for name in dict.fromkeys(name for one in processes for name in one.versions):
        found = Counter(one.versions.get(name) for one in processes)
        usual = found.most_common(1)[0][0]
        if len(found) > 1:
            odd = [one for one in processes if one.versions.get(name) != usual]
            told = "; ".join(f"{one} has {one.versions.get(name) or 'none'}" for one in odd[:8])
            problems.append(
                Problem(
                    f"{name} is {usual or 'not installed'} on most processes, but {told}",
                    "start all from the same environment, on a cluster one on the shared file system",
                    tuple(one.rank for one in odd),
                )
            )
    owners: dict[tuple[str, str], Process] = {}
    for one in processes:
        if not one.device_id:
            continue
        first = owners.setdefault((one.host, one.device_id), one)
        if first is not one:
            problems.append(
                Problem(
                    f"{first} and {one} compute on the same GPU ({one.device})",
                    f"{one.host} shows its processes {one.visible_devices} GPUs: start as many as there are GPUs",
                    (first.rank, one.rank),
                )
            )
    kinds = {bool(one.device_id) for one in processes}
    if len(kinds) > 1:
        without = [one for one in processes if not one.device_id]
        problems.append(
            Problem(
                f"some processes have a GPU and these have none: {_ranks(without)}",
                "see nvidia-smi and CUDA_VISIBLE_DEVICES there",
                tuple(one.rank for one in without),
            )
        )
    return problems


def judge_stuck(
    launch: Launch,
    processes: Sequence[Process],
    *,
    stages: Mapping[int, str],
    silent: Mapping[int, float],
    errors: Mapping[int, str],
    order: Sequence[str],
) -> list[Problem]:
    """Who keeps the others from being done.

    Args:
        launch: Rank 0.
        processes: All that registered.
        stages: The last step that each rank has reached.
        silent: Ranks that gave no sign of life, with the seconds since the last one.
        errors: What was raised, by rank.
        order: All steps, in their order.
    """
    by_rank = {one.rank: one for one in processes}
    if silent:
        return [
            Problem(
                f"{by_rank[rank]} stopped answering {seconds:.0f} s ago, after {stages[rank]!r}: it died, is stopped "
                "or hangs",
                f"on {by_rank[rank].host}: ps -o pid,stat,cmd -p {by_rank[rank].pid} (T is stopped, nothing is dead); "
                "its last lines and dmesg (out of memory) tell more",
                (rank,),
            )
            for rank, seconds in sorted(silent.items())
        ]
    if errors:
        return [
            Problem(f"{by_rank[rank]}: {text}, after {stages[rank]!r}", NETWORK_FIX, (rank,))
            for rank, text in sorted(errors.items())
        ]
    reached = {rank: order.index(stage) for rank, stage in stages.items()}
    behind = [by_rank[rank] for rank in sorted(reached) if reached[rank] < max(reached.values())]
    if behind:
        text = f"the others wait for {_ranks(behind)}, which did not get beyond {order[min(reached.values())]!r}"
        return [Problem(text, NETWORK_FIX, tuple(one.rank for one in behind))]
    return [
        Problem(f"all {launch.world_size} processes are stuck in stage {order[min(reached.values())]!r}", NETWORK_FIX)
    ]


def _environment_problems(processes: Sequence[Process]) -> list[Problem]:
    """Return the problems of the processes' environments, each once."""
    return list(dict.fromkeys(problem for one in processes for problem in one.problems))


def _expected(launch: Launch, rank: int, processes: Sequence[Process]) -> str:
    """Where a rank should be, as far as the launcher or its neighbours tell."""
    if launch.hosts:
        return f" (expected on {launch.hosts[rank]})"
    if launch.local_world_size:
        node = rank // launch.local_world_size
        hosts = {one.host for one in processes if one.rank // launch.local_world_size == node}
        if len(hosts) == 1:
            return f" (expected on {hosts.pop()})"
        return f" (node {node})" if launch.world_size > launch.local_world_size else ""
    return ""


def _ranks(processes: Sequence[Process]) -> str:
    return ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
