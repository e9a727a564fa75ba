"""Loader workers: batches that need no /dev/shm, and failures that are told in one line and never waited for."""

import errno
import os
import signal
import sys
import threading
from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mvrec import machine
from mvrec.data.listing.index import Sample
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.loader import ClipLoader, EvalBatches
from mvrec.data.loading.samples import EvalSamples, TrainSamples
from mvrec.data.loading.workers import SMALL_BYTES, start_worker
from mvrec.data.views.targets import ClassIndex
from mvrec.errors import DecodeError, UserError

linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory without a file")
usage = namedtuple("usage", "total used free")


class Tensors(Dataset):
    """Tensors of the sizes given, or what a test does in their place."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        item = self.items[number]
        return item() if callable(item) else item


def loaded(*items):
    loader = DataLoader(Tensors(*items), batch_size=None, num_workers=1, worker_init_fn=start_worker, timeout=20)
    return list(loader)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def mapping_of(tensor):
    """The line of /proc/self/maps in which the memory of a tensor lies."""
    with open("/proc/self/maps") as lines:  # noqa: PTH123
        for line in lines:
            first, last = (int(number, 16) for number in line.split()[0].split("-"))
            if first <= tensor.data_ptr() < last:
                return line
    return ""


@linux
@pytest.mark.parametrize("size", [1, SMALL_BYTES, SMALL_BYTES + 1, 1 << 20])
def test_tensors_come_out_of_a_worker_without_dev_shm(size):
    content = torch.arange(size, dtype=torch.int64).to(torch.uint8)
    strided = content.view(1, -1).expand(2, size).t()[::2]
    first, second, none = loaded(content, strided, torch.empty(0, 3))
    assert torch.equal(first, content)
    assert torch.equal(second, strided)
    assert none.shape == (0, 3)
    place = mapping_of(first)
    assert "/dev/shm" not in place
    assert ("memfd:batch" in place) == (size > SMALL_BYTES)


def test_a_batch_that_cannot_be_sent_ends_the_wait(capfd):
    with pytest.raises(RuntimeError) as raised:
        loaded(threading.Lock)
    assert "a loader worker (process" in machine.machine_fault(raised.value)
    said = capfd.readouterr().err
    assert said.startswith("mvrec: error: no batch can be sent: ")
    assert "Traceback" not in said


def test_a_worker_that_is_killed_is_told_in_one_line():
    with pytest.raises(RuntimeError) as raised:
        loaded(die)
    message = machine.machine_fault(raised.value)
    assert "was killed, as the system does when memory runs out" in message
    assert "data.num_workers" in message
    assert "\n" not in message


def full():
    raise OSError(errno.ENOSPC, "No space left on device", "rank_0.csv")


def test_a_full_disk_under_a_worker_is_told_in_one_line():
    with pytest.raises(OSError, match="Caught OSError in DataLoader worker") as raised:
        loaded(full)
    assert machine.machine_fault(raised.value) == "No space left on device: 'rank_0.csv'; nothing half-written is left"


def test_only_what_the_machine_did_is_put_down_to_it():
    assert machine.machine_fault(RuntimeError("shapes do not match")) is None
    assert machine.machine_fault(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert machine.machine_fault(OSError(errno.ENOSPC, "No space left on device", "x.ckpt")).startswith(
        "No space left on"
    )
    told = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    assert "--shm-size" in machine.machine_fault(told)


@pytest.mark.parametrize("kind", [TrainSamples, EvalSamples])
def test_too_many_open_files_are_no_fault_of_a_file(kind):
    class Index(list):
        def target(self, number):
            return ClassIndex(self[number].label)

    def views(sample, *_, **__):
        raise DecodeError(sample.path, "Too many open files") from OSError(errno.EMFILE, "Too many open files")

    samples = type("Samples", (kind,), {"views": staticmethod(views), "frames": staticmethod(views)})()
    samples.index, samples.repeats, samples.seed = Index([Sample("a.mp4", 0), Sample("b.mp4", 1)]), 1, 0
    item = samples[SampleKey(0, 0)]
    assert len(item.bad) == 1
    assert "ulimit -n" in item.bad[0].stop
    loader = ClipLoader(samples, EvalBatches(2, batch_size=1, rank=0, world_size=1), num_workers=0, pin_memory=False)
    with pytest.raises(UserError, match=r"too many open files: .*ulimit -n"):
        next(iter(loader))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/shm")
def test_no_worker_starts_where_shared_memory_has_no_room_for_its_queues(tmp_path, monkeypatch):
    assert machine.shared_memory_fault(4, folder=tmp_path) is None
    assert "there is no" in machine.shared_memory_fault(4, folder=tmp_path / "nowhere")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(0, 0, 16384))
    assert machine.shared_memory_fault(0) is None
    batches = EvalBatches(2, batch_size=1, rank=0, world_size=1)
    loader = ClipLoader(Tensors(1, 2), batches, num_workers=2, pin_memory=False)
    with pytest.raises(UserError, match="/dev/shm has 16 KiB free, and 2 loader workers need 72 KiB: docker run"):
        next(iter(loader))


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        machine.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], 65536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
