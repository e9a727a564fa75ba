"""Check before a job that the processes of a launch find each other, are equal, and can add up a tensor.

Every process registers at rank 0 over plain TCP, reports each stage and sends a heartbeat twice a second. Where a
collective would wait in silence, rank 0 can name the missing, the hung and the differing processes. All calls that may
block run in threads that nobody joins without a limit, so a stopped process cannot block the others.
"""

import itertools
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import metadata
from platform import python_version
from typing import Any

import torch
import torch.distributed as dist

from mvrec import __version__
from mvrec.cluster.heartbeat import Heartbeat, every, open_store
from mvrec.cluster.launch import Launch, Problem
from mvrec.cluster.launch_verdict import Process, alone_problems, judge_equal, judge_missing, judge_stuck

COMPARED_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "av")
STAGES = ("registered", "joining", "adding up", "done")

# torchrun's store lives on: a second check of the same processes must not read the first one's entries.
_CHECKS = itertools.count()
_BEAT_SECONDS = 0.5
_POLL_SECONDS = 0.1
_CLOSING_SECONDS = 5.0
_REGISTER_SHARE, _COLLECTIVE_SHARE = 0.55, 0.9  # of the timeout, at which each part must be over


@dataclass(frozen=True)
class LaunchReport:
    """The result of a launch check.

    Attributes:
        launcher: "torchrun", "srun" or "environment".
        rank: The reporting process.
        world_size: The number of processes.
        backend: "nccl" or "gloo".
        address: The address of rank 0.
        port: Its port.
        processes: The processes that registered, by rank.
        problems: The faults; empty if all is well.
        all_reduce_ms: Milliseconds of one all-reduce of a small tensor; `None` if none took place.
        seconds: Duration of the check.
    """

    launcher: str
    rank: int
    world_size: int
    backend: str
    address: str
    port: int
    processes: tuple[Process, ...] = ()
    problems: tuple[Problem, ...] = ()
    all_reduce_ms: float | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the launch works."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        head = f"launch: {self.world_size} processes by {self.launcher}, {self.backend}, {self.address}:{self.port}"
        rows = [
            f"  rank {item.rank}: {item.host}, pid {item.pid}, {item.device}, torch {item.versions.get('torch')}"
            for item in self.processes
        ]
        if self.ok:
            end = [
                f"ok: all-reduce over {self.world_size} processes in {self.all_reduce_ms:.1f} ms, {self.seconds:.1f} s"
            ]
        else:
            end = [line for problem in self.problems for line in (f"broken: {problem.text}", f"  fix: {problem.fix}")]
        return [head, *rows, *end]


