"""Whether the processes of a launch find each other, are equal, and can add up a tensor: before a job, not in it.

Every process registers at rank 0 over plain TCP, says which step it has reached and gives a sign of life twice a
second. So where a collective would wait in silence, rank 0 can say who never came, who is stuck, and who is different.
All that may block is in threads that nobody waits for without a limit: a process that is stopped cannot take the
others with it.
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

# torchrun's store lives on: a second check of the same processes must not meet the first one's entries.
_CHECKS = itertools.count()
_BEAT_SECONDS = 0.5
_POLL_SECONDS = 0.1
_CLOSING_SECONDS = 5.0
_REGISTER_SHARE, _COLLECTIVE_SHARE = 0.55, 0.9  # of the whole time, when each part must be over


@dataclass(frozen=True)
class LaunchReport:
    """What a check of a launch found.

    Attributes:
        launcher: "torchrun", "srun" or "environment".
        rank: The process that says it.
        world_size: Processes in all.
        backend: "nccl" or "gloo".
        address: Where rank 0 was looked for.
        port: Its port.
        processes: Those that registered, by rank.
        problems: What is wrong; none where all is well.
        all_reduce_ms: Time of one all-reduce of a small tensor in milliseconds; `None` where there was none.
        seconds: How long the check took.
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
        """Return whether the launch holds together."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the report for people."""
        head = f"launch: {self.world_size} processes by {self.launcher}, {self.backend}, {self.address}:{self.port}"
        rows = [
            f"  rank {one.rank}: {one.host}, pid {one.pid}, {one.device}, torch {one.versions.get('torch')}"
            for one in self.processes
        ]
        if self.ok:
            end = [
                f"ok: all-reduce over {self.world_size} processes in {self.all_reduce_ms:.1f} ms, {self.seconds:.1f} s"
            ]
        else:
            end = [line for one in self.problems for line in (f"broken: {one.text}", f"  fix: {one.fix}")]
        return [head, *rows, *end]


