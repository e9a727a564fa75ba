"""The verdict of rank 0 on a launch: pure functions from the reports of processes to problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvrec.cluster.heartbeat import Member
from mvrec.cluster.launch import Launch, Problem

NETWORK_FIX = (
    "name the network interface that the hosts share (ip -br addr lists them): "
    "export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0; NCCL_DEBUG=INFO prints details"
)


@dataclass(frozen=True)
class Process(Member):
    """A process's report of itself.

    Attributes:
        local_rank: Its number on its host.
        world_size: The number of processes by its own environment.
        device: The name of its device.
        device_id: Identifies the device among those of one name; empty for a CPU.
        visible_devices: The number of GPUs that it sees.
        versions: Versions of packages.
        problems: Faults of its environment.
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
        """Return a process from the values of `dataclasses.asdict`."""
        problems = tuple(Problem(entry["text"], entry["fix"], tuple(entry["ranks"])) for entry in values["problems"])
        return cls(**{**values, "problems": problems})


def alone_problems(
    launch: Launch, host: str, event: str, seconds: float, error: Exception | None = None
) -> list[Problem]:
    """Return the report of a process that has no verdict of rank 0.

    Args:
        launch: The launch as this process sees it.
        host: The host of this process.
        event: "unresolved", "elsewhere", "taken", "unreached", "lost" or "silent".
        seconds: The timeout of the check.
        error: The exception, if there was one.
    """
    process, place = f"rank {launch.rank} on {host}", f"MASTER_ADDR={launch.address}"
    cause = " ".join(str(error).split())[:200] if error is not None else ""
    first = f"the node of rank 0, where `hostname -I` gives its addresses{_expected(launch, 0, ())}"
    texts = {
        "unresolved": (
            f"{process}: this host does not know the name {place} ({cause})",
            f"export MASTER_ADDR with an address of {first}",
        ),
        "elsewhere": (
            f"{process}: {place} is not an address of this host and does not lead to it ({cause})",
            f"export MASTER_ADDR with an address of {first}",
        ),
        "taken": (
            f"{process}: port {launch.port} cannot be opened ({cause})",
            f"if it is in use, another rank 0 or an earlier run is alive (ss -ltnp | grep {launch.port} names it): end "
            "it, or export MASTER_PORT with another number",
        ),
        "unreached": (
            f"{process}: nobody answers at {launch.address}:{launch.port} ({cause or 'no answer'})",
            f"rank 0 did not start, or MASTER_ADDR is wrong here, or a firewall is between: it must be an address of "
            f"{first}",
        ),
        "lost": (
            f"{process}: lost rank 0 at {launch.address}:{launch.port} ({cause})",
            "read the last lines of rank 0",
        ),
        "silent": (
            f"{process}: rank 0 at {launch.address}:{launch.port} accepted the connection and then gave no answer for "
            f"{seconds:g} s: it is stopped or hung",
            f"look at the process of rank 0{_expected(launch, 0, ())}: ps -o pid,stat,wchan:30,cmd -u $USER",
        ),
    }
    text, fix = texts[event]
    return [Problem(text, fix, (launch.rank,)), *launch.problems]


