"""Child processes that can be killed, their limits, and how they ended.

A decoder that loops in native code holds Python's lock, so no timeout, thread or signal handler of its own process
can run. The loader, `mvrec prep` and the doctor therefore handle files in a `Child` that the parent watches.
Importing this module costs nothing.
"""

import contextlib
import errno
import io
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CAN_FORK = hasattr(os, "fork")

_TICK_SECONDS = 0.1
_INLINE_BYTES, _MOST_MEMORIES = 1 << 16, 16  # smaller arrays, and any after the 16th, travel inside the message
_HEADER = struct.Struct("!QB")  # bytes of the message, number of arrays outside it
_OUT_OF_MEMORY = ("Cannot allocate memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Limits:
    """The most that the work on one file may take.

    Attributes:
        seconds: Time without an answer; `None` for no limit.
        memory: GiB on top of what the process uses at its start; `None` for no limit. Linux only.
    """

    seconds: float | None = 60.0
    memory: float | None = 8.0


def settle_in(limits: Limits, *, parent: int) -> None:
    """Prepare this child of `parent` to be killed by its parent at any moment.

    It crashes silently, leaves Ctrl-C and the signals of clusters to the parent, ends with the parent, is the first
    victim of the system when memory runs out, and gets no more memory than the limit.
    """
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import resource

    from mvrec.machine.large_pages import give_back_addresses

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: even a hung process ends with its parent
    if os.getppid() != parent:
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the parent reports crashes; no core dump
    Path("/proc/self/oom_score_adj").write_text("700")
    if limits.memory is not None:
        give_back_addresses()
        status = Path("/proc/self/status").read_text().split()
        bytes_now = 1024 * int(status[status.index("VmData:") + 1])
        most = bytes_now + int(limits.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def is_out_of_memory(error: BaseException | str) -> bool:
    """Return whether an error of any library says that memory ran out."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def how_it_ended(exit_code: int | None) -> str:
    """Describe the end of a process: "was ended by SIGSEGV".

    Args:
        exit_code: As in `multiprocessing`, where a signal is a negative number; `None` if unknown.
    """
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"left with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (", which the system sends when memory runs out" if name == "SIGKILL" else "")


# -- children that can be killed ----------------------------------------------------------------------------------


class ChildError(Exception):
    """A child process gives no answer; the message continues its name: "was ended by SIGSEGV"."""


class _Pickler(pickle.Pickler):
    """A pickler that stores tensors as arrays, because torch writes a whole file for each tensor."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and type(value) is torch.Tensor:
            return _tensor, (value.contiguous().numpy(),)
        return NotImplemented


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)


class Channel:
    """One end of a socket pair, for whole messages of anything that can be pickled.

    On Linux, large arrays and tensors go through memory that both processes map, because a socket would copy them
    several times. The receiver may write into them.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            ConnectionError: The other end is closed.
        """
        memories: list[int] = []

        def stays_in_the_pickle(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes <= _INLINE_BYTES or len(memories) == _MOST_MEMORIES or not hasattr(os, "memfd_create"):
                return True
            memories.append(os.memfd_create("array"))
            while raw:
                raw = raw[os.write(memories[-1], raw) :]
            return False

        data = io.BytesIO()
        try:
            _Pickler(data, protocol=5, buffer_callback=stays_in_the_pickle).dump(message)
            header = _HEADER.pack(data.tell(), len(memories))
            if memories:
                socket.send_fds(self._end, [header], memories)
                header = b""
            self._end.sendall(header + data.getbuffer())
        finally:
            for memory in memories:
                os.close(memory)

    def receive(self) -> Any:
        """Wait for the next message and return it.

        Raises:
            EOFError: The other end is closed.
        """
        header, memories, _, _ = socket.recv_fds(self._end, _HEADER.size, _MOST_MEMORIES)
        try:
            if not header:
                raise EOFError
            length, count = _HEADER.unpack(header + self._receive_bytes(_HEADER.size - len(header)))
            data = self._receive_bytes(length)
            if len(memories) < count:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return pickle.loads(data, buffers=[mmap.mmap(memory, 0) for memory in memories])
        finally:
            for memory in memories:
                os.close(memory)

    def _receive_bytes(self, count: int) -> bytearray:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            received = self._end.recv_into(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return data


class Child:
    """A forked process that its parent may kill at any moment.

    Unlike `multiprocessing`, it works in a loader's worker, which is daemonic.

    Args:
        serve: The work, called with the child's end of the channel; the child ends when it returns or the parent ends.
        limits: The most that one answer may take.

    Attributes:
        owner: The process that forked it.
        pid: Its process id; 0 once it has ended.
        waited: Seconds without an answer while its parent watched; suspended time does not count.
    """

    def __init__(self, serve: Callable[[Channel], None], limits: Limits) -> None:
        self.owner, self.pid, self.limits, self.waited = os.getpid(), 0, limits, 0.0
        self._end, child_end = socket.socketpair()
        self._channel = Channel(self._end)
        with warnings.catch_warnings():
            # Python warns of forks in programs with threads. The child touches nothing that a thread may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    self._end.close()
                    _run(serve, Channel(child_end), limits, self.owner)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        child_end.close()
        self._end.settimeout(limits.seconds)  # once a message has begun, the rest is only copying

    def fileno(self) -> int:
        """Return the file descriptor of the parent's end of the channel, for `watch`."""
        return self._end.fileno()

    def send(self, message: Any) -> None:
        """Send a request.

        Raises:
            ChildError: The child has ended or takes no message.
        """
        self.waited = 0.0
        with self._faults():
            self._channel.send(message)

    def receive(self) -> Any:
        """Wait for the next message and return it.

        Raises:
            ChildError: The child hangs or has ended.
        """
        while not watch([self]):
            if self.is_late:
                raise ChildError(f"gave no answer for {self.limits.seconds:g} s")
        with self._faults():
            return self._channel.receive()

    @property
    def is_late(self) -> bool:
        """Whether the child has given no answer for longer than its limit."""
        return self.limits.seconds is not None and self.waited >= self.limits.seconds

    @property
    def is_open(self) -> bool:
        """Whether the child was not killed."""
        return self.fileno() >= 0

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and is a child of this one."""
        return self.is_open and self.owner == os.getpid() and self._reap(seconds=0.0) is None and self.pid > 0

    def kill(self) -> None:
        """End the process. A process that waits for a dead disk cannot be ended and is left behind."""
        self._end.close()
        if self.owner != os.getpid():
            return  # a copy in a later fork
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        self._reap(seconds=1.0)

    def __del__(self) -> None:
        self.kill()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise ChildError(f"stopped in the middle of an answer for {self.limits.seconds:g} s") from None
        except (EOFError, ConnectionError):
            status = self._reap(seconds=5.0)
            raise ChildError(how_it_ended(None if status is None else os.waitstatus_to_exitcode(status))) from None

    def _reap(self, *, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return status
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        return None


def watch(children: Sequence[Child]) -> list[Child]:
    """Wait a moment for messages and return the children that sent one. Add the moment to `waited` of the others."""
    poll, begin = select.poll(), time.monotonic()
    for child in children:
        poll.register(child, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(1000 * _TICK_SECONDS)}
    watched = min(time.monotonic() - begin, 2 * _TICK_SECONDS)
    for child in children:
        child.waited = 0.0 if child.fileno() in ready else child.waited + watched
    return [child for child in children if child.fileno() in ready]


def apart(function: Callable[..., Any], *arguments: Any, limits: Limits) -> Any:
    """Call a function in a silent child process, where native code may crash or hang, and return its value.

    On a system without fork the function runs in this process.

    Raises:
        ChildError: The child crashed or hung, or the function raised an error.
    """

    def serve(channel: Channel) -> None:
        silence = os.open(os.devnull, os.O_WRONLY)  # encoders and decoders print past Python
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        channel.send(_tried(function, arguments))

    if CAN_FORK:
        child = Child(serve, limits)
        try:
            value, fault = child.receive()
        finally:
            child.kill()
    else:
        value, fault = _tried(function, arguments)
    if fault is not None:
        raise ChildError(fault)
    return value


def _tried(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, str | None]:
    try:
        return function(*arguments), None
    except Exception as error:  # errors travel as text
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _run(serve: Callable[[Channel], None], channel: Channel, limits: Limits, parent: int) -> NoReturn:
    code = 1
    try:
        settle_in(limits, parent=parent)
        with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
            serve(channel)
        code = 0
    except BaseException:  # after any error this process ends here
        traceback.print_exc()
    finally:
        os._exit(code)  # skip finalisers, which belong to the parent
