"""No file can hang a run or take it down: with a decoder that loops in native code, crashes, or eats memory."""

import contextlib
import csv
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import faulty_decoder
import pytest
import torch
from faulty_decoder import attempts
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from video_files import write_video

from mvrec.data.listing.layouts import find_split
from mvrec.data.loading import clips, guard
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.loading.guard import GuardedSamples
from mvrec.data.loading.loader import ClipLoader, EvalBatches, TrainBatches
from mvrec.data.loading.quarantine import Quarantine
from mvrec.data.sets.kinetics import Kinetics
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.processes import Limits

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on memory are Linux's"),
]

LIMITS = Limits(seconds=77.0, memory=0.5)
CLIP = ClipSpec(num_frames=4, stride_frames=2)
CAUSES = {
    "spin": "gave no answer for 77 s",
    "wait": "gave no answer for 77 s",
    "segfault": "was ended by SIGSEGV",
    "eat_memory": "needed more than 0.5 GiB",
    "leave": "left with exit code 3",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=16)


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Clips are read by the faulty decoder, and a hung one is late at once."""
    monkeypatch.setattr(clips, "open_video", faulty_decoder.open_video)
    monkeypatch.setattr(guard.Reader, "is_late", property(faulty_decoder.is_hung))
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "faults.log"))


@pytest.fixture
def make(tmp_path, clip, faulty):
    """Makes a class of files of these names, and gives its index."""

    def build(*names):
        folder = tmp_path / "data/train/run"
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(clip, folder / f"{name}.mp4")
        return find_split(tmp_path / "data", "train")

    return build


def train_clips(index):
    return TrainClips(index, CLIP, 16, Augment(rand_augment=None), seed=1)


def train_loader(index, *, num_workers, limits=LIMITS, batch_size=2, **options):
    batches = TrainBatches(len(index), batch_size=batch_size, seed=1, rank=0, world_size=1)
    fixed = {"num_workers": num_workers, "pin_memory": False, "max_bad_fraction": 1.0}
    return ClipLoader(train_clips(index), batches, limits=limits, **fixed, **options)


def eval_loader(index, *, num_workers=0, batch_size=2):
    protocol = ClipProtocol(CLIP, Views(num_clips=2, short_side=16), 16)
    batches = EvalBatches(len(index), batch_size=batch_size, rank=0, world_size=1)
    return ClipLoader(EvalClips(index, protocol), batches, num_workers=num_workers, pin_memory=False, limits=LIMITS)


def assert_equal(ours, theirs):
    for name in ("clips", "targets", "sample_ids", "seeds"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_hang_crash_or_eat_memory_are_replaced_in_training_and_nothing_else_changes(
    make, tmp_path, num_workers, caplog
):
    index = make(*"abcde", *(f"{fault}_1" for fault in CAUSES))
    batches = list(train_loader(index, num_workers=num_workers, quarantine=tmp_path / "quarantine"))
    bad = {Path(entry.path).stem: entry for batch in batches for entry in batch.bad}
    assert bad.keys() == {f"{fault}_1" for fault in CAUSES}
    for fault, cause in CAUSES.items():
        assert cause in bad[f"{fault}_1"].cause
        assert f"(rank 0{', worker ' if num_workers else ''}" in bad[f"{fault}_1"].cause
    with (tmp_path / "quarantine/rank_0.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {entry.path for entry in bad.values()}
    assert len([record for record in caplog.records if "another video takes its place" in record.message]) == 5

    for entry in bad.values():  # as in a run that knows them from the start
        Quarantine(tmp_path / "all").add(entry.path, "cause")
    reference = list(train_loader(index, num_workers=0, quarantine=tmp_path / "all"))
    assert [len(batch) for batch in reference] == [2] * 5
    for ours, theirs in zip(batches, reference, strict=True):
        assert_equal(ours, theirs)


def test_items_of_healthy_files_equal_those_read_without_a_guard(make):
    index = make(*"abcde")
    plain = list(train_loader(index, num_workers=0, limits=None))
    for num_workers in (0, 2):
        for ours, theirs in zip(train_loader(index, num_workers=num_workers), plain, strict=True):
            assert_equal(ours, theirs)


def test_a_hung_file_is_opened_once_in_all_epochs_workers_and_resumed_runs(make, tmp_path):
    index = make("a", "spin_1")
    loader = train_loader(index, num_workers=1, quarantine=tmp_path / "quarantine")
    for epoch in range(2):
        loader.batches.set_epoch(epoch)
        list(loader)
    list(train_loader(index, num_workers=2, quarantine=tmp_path / "quarantine"))
    assert attempts() == ["spin_1.mp4"]
    list(train_loader(index, num_workers=0))  # which knows of nothing
    assert attempts() == ["spin_1.mp4"] * 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_crash_or_hang_in_an_evaluation_have_failed(make, num_workers):
    batches = list(eval_loader(make("a", "segfault_1", "spin_1"), num_workers=num_workers))
    assert sorted(int(i) for batch in batches for i in batch.sample_ids.unique()) == [0]
    assert sorted(entry.index for batch in batches for entry in batch.bad) == [1, 2]


def test_too_many_files_that_crash_in_one_evaluation_stop_it_and_the_next_counts_anew(make, monkeypatch):
    assert guard.MAX_KILLS == 10
    monkeypatch.setattr(guard, "MAX_KILLS", 3)
    index = make(*(f"segfault_{number}" for number in range(3)))
    with pytest.raises(UserError, match=r"3 files of one evaluation broke the limits .*; the last: .*SIGSEGV"):
        list(eval_loader(index))
    monkeypatch.setattr(guard, "MAX_KILLS", 4)
    loader = eval_loader(index)
    for _ in range(2):
        assert sum(len(batch.bad) for batch in loader) == 3
        loader.dataset.close()
        loader.dataset.quarantine.files.clear()  # all are met again


def test_too_many_files_that_crash_in_one_training_batch_stop_the_run(make, monkeypatch):
    monkeypatch.setattr(guard, "MAX_KILLS", 3)
    index = make(*(f"leave_{number}" for number in range(4)), *"abcdefgh")
    with pytest.raises(UserError, match="3 files of one batch broke the limits"):
        list(train_loader(index, num_workers=1, batch_size=len(index)))


def test_an_assertion_of_ours_in_the_reading_process_is_raised_with_its_traceback(make):
    dataset = GuardedSamples(train_clips(make("a", "forget_1", "z")), LIMITS, Quarantine(None))
    with pytest.raises(RuntimeError, match=r"(?s)in the process that reads files.*AssertionError: a fault of our own"):
        dataset.__getitems__([SampleKey(0, 1), SampleKey(0, 0)])
    assert dataset[SampleKey(0, 2)].sample_id == 2  # the answer to this question, not to one before
    dataset.close()


def test_an_idle_reading_process_that_is_killed_is_replaced(make):
    dataset = GuardedSamples(train_clips(make("a", "b")), LIMITS, Quarantine(None))
    dataset[SampleKey(0, 0)]
    os.kill(dataset._reader.pid, signal.SIGKILL)
    item = dataset[SampleKey(0, 1)]
    assert (item.bad, item.sample_id) == ((), 1)
    dataset.close()


def test_a_reading_process_ends_with_its_dataset_and_even_a_hung_one_with_its_owner(make, monkeypatch):
    monkeypatch.setattr(guard.Reader, "is_late", False)
    index = make("a", "wait_1")
    ready, report = os.pipe()
    owner = os.fork()
    if owner == 0:
        with contextlib.suppress(BaseException):
            dataset = GuardedSamples(train_clips(index), LIMITS, Quarantine(None))
            dataset[SampleKey(0, 0)]
            closed = dataset._reader.pid
            dataset.close()
            dataset[SampleKey(0, 0)]
            os.write(report, f"{closed} {dataset._reader.pid}".encode())
            dataset[SampleKey(0, 1)]
        os._exit(1)
    os.close(report)  # the reading process holds the other copies until it ends
    closed, hung = os.read(ready, 100).split()
    assert not Path(f"/proc/{closed.decode()}").exists()
    end = time.monotonic() + 120
    while not attempts(int(hung)) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert select.select([ready], [], [], 120)[0], "the reading process goes on"
    assert os.read(ready, 1) == b""  # its copy is closed
    os.close(ready)


def test_files_quarantined_by_several_processes_are_known_to_other_ranks(tmp_path):
    names = ["a,b.mp4", 'quo"te.mp4', "räd.mp4", b"\xff.mp4".decode("utf-8", "surrogateescape"), "c.mp4", "d.mp4"]
    children = []
    for name in names:
        children.append(os.fork())
        if children[-1] == 0:
            Quarantine(tmp_path, rank=0).add(name, "hung")
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(names)
    assert (tmp_path / "rank_0.csv").read_bytes().count(b"path,cause\n") == 1
    assert Quarantine(tmp_path, rank=1).entries() == dict.fromkeys(names, "hung")


def spoiled(digits, root, faults):
    """A copy of a data set in which the first video of the first classes has a fault, in training and test."""
    shutil.copytree(digits, root)
    for split in ("train", "test"):
        folders = sorted(path for path in (root / split).iterdir() if path.is_dir())
        for folder, fault in zip(folders, faults, strict=False):
            video = min(folder.glob("*.mp4"))
            video.rename(folder / f"{fault}_{split}.mp4")
            listed = root / f"{split}.csv"
            old, new = (f"{split}/{folder.name}/{name}" for name in (video.name, f"{fault}_{split}.mp4"))
            listed.write_text(listed.read_text().replace(old, new))
    return [f"--data.root={root}", "--data.batch_size=3", "--data.max_bad_fraction=0.5", "--data.decode_timeout=77"]


def test_a_run_trains_without_files_that_hang_or_crash_and_scores_them_as_failed(
    faulty, command, tiny, digits, tmp_path
):
    faults = ["spin", "segfault"]
    data = [*spoiled(digits, tmp_path / "digits", faults), "--data.num_workers=1"]
    run = f"--run_dir={tmp_path / 'run'}"
    code, _, log = command("fit", *tiny, *data, run, "--trainer.limit_val_batches=0")
    assert code == 0, log
    for fault, cause in (("spin", "gave no answer for 77 s"), ("segfault", "was ended by SIGSEGV")):
        assert log.count(f"{fault}_train.mp4: the process reading it {cause} (rank 0, worker 0)") == 1, log
    assert attempts() == ["segfault_train.mp4", "spin_train.mp4"]
    quarantined = Quarantine(tmp_path / "run/quarantine").entries()
    assert {Path(path).name for path in quarantined} == {"segfault_train.mp4", "spin_train.mp4"}

    code, _, log = command("test", f"--ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}", *data, run)
    assert code == 0, log
    assert "22/24 videos scored, 2 failed" in log, log
    for fault in faults:
        assert f"{fault}_test.mp4" in log


@pytest.mark.slow
def test_two_processes_train_without_files_that_hang_crash_or_eat_memory(tiny, digits, tmp_path):
    faults = ["spin", "segfault", "eat_memory"]
    data = [*spoiled(digits, tmp_path / "digits", faults), "--data.num_workers=2", "--data.decode_memory=0.5"]
    environment = {**os.environ, "FAULTS_LOG": str(tmp_path / "faults.log"), "OMP_NUM_THREADS": "1"}
    parallel = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--run_dir={tmp_path / 'run'}"]

    def run(*arguments):
        script = [sys.executable, faulty_decoder.__file__, *arguments, *data, *parallel]
        result = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stderr

    log = run("fit", *tiny, "--trainer.max_epochs=3", "--trainer.limit_val_batches=0")
    for fault in faults:  # once by each process that met it
        assert 1 <= log.count(f"{fault}_train.mp4: the process reading it") <= 2, log
    quarantined = Quarantine(tmp_path / "run/quarantine").entries()
    assert {Path(path).name for path in quarantined} == {f"{fault}_train.mp4" for fault in faults}
    log = run("test", f"--ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}")
    assert "21/24 videos scored, 3 failed" in log, log


@pytest.mark.parametrize(("world_size", "refused"), [(1, False), (2, True)])
def test_a_deadline_longer_than_other_processes_wait_is_refused(make, tmp_path, world_size, refused):
    index = make("a")
    shutil.copytree(index[0].path.parent, index[0].path.parent.with_name("walk"))
    data = Kinetics(str(tmp_path / "data"), decode_timeout=600, num_workers=0, seed=0)
    data.setup("fit")
    single = {"num_devices": 1, "accumulate_grad_batches": 1, "loggers": [], "overfit_batches": 0.0}
    data.trainer = SimpleNamespace(strategy=DDPStrategy(), world_size=world_size, global_rank=0, **single)
    data.trainer.strategy._parallel_devices = [torch.device("cpu")]
    data.trainer.strategy.cluster_environment = LightningEnvironment()
    expected = pytest.raises(UserError, match="10 files that hang would take 6000 s, and the other processes wait 1800")
    with expected if refused else contextlib.nullcontext():
        data.train_dataloader()
