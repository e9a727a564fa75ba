"""Set-up of a loader's worker process: batches need no /dev/shm, and failures are reported.

Torch passes tensors through files in /dev/shm, which has 64 MB in a container: with a full one, a worker dies of
SIGBUS or leaves the training process waiting for ever. Memory without a file has no such limit.
"""

import os
import signal
import sys
from multiprocessing import queues
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import reductions

from mvrec.machine import machine_fault

SMALL_BYTES = 1 << 14  # travels in the message itself, without an open file
FAILED = 70  # exit code of a worker that cannot pass its batches on


def start_worker(worker_id: int) -> None:
    """Set up the calling process as a loader's worker; torch calls it as `worker_init_fn`."""
    torch.set_num_threads(1)  # one worker, one core: the number of workers gives the parallelism
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes; the main one ends the workers
    queues.Queue._on_queue_feeder_error = staticmethod(_leave)  # type: ignore[attr-defined]
    if hasattr(os, "memfd_create"):
        ForkingPickler.register(torch.UntypedStorage, _reduced)


def _leave(error: Exception, _: Any) -> None:
    """End the process: a dropped batch would leave its reader waiting for ever."""
    print(f"mvrec: error: {machine_fault(error) or f'no batch can be sent: {error}'}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(FAILED)


def _reduced(storage: torch.UntypedStorage) -> tuple[Any, ...]:
    """Return how to send a tensor's memory: as bytes, or as a file outside any folder."""
    size = storage.nbytes()
    if storage.device.type != "cpu" or storage.is_shared() or size == 0:
        return reductions.reduce_storage(storage)
    if size <= SMALL_BYTES:
        return _of_bytes, (_bytes(storage).numpy().tobytes(),)
    file = os.memfd_create("batch")
    try:
        os.ftruncate(file, size)
        shared = torch.UntypedStorage._new_shared_fd_cpu(file, size)  # type: ignore[attr-defined]  # has its own copy of the file's number
    finally:
        os.close(file)
    _bytes(shared).copy_(_bytes(storage))
    return reductions.reduce_storage(shared)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _of_bytes(content: bytes) -> torch.UntypedStorage:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
