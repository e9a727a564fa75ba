"""A real Slurm on this machine: controller and two nodes as processes of this user, on the loopback interface only."""

import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
CONFIG = """\
ClusterName=mvrec
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=15
SchedulerParameters=bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MinJobAge=86400
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=8 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def missing_tools() -> list[str]:
    """Return the programs that are missing here (Debian: slurmctld slurmd slurm-client munge)."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


class Cluster:
    """Brings Slurm up in a folder, submits, asks, and takes it down again.

    Args:
        folder: Absolute, with parents that belong to this user or root and nobody else may write in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A job takes the environment along: nothing of this process may decide about its ranks or signals.
        remaining = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "SLURM_"))}
        self.environment = remaining | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        self.environment["SLURM_CONF"] = str(folder / "etc/slurm.conf")

    def up(self) -> None:
        """Start munged, the controller and two nodes; returns when both are idle."""
        for name in ("etc", "run", "state", "log", "spool/n1", "spool/n2"):
            (self.folder / name).mkdir(parents=True)
        run = self.folder / "run"
        run.chmod(0o755)
        key = run / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        port = three_free_ports()
        ports = {"controller": port, "first": port + 1, "second": port + 2}
        config = CONFIG.format(folder=self.folder, user=getpass.getuser(), **ports)
        (self.folder / "etc/slurm.conf").write_text(config)
        self.call(
            *("munged", "-S", run / "munge.sock", f"--key-file={key}", f"--pid-file={run / 'munged.pid'}"),
            *(f"--log-file={self.folder / 'log/munged.log'}", f"--seed-file={run / 'munge.seed'}"),
        )
        self.call("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.call("slurmd", "-N", node)
        states = ("sinfo", "-h", "-N", "-p", "main", "-o", "%T")
        self.wait("both nodes are idle", lambda: self.call(*states).split() == ["idle"] * 2, 300)

    def down(self) -> None:
        """Cancel what runs, then end the daemons that this object has started, by their ids."""
        for job in set(self.call("squeue", "-h", "-o", "%A").split()):
            self.call("scancel", job)
        self.wait("the queue is empty", lambda: not self.call("squeue", "-h").strip(), 300)
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "munged"):
            if pid := self.end_daemon(name):
                self.wait(f"{name} has ended", partial(has_ended, pid), 300)

    def end_daemon(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a daemon a signal, if the process of its pid file still is it; returns its id, or 0."""
        path = self.folder / f"run/{name}.pid"
        pid = int(path.read_text()) if path.is_file() else 0
        command = Path(f"/proc/{pid}/comm")
        if not command.is_file() or not command.read_text().startswith(name.partition(".")[0]):
            return 0
        os.kill(pid, number)
        return pid

    def call(self, *command: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """Run a command with this cluster's configuration; returns what it prints."""
        words, env = [str(word) for word in command], self.environment | (environment or {})
        result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=env, cwd=cwd)
        assert result.returncode == 0, f"{command}: {result.stderr}\n{self.logs()}"
        return result.stdout

    def logs(self) -> str:
        paths = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in paths)

    def submit(self, *arguments: object, cwd: Path, environment: dict[str, str] | None = None) -> int:
        return int(self.call("sbatch", "--parsable", *arguments, cwd=cwd, environment=environment))

    def job(self, number: int | str) -> dict[str, str]:
        """Return Slurm's record of a job."""
        text = self.call("scontrol", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", text.split("\n\n")[0]))

    def end(self, number: int | str, output: Path) -> tuple[str, str]:
        """Wait for the end of a job; returns its state and what it has printed to a file."""
        self.wait(f"job {number} is over", lambda: self.job(number)["JobState"] in OVER, 900, output)
        return self.job(number)["JobState"], text_of(output)

    def wait(self, purpose: str, condition: Callable[[], bool], seconds: float, output: Path | None = None) -> None:
        """Poll until something is so; where it never is, say what a job has printed to a file."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (
                f"not within {seconds:g} s: {purpose}\n{self.logs()}\n{text_of(output)[-3000:]}"
            )
            time.sleep(0.2)


def text_of(path: Path | None) -> str:
    return path.read_text() if path and path.is_file() else ""


def has_ended(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def three_free_ports() -> int:
    """The first of three free ports in a row, above those at which the processes of jobs meet."""
    while True:
        first = random.SystemRandom().randrange(21_000, 32_000)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + 3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