def versions_here() -> dict[str, str | None]:
    """Return versions that must be equal on all processes."""
    found: dict[str, str | None] = {"python": python_version(), "mvrec": __version__, "cuda": torch.version.cuda}
    for name in COMPARED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_launch(
    launch: Launch,
    *,
    timeout_seconds: float = 50,
    backend: str | None = None,
    versions: Mapping[str, str | None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> LaunchReport:
    """Check a launch; every process of it must call this.

    It leaves no process group behind where all is well. Where it is not, threads of this process may hang for good in
    a collective, so the process should end soon.

    Args:
        launch: This process; see `launch_of`.
        timeout_seconds: When every process that runs has its answer.
        backend: "nccl" or "gloo"; by default NCCL where there are GPUs.
        versions: What is compared between processes; see `versions_here`.
        on_stage: Told about each of `STAGES` when this process reaches it.
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
    """This process, and on rank 0 the judge of all."""

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
        """Take the process group down again, and wait until rank 0 has closed its port.

        What comes next will open it anew, and must not find this check there. Trying the port would not tell: a
        connection made in the very moment of the change hangs for five seconds, so an open one waits for its end.
        """
        self._finished.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._server = None
        if self._line is None:
            return
        if self.launch.rank != 0 and not self.launch.agent_store:
            self._line.settimeout(_CLOSING_SECONDS)
            with suppress(OSError):  # cut off, or rank 0 is slow: what comes next tries for minutes
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
            # Both before the entry that has the judge ask for them.
            heartbeat.give()
            store.set(f"stage/{self.launch.rank}", STAGES[0])
            store.set(f"process/{self.launch.rank}/{times - 1}", json.dumps(asdict(self._process())))
            every(_BEAT_SECONDS, heartbeat.give, self._finished).start()
            threading.Thread(target=self._judge if self.launch.rank == 0 else self._listen, daemon=True).start()
            self._stage(store, "registered")
            store.wait(["go"], timedelta(seconds=self.seconds))
        except Exception as error:  # a thread has nobody else to tell
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
            # Longer than the judge waits: what NCCL does to a process whose time is up must come after the verdict.
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
        except Exception as error:  # the judge tells it
            text = " ".join(str(error).split())[:300]
            store.set(f"error/{launch.rank}", f"{type(error).__name__}: {text}")

    def _reach(self) -> list[Problem]:
        """Wait until rank 0, or torchrun, answers at its address; rank 0 begins to."""
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
        # An address that is not this host's may lead here all the same, as a service of Kubernetes does.
        closed = None if any(map(_is_here, places)) else self._knock(time.monotonic() + 0.1 * self.seconds)
        return alone_problems(launch, host, "elsewhere", self.seconds, closed) if closed else []

    def _knock(self, end: float) -> Exception | None:
        """Try to connect to rank 0 until a time, and keep the line; returns what was wrong the last time."""
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
        # With one GPU per task each sees its own as number 0.
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
        except Exception as error:  # a thread has nobody else to tell
            problems = alone_problems(self.launch, socket.gethostname(), "lost", self.seconds, error)
            self.answers.put(self.report(problems))
            return
        processes = [Process.from_dict(one) for one in values["processes"]]
        problems = [Problem(one["text"], one["fix"], tuple(one["ranks"])) for one in values["problems"]]
        self.answers.put(self.report(problems, processes, all_reduce_ms=values["all_reduce_ms"]))

    # -- rank 0 -------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Wait for all, compare them, watch them add up, and tell everybody."""
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
            self._wait_for_readers(store, {one.rank for one in processes}, named)
        except Exception as error:  # a thread has nobody else to tell
            report = self.report(alone_problems(self.launch, socket.gethostname(), "lost", self.seconds, error))
        self.answers.put(report)

    def _gather(self, store: Any) -> tuple[list[Process], list[Process]]:
        """Return the processes that register in time, by rank, and those whose rank another one has already."""
        end = self.begin + _REGISTER_SHARE * self.seconds
        missing = set(range(self.launch.world_size))
        found: dict[int, Process] = {}
        while missing and time.monotonic() < end:
            for rank in sorted(missing):
                if store.check([f"process/{rank}/0"]):
                    found[rank] = Process.from_dict(json.loads(store.get(f"process/{rank}/0")))
                    missing.discard(rank)
            time.sleep(_POLL_SECONDS)
        twice = [
            Process.from_dict(json.loads(store.get(f"process/{rank}/1")))
            for rank in found
            if store.check([f"process/{rank}/1"])
        ]
        return [found[rank] for rank in sorted(found)], twice

    def _watch(self, store: Any, processes: Sequence[Process]) -> list[Problem]:
        """Wait until all are done, or one of them is known not to be."""
        end = self.begin + _COLLECTIVE_SHARE * self.seconds
        silence = max(4 * _BEAT_SECONDS, min(8.0, 0.15 * self.seconds))
        heartbeat = Heartbeat(store, self.launch.rank)
        ranks = [one.rank for one in processes]
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
            # An error here is mostly the end of another process: who falls silent is known a little later.
            if silent or now > end or (errors and len(errors) == len(ranks)):
                return judge_stuck(self.launch, processes, stages=stages, silent=silent, errors=errors, order=STAGES)

    def _wait_for_readers(self, store: Any, waiting: set[int], named: set[int]) -> None:
        """The store ends with this process, so the others must have read the verdict before.

        Those that the verdict names may live, as two of one rank do, or not: they get a second.
        """
        end = min(time.monotonic() + 5, self.begin + 0.98 * self.seconds)
        if named:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
        waiting = waiting - named - {0}
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not store.check([f"read/{rank}"])}
            time.sleep(_POLL_SECONDS)


def _is_here(place: tuple[Any, ...]) -> bool:
    """Return whether an address is one of this machine's."""
    family, kind, protocol, _, address = place
    with socket.socket(family, kind, protocol) as attempt:
        try:
            attempt.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True
