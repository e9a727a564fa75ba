"""The place of this process in a launch, from the variables of torchrun, srun or the environment."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from mvrec.errors import UserError

# Lightning takes jobs of these names for interactive ones and then ignores Slurm's ranks.
INTERACTIVE_NAMES = ("bash", "interactive")


@dataclass(frozen=True)
class Problem:
    """A fault of a launch.

    Attributes:
        text: The fault, with rank and host.
        fix: The remedy.
        ranks: The ranks concerned; empty for all.
    """

    text: str
    fix: str
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Launch:
    """This process within a launch.

    Attributes:
        launcher: "torchrun", "srun" or "environment".
        rank: 0..world_size - 1.
        world_size: The number of processes.
        local_rank: Its number on this host.
        local_world_size: Processes on this host, if the launcher says it.
        address: Of rank 0.
        port: Of rank 0.
        agent_store: Whether torchrun itself answers at the port, instead of rank 0.
        attempt: How often torchrun or Slurm has restarted these processes.
        hosts: The planned host of each rank, if Slurm says it; else empty.
        problems: Faults of the environment itself.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None
    address: str
    port: int
    agent_store: bool = False
    attempt: int = 0
    hosts: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def launch_of(environ: Mapping[str, str]) -> Launch | None:
    """Return the launch that an environment describes; `None` for a single process.

    Args:
        environ: `os.environ`.

    Raises:
        UserError: A variable is missing, not a number, or out of range.
    """
    # Inside a Slurm job torchrun has priority, as in Lightning.
    if "RANK" in environ or "WORLD_SIZE" in environ:
        launch = _from_ranks(environ)
    elif "SLURM_PROCID" in environ and "SLURM_NTASKS" in environ:
        launch = _from_slurm(environ)
    else:
        return None
    if not 0 <= launch.rank < launch.world_size:
        raise UserError(f"rank {launch.rank} of {launch.world_size} processes: ranks are 0 to {launch.world_size - 1}")
    if not 0 < launch.port < 2**16:
        raise UserError(f"MASTER_PORT={launch.port} is not a port: use 1 to 65535")
    return launch


def _from_ranks(environ: Mapping[str, str]) -> Launch:
    rank = _number(environ, "RANK")
    return Launch(
        launcher="torchrun" if "TORCHELASTIC_RUN_ID" in environ else "environment",
        rank=rank,
        world_size=_number(environ, "WORLD_SIZE"),
        local_rank=_number(environ, "LOCAL_RANK", rank),
        local_world_size=_number(environ, "LOCAL_WORLD_SIZE", 0) or None,
        address=_text(environ, "MASTER_ADDR"),
        port=_number(environ, "MASTER_PORT"),
        agent_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT", 0),
    )


def _from_slurm(environ: Mapping[str, str]) -> Launch:
    nodes = expand_hosts(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "")
    counts = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or ""
    hosts = [host for host, count in zip(nodes, expand_counts(counts), strict=False) for _ in range(count)]
    world_size = _number(environ, "SLURM_NTASKS")
    job = re.sub(r"\D", "", environ.get("SLURM_JOB_ID", "")) or "0"
    return Launch(
        launcher="srun",
        rank=_number(environ, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(environ, "SLURM_LOCALID", 0),
        local_world_size=_number(environ, "SLURM_NTASKS_PER_NODE", 0) or None,
        # Lightning's own default.
        address=environ.get("MASTER_ADDR") or (nodes[0] if nodes else socket.gethostname()),
        port=_number(environ, "MASTER_PORT", 15000 + int(job[-4:])),
        attempt=_number(environ, "SLURM_RESTART_COUNT", 0),
        hosts=tuple(hosts) if len(hosts) == world_size else (),
        problems=tuple(_slurm_problems(environ, world_size)),
    )


def _slurm_problems(environ: Mapping[str, str], world_size: int) -> list[Problem]:
    """Return settings of a Slurm job on which Lightning fails before it makes a process group."""
    problems = []
    name = environ.get("SLURM_JOB_NAME", "")
    if name in INTERACTIVE_NAMES and world_size > 1:
        problems.append(
            Problem(
                f"the job is called {name!r}: Lightning takes it for an interactive one, and every task trains alone",
                "rename the job: #SBATCH --job-name=train, or srun --job-name=train",
            )
        )
    if world_size > 1 and "SLURM_NTASKS_PER_NODE" not in environ:
        problems.append(
            Problem(
                "the job has --ntasks without --ntasks-per-node, which Lightning refuses",
                f"#SBATCH --nodes=N and --ntasks-per-node=M with N x M = {world_size}",
            )
        )
    if world_size > 1 and "SLURM_STEP_ID" not in environ:
        problems.append(
            Problem(
                "the command was not started by srun: a batch script is one process, whatever --ntasks says",
                "start it with srun: srun --kill-on-bad-exit=1 mvrec ...",
            )
        )
    return problems


def expand_hosts(text: str) -> list[str]:
    """Expand Slurm's short form of host names, such as `gpu[01-03,07],login`."""
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for fixed, numbers in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            ends = [fixed] if fixed else _expand_numbers(numbers)
            names = [name + end for name in names for end in ends]
        hosts += names
    return hosts


def _expand_numbers(text: str) -> list[str]:
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return numbers


def expand_counts(text: str) -> list[int]:
    """Expand Slurm's short form of numbers per host, such as `2(x3),1`."""
    return [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]


def _text(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise UserError(f"{name} is not set, but RANK or WORLD_SIZE is: start with torchrun or srun, or set {name} too")
    return value


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environ:
        return default
    text = _text(environ, name)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not a whole number") from None
