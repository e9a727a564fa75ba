"""Loader workers: batches that need no /dev/shm, and failures that are told in one line and never waited for."""

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
from PIL import Image
from torch.utils.data import DataLoader

from mvrec import machine
from mvrec.data.listing.index import Row, SampleIndex
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.images import EvalImages
from mvrec.data.loading.loader import ClipLoader, EvalBatches
from mvrec.data.loading.samples import EvalSamples, TrainSamples
from mvrec.data.loading.workers import SMALL_BYTES, start_worker
from mvrec.data.views.protocol import ImageProtocol
from mvrec.errors import DecodeError, UserError


class Items(list):
    """A data set of tensors, or of what a test does in their place."""

    def __getitem__(self, number):
        item = super().__getitem__(number)
        return item() if callable(item) else item


def loaded(*items):
    options = {"batch_size": None, "num_workers": 1, "worker_init_fn": start_worker, "timeout": warm.HANG}
    iterator = iter(DataLoader(Items(items), **options))
    try:
        return list(iterator)
    finally:
        iterator._shutdown_workers()  # the collection of an iterator that raised an error waits 10 s, in any later test


def mapping_of(tensor):
    """The line of /proc/self/maps in which the memory of a tensor lies."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line
    return ""


LEFT = """
import sys
from mvrec.data import ImageFolder
data = ImageFolder(sys.argv[1], size=32, batch_size=1, num_workers=1)
data.setup("fit")
loader = data.train_dataloader()
for batch in loader:
    break
sys.loader = loader  # lives until the end, as the globals of a script
"""


def test_a_script_that_leaves_a_loader_in_the_middle_ends(tmp_path):
    for number in range(4):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    assert warm.run(str(tmp_path), program=LEFT).returncode == 0


def test_a_worker_that_does_not_end_in_time_is_killed(tmp_path, monkeypatch):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    index = SampleIndex([Row("a.png", "a")], root=tmp_path, class_names=["a", "b"])
    samples = EvalImages(index, ImageProtocol(short_side=30, size=30))
    batches = EvalBatches(1, batch_size=1, rank=0, world_size=1)
    loader = ClipLoader(samples, batches, num_workers=1, pin_memory=False)
    list(loader)
    (worker,) = loader._iterator._workers
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # seconds to end by itself
    os.kill(worker.pid, signal.SIGSTOP)  # as a machine without memory does for minutes
    loader.close()
    worker.join(10)
    is_alive = worker.is_alive()
    worker.kill()
    assert not is_alive


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory without a file")
def test_tensors_come_out_of_a_worker_without_dev_shm():
    sizes = (1, SMALL_BYTES, SMALL_BYTES + 1, 1 << 20)
    contents = [torch.arange(size, dtype=torch.int64).to(torch.uint8) for size in sizes]
    contents += [content.view(1, -1).expand(2, -1).t()[::2] for content in contents]  # with gaps
    contents.append(torch.empty(0, 3))
    received = loaded(*contents)
    for content, tensor in zip(contents, received, strict=True):
        assert tensor.shape == content.shape
        assert torch.equal(tensor, content)
    for size, tensor in zip(sizes, received, strict=False):
        place = mapping_of(tensor)
        assert "/dev/shm" not in place
        assert ("memfd:batch" in place) == (size > SMALL_BYTES)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device", "rank_0.csv")


def test_a_worker_that_cannot_go_on_is_told_in_one_line(capfd):
    for fault, words in (
        (threading.Lock, "a loader worker (process"),  # no batch that can be sent
        (die, "was killed, as the system does when memory runs out"),
        (fill_the_disk, "No space left on device: 'rank_0.csv'; nothing half-written is left"),
    ):
        with pytest.raises((RuntimeError, OSError)) as raised:
            loaded(fault)
        message = machine.machine_fault(raised.value)
        assert words in message
        assert "\n" not in message
        assert fault is fill_the_disk or "data.num_workers" in message
    log = capfd.readouterr().err
    assert log.startswith("mvrec: error: no batch can be sent: ")
    assert "Traceback" not in log


def test_only_what_the_machine_did_is_put_down_to_it():
    assert machine.machine_fault(RuntimeError("shapes do not match")) is None
    assert machine.machine_fault(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert machine.machine_fault(OSError(errno.ENOSPC, "No space left", "x.ckpt")).startswith("No space left: x.ckpt")
    bus_error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    assert "--shm-size" in machine.machine_fault(bus_error)


@pytest.mark.parametrize("kind", [TrainSamples, EvalSamples])
def test_too_many_open_files_are_no_fault_of_a_file(kind):
    def views(sample, *_, **__):
        raise DecodeError(sample.path, "Too many open files") from OSError(errno.EMFILE, "Too many open files")

    samples = type("Samples", (kind,), {"views": staticmethod(views), "frames": staticmethod(views)})()
    samples.index, samples.repeats, samples.seed = SampleIndex([Row("a", "0"), Row("b", "1")], root=Path()), 1, 0
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
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=16384))
    assert machine.shared_memory_fault(0) is None
    batches = EvalBatches(1, batch_size=1, rank=0, world_size=1)
    loader = ClipLoader(Items([1]), batches, num_workers=2, pin_memory=False)
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
