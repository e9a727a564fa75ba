"""A real Slurm on this machine: controller and two nodes as processes of this user, on the loopback interface only."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
CONFIG = """\
ClusterName=mvrec
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
SlurmdTimeout=15
SlurmctldTimeout=30
MinJobAge=86400
CompleteWait=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=8 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def missing_tools() -> list[str]:
    """What is not installed here (Debian: slurmctld slurmd slurm-client munge)."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


class Cluster:
    """Brings Slurm up in a folder, submits, asks, and takes it down again.

    Args:
        folder: Absolute, with parents that belong to this user or root and nobody else may write in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        self.environment["SLURM_CONF"] = str(folder / "etc/slurm.conf")
        # A job takes the environment along: nothing of this process may decide about its ranks or signals.
        for name in [key for key in self.environment if key.startswith(("PYTEST", "SLURM_")) and key != "SLURM_CONF"]:
            del self.environment[name]

    def up(self) -> None:
        """Start munged, the controller and two nodes; returns when both are idle."""
        for name in ("etc", "run", "state", "log", "spool/n1", "spool/n2"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "run").chmod(0o755)
        key = self.folder / "run/munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ports = free_ports(2)
        first = consecutive_ports()
        config = CONFIG.format(
            folder=self.folder, user=getpass.getuser(), controller=ports[0], first=first, second=first + 1
        )
        (self.folder / "etc/slurm.conf").write_text(config)
        run = self.folder / "run"
        self.call(
            *("munged", "-S", run / "munge.sock", f"--key-file={key}", f"--pid-file={run / 'munged.pid'}"),
            *(f"--log-file={self.folder / 'log/munged.log'}", f"--seed-file={run / 'munge.seed'}"),
        )
        self.call("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.call("slurmd", "-N", node)
        self.wait(
            "both nodes are idle",
            lambda: self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * 2,
            300,
        )

    def down(self) -> None:
        """Cancel what runs, then end the daemons that this object has started, by their ids."""
        jobs = set(self.call("squeue", "-h", "-o", "%A").split())
        for job in jobs:
            self.call("scancel", job)
        self.wait("the queue is empty", lambda: not self.call("squeue", "-h").strip(), 300)
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "munged"):
            if pid := self.kill_daemon(name):
                self.wait(f"{name} has ended", Ended(pid), 300)

    def kill_daemon(self, name: str, number: int = 15) -> int:
        """Send a signal to a daemon, if the process of its pid file still is it; returns its id, or 0."""
        path = self.folder / f"run/{name}.pid"
        if not path.is_file():
            return 0
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/comm")
        if not command.is_file() or not command.read_text().startswith(name.partition(".")[0]):
            return 0
        os.kill(pid, number)
        return pid

    def call(self, *command: object, check: bool = True, **options: object) -> str:
        """Run a command with this cluster's configuration; returns what it prints."""
        result = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment,
            **options,  # type: ignore[call-overload]
        )
        assert result.returncode == 0 or not check, f"{command}: {result.stderr}\n{self.logs()}"
        return str(result.stdout)

    def logs(self) -> str:
        """The end of every daemon's log."""
        paths = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in paths)

    def submit(self, *arguments: object, cwd: Path, environment: dict[str, str] | None = None) -> int:
        """Submit a job; returns its number."""
        before = dict(self.environment)
        self.environment |= environment or {}
        try:
            return int(self.call("sbatch", "--parsable", *arguments, cwd=cwd))
        finally:
            self.environment = before

    def job(self, number: int | str) -> dict[str, str]:
        """What Slurm knows of a job."""
        text = self.call("scontrol", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", text.split("\n\n")[0]))

    def wait_for(self, number: int | str, *states: str, seconds: float = 900) -> dict[str, str]:
        """Wait until a job is in one of some states."""
        self.wait(f"job {number} is {' or '.join(states)}", lambda: self.job(number)["JobState"] in states, seconds)
        return self.job(number)

    def wait(self, what: str, condition, seconds: float) -> None:
        """Poll until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{self.logs()}"
            time.sleep(0.2)


class Ended:
    """Whether a process is no more."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __call__(self) -> bool:
        status = Path(f"/proc/{self.pid}/stat")
        return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def consecutive_ports() -> int:
    """The first of two free ports in a row."""
    for first in range(27001, 28000, 2):
        try:
            with socket.socket() as one, socket.socket() as two:
                one.bind(("127.0.0.1", first))
                two.bind(("127.0.0.1", first + 1))
            return first
        except OSError:
            continue
    raise AssertionError("no two free ports in a row")