def versions_here() -> dict[str, str | None]:
    """Return the versions that must be equal on all processes."""
    versions: dict[str, str | None] = {"python": python_version(), "mvrec": __version__, "cuda": torch.version.cuda}
    for name in COMPARED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def check_launch(
    launch: Launch,
    *,
    timeout_seconds: float = 50,
    backend: str | None = None,
    versions: Mapping[str, str | None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> LaunchReport:
    """Check a launch; every process of it must call this.

    A successful check leaves no process group behind. After a failed one, threads of this process may hang for good
    in a collective, so the process should end soon.

    Args:
        launch: This process; see `launch_of`.
        timeout_seconds: The time by which every running process has its answer.
        backend: "nccl" or "gloo"; by default NCCL where there are GPUs.
        versions: The versions to compare between processes; see `versions_here`.
        on_stage: Called with each of `STAGES` when this process reaches it.
    """
    begin = time.monotonic()
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    member = _Member(launch, backend, timeout_seconds, dict(versions or versions_here()), on_stage)
    member.start()
    try:
        report = member.answers.get(timeout=timeout_seconds)
    except queue.Empty:
        report = member.report(alone_problems(launch, socket.gethostname(), "silent", timeout_seconds))
    if report.ok:
        member.leave()
    values = {**report.__dict__, "rank": launch.rank, "seconds": time.monotonic() - begin}
    return LaunchReport(**values)


@dataclass
class _Member:
    """This process, and on rank 0 the judge of all processes."""

    launch: Launch
    backend: str
    seconds: float
    versions: dict[str, str | None]
    on_stage: Callable[[str], None] | None
    answers: "queue.Queue[LaunchReport]" = field(default_factory=queue.Queue)
    begin: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_CHECKS))
    _server: Any = None
    _line: socket.socket | None = None
    _finished: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._meet, daemon=True, name="mvrec launch check").start()

    def leave(self) -> None:
        """Take the process group down, and wait until rank 0 has closed its port.

        The training will open the port anew and must not find this check there. Probing the port would not do: a
        connection made at the moment of the change hangs for five seconds. So an open connection waits for its end.
        """
        self._finished.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._server = None
        if self._line is None:
            return
        if self.launch.rank != 0 and not self.launch.agent_store:
            self._line.settimeout(_CLOSING_SECONDS)
            with suppress(OSError):  # cut off, or rank 0 is slow: the training retries for minutes
                self._line.recv(1)
        self._line.close()

    def report(self, problems: Sequence[Problem], processes: Sequence[Process] = (), **more: Any) -> LaunchReport:
        launch = self.launch
        return LaunchReport(
            launch.launcher,
            launch.rank,
            launch.world_size,
            self.backend,
            launch.address,
            launch.port,
            tuple(processes),
            tuple(problems),
            **more,
        )

    # -- every process ------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Find rank 0, register, wait for the others, add up."""
        try:
            problems = self._reach()
            if problems:
                self.answers.put(self.report(problems))
                return
            store = self._client()
            times = store.add(f"times/{self.launch.rank}", 1)
            heartbeat = Heartbeat(self._client(), self.launch.rank)
            # Both come before the entry upon which the judge asks for them.
            heartbeat.give()
            store.set(f"stage/{self.launch.rank}", STAGES[0])
            store.set(f"process/{self.launch.rank}/{times - 1}", json.dumps(asdict(self._process())))
            every(_BEAT_SECONDS, heartbeat.give, self._finished).start()
            threading.Thread(target=self._judge if self.launch.rank == 0 else self._listen, daemon=True).start()
            self._stage(store, "registered")
            store.wait(["go"], timedelta(seconds=self.seconds))
        except Exception as error:  # a thread cannot raise to its caller
            self.answers.put(
                self.report(alone_problems(self.launch, socket.gethostname(), "lost", self.seconds, error))
            )
            return
        self._add_up(store)

    def _add_up(self, store: Any) -> None:
        launch = self.launch
        try:
            device = self._device()
            if device.type == "cuda":
                torch.cuda.set_device(device)
            self._stage(store, "joining")
            # Longer than the judge waits: NCCL must not end this process before the verdict.
            patience = timedelta(seconds=self.seconds + 30)
            dist.init_process_group(
                self.backend,
                store=dist.PrefixStore("group", self._client()),
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=patience,
                device_id=device if device.type == "cuda" else None,
            )
            dist.barrier()
            self._stage(store, "adding up")
            value = torch.tensor([float(launch.rank + 1)], device=device)
            before = time.perf_counter()
            dist.all_reduce(value)
            total = float(value)
            milliseconds = 1000 * (time.perf_counter() - before)
            expected = launch.world_size * (launch.world_size + 1) / 2
            assert total == expected, f"the all-reduce gave {total:g} instead of {expected:g}"
            dist.barrier()
            store.set(f"time/{launch.rank}", f"{milliseconds:.3f}")
            self._stage(store, "done")
        except Exception as error:  # the judge reports it
            text = " ".join(str(error).split())[:300]
            store.set(f"error/{launch.rank}", f"{type(error).__name__}: {text}")

    def _reach(self) -> list[Problem]:
        """Wait until rank 0, or torchrun, answers at its address; rank 0 starts to listen there."""
        launch, host = self.launch, socket.gethostname()
        try:
            places = socket.getaddrinfo(launch.address, launch.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return alone_problems(launch, host, "unresolved", self.seconds, error)
        if launch.rank != 0 or launch.agent_store:
            closed = self._knock(self.begin + _REGISTER_SHARE * self.seconds)
            return alone_problems(launch, host, "unreached", self.seconds, closed) if closed else []
        try:
            self._server = open_store("127.0.0.1", launch.port, patience=self._left(), serves=True)
        except Exception as raised:  # torch's error is of no public class
            return alone_problems(launch, host, "taken", self.seconds, raised)
        # A foreign address may still lead to this host, as with a service of Kubernetes.
        closed = None if any(map(_is_here, places)) else self._knock(time.monotonic() + 0.1 * self.seconds)
        return alone_problems(launch, host, "elsewhere", self.seconds, closed) if closed else []

    def _knock(self, end: float) -> Exception | None:
        """Try to connect to rank 0 until a time, and keep the connection; return the last error."""
        while True:
            try:
                line = socket.create_connection((self.launch.address, self.launch.port), timeout=2)
            except OSError as error:
                if time.monotonic() > end:
                    return error
                time.sleep(0.2)
            else:
                self._line = line
                return None

    def _client(self) -> Any:
        launch = self.launch
        store = open_store(launch.address, launch.port, patience=self._left())
        return dist.PrefixStore(f"mvrec launch check {launch.attempt}.{self.number}", store)

    def _left(self) -> float:
        return max(1.0, self.begin + self.seconds - time.monotonic())

    def _process(self) -> Process:
        launch, device = self.launch, self._device()
        identity = ""
        if device.type == "cuda":
            identity = str(torch.cuda.get_device_properties(device).uuid)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        return Process(
            rank=launch.rank,
            local_rank=launch.local_rank,
            world_size=launch.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=name,
            device_id=identity,
            visible_devices=torch.cuda.device_count() if self.backend == "nccl" else 0,
            versions=self.versions,
            problems=launch.problems,
        )

    def _device(self) -> torch.device:
        count = torch.cuda.device_count() if self.backend == "nccl" else 0
        # With one GPU per task each task sees its own as number 0.
        return torch.device("cuda", self.launch.local_rank % count) if count else torch.device("cpu")

    def _stage(self, store: Any, name: str) -> None:
        store.set(f"stage/{self.launch.rank}", name)
        if self.on_stage is not None:
            self.on_stage(name)

    def _listen(self) -> None:
        """Wait for the verdict of rank 0."""
        try:
            store = self._client()
            store.wait(["verdict"], timedelta(seconds=self.seconds))
            values = json.loads(store.get("verdict"))
            store.set(f"read/{self.launch.rank}", "1")
        except Exception as error:  # a thread cannot raise to its caller
            problems = alone_problems(self.launch, socket.gethostname(), "lost", self.seconds, error)
            self.answers.put(self.report(problems))
            return
        processes = [Process.from_dict(entry) for entry in values["processes"]]
        problems = [Problem(entry["text"], entry["fix"], tuple(entry["ranks"])) for entry in values["problems"]]
        self.answers.put(self.report(problems, processes, all_reduce_ms=values["all_reduce_ms"]))

    # -- rank 0 -------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Wait for all processes, compare them, watch the all-reduce, and send everybody the verdict."""
        try:
            store = self._client()
            processes, twice = self._gather(store)
            problems = judge_missing(self.launch, processes, twice)
            milliseconds = None
            if not problems:
                problems = judge_equal(processes)
                store.set("go", "1")
                problems += self._watch(store, processes)
                if store.check(["time/0"]):
                    milliseconds = float(store.get("time/0"))
            report = self.report(problems, processes, all_reduce_ms=milliseconds)
            store.set("verdict", json.dumps(report.as_dict()))
            named = {rank for problem in problems for rank in problem.ranks}
            self._wait_for_readers(store, {process.rank for process in processes}, named)
        except Exception as error:  # a thread cannot raise to its caller
            report = self.report(alone_problems(self.launch, socket.gethostname(), "lost", self.seconds, error))
        self.answers.put(report)

    def _gather(self, store: Any) -> tuple[list[Process], list[Process]]:
        """Return the processes that register in time, by rank, and those whose rank is already taken."""
        end = self.begin + _REGISTER_SHARE * self.seconds
        missing = set(range(self.launch.world_size))
        members: dict[int, Process] = {}
        while missing and time.monotonic() < end:
            for rank in sorted(missing):
                if store.check([f"process/{rank}/0"]):
                    members[rank] = Process.from_dict(json.loads(store.get(f"process/{rank}/0")))
                    missing.discard(rank)
            time.sleep(_POLL_SECONDS)
        twice = [
            Process.from_dict(json.loads(store.get(f"process/{rank}/1")))
            for rank in members
            if store.check([f"process/{rank}/1"])
        ]
        return [members[rank] for rank in sorted(members)], twice

    def _watch(self, store: Any, processes: Sequence[Process]) -> list[Problem]:
        """Wait until all processes are done or one of them fails."""
        end = self.begin + _COLLECTIVE_SHARE * self.seconds
        silence = max(4 * _BEAT_SECONDS, min(8.0, 0.15 * self.seconds))
        heartbeat = Heartbeat(store, self.launch.rank)
        ranks = [process.rank for process in processes]
        while True:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            stages = {rank: store.get(f"stage/{rank}").decode() for rank in ranks}
            if all(stage == "done" for stage in stages.values()):
                return []
            heartbeat.hear(ranks, now=now)
            silent = heartbeat.silent(now=now, seconds=silence)
            silent = {rank: seconds for rank, seconds in silent.items() if stages[rank] != "done"}
            errors = {rank: store.get(f"error/{rank}").decode() for rank in ranks if store.check([f"error/{rank}"])}
            # An error here is mostly the end of another process, whose silence shows a little later.
            if silent or now > end or (errors and len(errors) == len(ranks)):
                return judge_stuck(self.launch, processes, stages=stages, silent=silent, errors=errors, order=STAGES)

    def _wait_for_readers(self, store: Any, waiting: set[int], named: set[int]) -> None:
        """Keep the store, which ends with this process, until the others have read the verdict.

        Processes that the verdict names may still run, such as two of one rank: they get a second.
        """
        end = min(time.monotonic() + 5, self.begin + 0.98 * self.seconds)
        if named:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
        waiting = waiting - named - {0}
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not store.check([f"read/{rank}"])}
            time.sleep(_POLL_SECONDS)


def _is_here(place: tuple[Any, ...]) -> bool:
    """Return whether an address belongs to this machine."""
    family, kind, protocol, _, address = place
    with socket.socket(family, kind, protocol) as attempt:
        try:
            attempt.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True