def judge_missing(launch: Launch, processes: Sequence[Process], twice: Sequence[Process]) -> list[Problem]:
    """Name the processes that are missing, came twice, or count other processes."""
    by_rank = {process.rank: process for process in processes}
    problems = _environment_problems(processes)
    missing = [rank for rank in range(launch.world_size) if rank not in by_rank]
    if missing:
        named = ", ".join(f"rank {rank}{_expected(launch, rank, processes)}" for rank in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        problems.append(
            Problem(
                f"{len(missing)} of {launch.world_size} processes never came: {named}{more}",
                f"read their output; each must be started, and reach rank 0 at {launch.address}:{launch.port} "
                "(same MASTER_ADDR and MASTER_PORT everywhere, no firewall)",
                tuple(missing),
            )
        )
    for other in twice:
        problems.append(
            Problem(
                f"two processes say that they are rank {other.rank}: {by_rank[other.rank]} and {other}",
                "give each its own RANK; torchrun needs another --node-rank on each node",
                (other.rank,),
            )
        )
    sizes = Counter(process.world_size for process in processes)
    if len(sizes) > 1:
        counts = "; ".join(
            f"{size}: {_ranks([item for item in processes if item.world_size == size])}" for size in sizes
        )
        problems.append(
            Problem(f"processes disagree on their number ({counts})", "start all with the same --nnodes and number")
        )
    return problems


def judge_equal(processes: Sequence[Process]) -> list[Problem]:
    """Name the processes whose versions differ from most, and those that share a GPU."""
    problems = _environment_problems(processes)
    for name in dict.fromkeys(name for process in processes for name in process.versions):
        versions = Counter(process.versions.get(name) for process in processes)
        usual = versions.most_common(1)[0][0]
        if len(versions) > 1:
            odd = [process for process in processes if process.versions.get(name) != usual]
            exceptions = "; ".join(f"{process} has {process.versions.get(name) or 'none'}" for process in odd[:8])
            problems.append(
                Problem(
                    f"{name} is {usual or 'not installed'} on most processes, but {exceptions}",
                    "start all from the same environment, on a cluster one on the shared file system",
                    tuple(process.rank for process in odd),
                )
            )
    owners: dict[tuple[str, str], Process] = {}
    for process in processes:
        if not process.device_id:
            continue
        first = owners.setdefault((process.host, process.device_id), process)
        if first is not process:
            problems.append(
                Problem(
                    f"{first} and {process} compute on the same GPU ({process.device})",
                    f"{process.host} shows {process.visible_devices} GPUs to its processes: start one process per GPU",
                    (first.rank, process.rank),
                )
            )
    kinds = {bool(process.device_id) for process in processes}
    if len(kinds) > 1:
        without = [process for process in processes if not process.device_id]
        problems.append(
            Problem(
                f"some processes have a GPU and these have none: {_ranks(without)}",
                "check nvidia-smi and CUDA_VISIBLE_DEVICES there",
                tuple(process.rank for process in without),
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
    """Name the processes that hold the others up.

    Args:
        launch: The launch as rank 0 sees it.
        processes: The registered processes.
        stages: The last stage that each rank has reached.
        silent: Ranks without a heartbeat, with the seconds since their last one.
        errors: Errors by rank.
        order: All stages, in order.
    """
    by_rank = {process.rank: process for process in processes}
    if silent:
        return [
            Problem(
                f"{by_rank[rank]} stopped answering {seconds:.0f} s ago, after {stages[rank]!r}: it died, is stopped "
                "or hung",
                f"on {by_rank[rank].host}: ps -o pid,stat,cmd -p {by_rank[rank].pid} (T is stopped, nothing is dead); "
                "its last lines and dmesg (out of memory) say more",
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
        text = f"the others wait for {_ranks(behind)}, stuck in stage {order[min(reached.values())]!r}"
        return [Problem(text, NETWORK_FIX, tuple(process.rank for process in behind))]
    return [
        Problem(f"all {launch.world_size} processes are stuck in stage {order[min(reached.values())]!r}", NETWORK_FIX)
    ]


def _environment_problems(processes: Sequence[Process]) -> list[Problem]:
    """Return the problems of the processes' environments without repeats."""
    return list(dict.fromkeys(problem for process in processes for problem in process.problems))


def _expected(launch: Launch, rank: int, processes: Sequence[Process]) -> str:
    """Return the planned host of a rank, if the launcher or the rank's neighbours tell it."""
    if launch.hosts:
        return f" (expected on {launch.hosts[rank]})"
    if launch.local_world_size:
        node = rank // launch.local_world_size
        hosts = {process.host for process in processes if process.rank // launch.local_world_size == node}
        if len(hosts) == 1:
            return f" (expected on {hosts.pop()})"
        return f" (node {node})" if launch.world_size > launch.local_world_size else ""
    return ""


def _ranks(processes: Sequence[Process]) -> str:
    return ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
