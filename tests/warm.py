"""Processes that pay no imports: forks of one server that has imported what a run imports.

README.md shows how to call it. Each process has a process group of its own, default signal handlers and no state of
pytest. `env` adds to this environment, None removes; variables that libraries read when they are imported come too
late, but for OMP_NUM_THREADS. The fixture `nothing_left_behind` of conftest.py kills what a test leaves behind.
"""

import atexit
import gc
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

HANG = 600.0  # seconds after which a test counts as hung, on the busiest machine
PRELOADED = """
torch lightning.pytorch torchvision.transforms.v2 torchmetrics torch.distributed.fsdp av
matplotlib.figure matplotlib.backends.backend_agg mvrec.cli.main mvrec.cli.lightning mvrec.data.sets.kinetics
mvrec.data.sets.folder mvrec.data.generated.moving_digits_video mvrec.tasks.classification.task
"""


class Process:
    """A process that `start` started."""

    def __init__(self, pid: int, status: int, output: Path) -> None:
        self.pid, self.returncode = pid, None
        self._status, self._output = status, output

    @property
    def stdout(self) -> str:
        return (self._output / "out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self._output / "err").read_text(errors="replace")

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, or None while it lives."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = HANG) -> int:
        """Wait for its end; returns the exit code."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, self.stdout, self.stderr)
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode

    def wait_for(self, pattern: str, timeout: float = HANG) -> None:
        """Wait until its stderr has a match of a regular expression."""
        end = time.monotonic() + timeout
        while not re.search(pattern, self.stderr):
            assert self.poll() is None, f"exit code {self.returncode} without {pattern!r}: {self.stderr}"
            assert time.monotonic() < end, f"no {pattern!r}: {self.stderr}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and all processes of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Server:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._socket, expected = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.folder = tempfile.TemporaryDirectory(prefix="warm_")
        self.started: list[Process] = []
        knobs = {"stdin": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "start_new_session": True}
        command = [sys.executable, __file__, str(expected.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[expected.fileno()], stderr=self._log, **knobs)
        expected.close()
        atexit.register(self.close)

    def start(self, arguments: list[str], program: Path | str | None, env: dict[str, str], cwd: str) -> Process:
        output = Path(tempfile.mkdtemp(dir=self.folder.name))
        program = [type(program).__name__, str(program)]
        request = {"arguments": arguments, "env": env, "cwd": cwd, "program": program}
        status, expected = os.pipe()
        with (output / "out").open("w") as out, (output / "err").open("w") as err:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [expected, out.fileno(), err.fileno()])
        os.close(expected)
        answer = self._socket.recv(100)
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"the server of warm processes has ended: {self._log.read()}")
        self.started.append(Process(int(answer), status, output))
        return self.started[-1]

    def end_started(self) -> None:
        for process in self.started:
            process.kill()
        self.started.clear()

    def close(self) -> None:
        """End the server, which ends all processes that it has forked."""
        with suppress(OSError):
            self._socket.send(b"end")  # forks of this process may hold the socket open
        self._socket.close()
        self.process.wait()


_server: Server | None = None


def start(
    *arguments: object, program: Path | str | None = None, env: dict[str, Any] | None = None, cwd: Path | None = None
) -> Process:
    """Start `mvrec ARGUMENTS`, or a script or code with these arguments, in a fork of the server."""
    global _server
    if _server is None:
        _server = Server()
    merged = {**os.environ, "OMP_NUM_THREADS": "1", "MVREC_STOP_SECONDS": HANG, **(env or {})}
    environment = {key: str(value) for key, value in merged.items() if value is not None}
    return _server.start([str(word) for word in arguments], program, environment, str(cwd or Path.cwd()))


def run(*arguments: object, **options: Any) -> Process:
    """`start`, and wait for the end."""
    process = start(*arguments, **options)
    process.wait()
    return process


def start_ranks(
    count: int, *arguments: object, env: dict[str, Any] | None = None, strategy: str | None = "ddp", **options: Any
) -> list[Process]:
    """Start one process per rank with the environment that torchrun gives them."""
    flags = [] if "program" in options else [f"--trainer.devices={count}"]
    flags += [f"--trainer.strategy={strategy}"] if flags and strategy else []
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "warm"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    shared |= {"MVREC_PREFLIGHT_SECONDS": 0, **(env or {})}  # tests/cluster has the checks of a launch
    ranks = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [start(*arguments, *flags, env=variables, **options) for variables in ranks]


def run_ranks(count: int, *arguments: object, **options: Any) -> list[Process]:
    """`start_ranks`, and wait for the end of all."""
    processes = start_ranks(count, *arguments, **options)
    for process in processes:
        process.wait()
    return processes


def end_started() -> None:
    """Kill what tests have started and not ended."""
    if _server is not None:
        _server.end_started()


def free_port() -> int:
    """A port that nobody has, and that the system deals to no connection of another test in the meantime."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # Linux deals from 32768 on
        with socket.socket() as attempt, suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            return port


# -- the server ------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a process per request; returns its request in the fork, and None in the server when the tests are over."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    alive, parent = dict[int, int](), os.getppid()
    while True:
        ready, _, _ = select.select([connection, woken], [], [], 5)
        if woken in ready:
            os.read(woken, 4096)
            report_ended(alive)
        message, received = b"end", []
        if connection in ready:
            message, received, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        elif os.getppid() == parent:
            continue
        if message in (b"", b"end"):
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return None
        status, out, err = received
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            for number in (*received, *alive.values(), woken, waker):
                os.close(number)
            connection.close()
            return json.loads(message)
        with suppress(PermissionError, ProcessLookupError):  # the fork was faster, or is over
            os.setpgid(pid, pid)
        alive[pid] = status
        os.close(out)
        os.close(err)
        connection.send(str(pid).encode())


def report_ended(alive: dict[int, int]) -> None:
    """Write the exit codes of the processes that have ended."""
    for pid in list(alive):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with suppress(BrokenPipeError):
                os.write(alive[pid], str(os.waitstatus_to_exitcode(status)).encode())
            os.close(alive.pop(pid))


def become(request: dict[str, Any]) -> None:
    """Be what `mvrec ARGUMENTS`, `python FILE ARGUMENTS` or `python -c CODE ARGUMENTS` is."""
    import runpy

    import torch
    from lightning.fabric.utilities import rank_zero

    environment = request["env"]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["cwd"])
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(":") if path]
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # which Lightning does when it is imported
    kind, program = request["program"]
    if kind == "NoneType":
        from mvrec.cli.main import main

        sys.argv = [str(Path(import_module("mvrec").__file__).parent / "__main__.py"), *request["arguments"]]
        main()
    elif kind == "str":
        sys.argv = ["-c", *request["arguments"]]
        sys.path.insert(0, "")
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [program, *request["arguments"]]
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")


def leave(work: Callable[[], None]) -> NoReturn:
    """Work and end like an interpreter that has no modules to take down, which takes a second of processor time."""
    code = 0
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # as where `python -m mvrec` is started
    for name in PRELOADED.split():
        import_module(name)
    import_module("mvrec.runs.run_directory").draw_curves = lambda metrics, output: output.touch()  # see `no_pictures`
    gc.freeze()  # so that forks share the pages
    task = serve(socket.socket(fileno=int(sys.argv[1])))
    if task is not None:
        leave(lambda: become(task))
