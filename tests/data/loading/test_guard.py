"""No file can hang a run or take it down: with a decoder that loops in native code, crashes, or eats memory."""

import contextlib
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
import warm
from data_trees import make
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
from mvrec.data.video.opening import open_video
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
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=16).read_bytes()


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Clips are read by the faulty decoder, and a hung one is late at once."""
    monkeypatch.setattr(clips, "open_video", faulty_decoder.open_video)
    monkeypatch.setattr(guard.Reader, "is_late", property(faulty_decoder.is_hung))
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "faults.log"))


@pytest.fixture
def index_of(tmp_path, clip, faulty):
    """Makes a class of files of these names, and gives its index."""

    def build(*names):
        make(tmp_path / "data/train/run", {f"{name}.mp4": clip for name in names})
        return find_split(tmp_path / "data", "train")

    return build


def train_clips(index):
    return TrainClips(index, CLIP, 16, Augment(rand_augment=None), seed=1)


def train_loader(index, *, num_workers=0, limits=LIMITS, batch_size=2, **options):
    batches = TrainBatches(len(index), batch_size=batch_size, seed=1, rank=0, world_size=1)
    fixed = {"num_workers": num_workers, "pin_memory": False, "max_bad_fraction": 1.0}
    return ClipLoader(train_clips(index), batches, limits=limits, **fixed, **options)


def eval_loader(index):
    dataset = EvalClips(index, ClipProtocol(CLIP, Views(num_clips=2, short_side=16), 16))
    batches = EvalBatches(len(index), batch_size=2, rank=0, world_size=1)
    return ClipLoader(dataset, batches, num_workers=0, pin_memory=False, limits=LIMITS)


def test_files_that_hang_crash_or_eat_memory_are_replaced_in_training_and_nothing_else_changes(
    index_of, tmp_path, caplog, monkeypatch
):
    index = index_of(*"abcde", *(f"{fault}_1" for fault in CAUSES))
    batches = list(train_loader(index, num_workers=2, quarantine=tmp_path / "quarantine"))
    bad = {Path(entry.path).stem: entry for batch in batches for entry in batch.bad}
    assert bad.keys() == {f"{fault}_1" for fault in CAUSES}
    for fault, cause in CAUSES.items():
        assert f"{cause} (rank 0, worker " in bad[f"{fault}_1"].cause
    assert Quarantine(tmp_path / "quarantine").entries().keys() == {entry.path for entry in bad.values()}
    assert len([record for record in caplog.records if "another video takes its place" in record.message]) == 5

    for entry in bad.values():  # as in a run without a guard in which they are broken
        Path(entry.path).write_bytes(b"no video")
    monkeypatch.setattr(clips, "open_video", open_video)
    reference = list(train_loader(index, limits=None))
    assert [len(batch) for batch in reference] == [2] * 5
    for actual, expected in zip(batches, reference, strict=True):
        for name in ("clips", "targets", "sample_ids", "seeds"):
            assert torch.equal(getattr(actual, name), getattr(expected, name)), name


def test_a_hung_file_is_opened_once_in_all_epochs_and_resumed_runs(index_of, tmp_path):
    index = index_of("a", "spin_1")
    loader = train_loader(index, num_workers=1, quarantine=tmp_path / "quarantine")
    for epoch in range(2):
        loader.batches.set_epoch(epoch)
        list(loader)
    list(train_loader(index, quarantine=tmp_path / "quarantine"))
    assert attempts() == ["spin_1.mp4"]
    list(train_loader(index))  # which knows of nothing
    assert attempts() == ["spin_1.mp4"] * 2


def test_files_that_crash_or_hang_in_an_evaluation_have_failed_and_too_many_of_one_stop_it(index_of, monkeypatch):
    assert guard.MAX_KILLS == 10
    monkeypatch.setattr(guard, "MAX_KILLS", 3)
    loader = eval_loader(index_of("a", "segfault_1", "spin_1"))
    causes = {row: f"the process reading it {CAUSES[name]} (rank 0)" for row, name in ((1, "segfault"), (2, "spin"))}
    for _ in range(2):  # each evaluation counts anew
        batches = list(loader)
        assert [int(number) for batch in batches for number in batch.sample_ids.unique()] == [0]
        assert {entry.index: entry.cause for batch in batches for entry in batch.bad} == causes
        loader.dataset.close()
        loader.dataset.quarantine.files.clear()  # all are met again
    monkeypatch.setattr(guard, "MAX_KILLS", 2)
    with pytest.raises(UserError, match=r"2 files of one evaluation broke the limits .*; the last: .*77 s"):
        list(loader)


def test_too_many_files_that_crash_in_one_training_batch_stop_the_run(index_of, monkeypatch):
    monkeypatch.setattr(guard, "MAX_KILLS", 2)
    index = index_of("leave_0", "leave_1", "a")
    with pytest.raises(UserError, match="2 files of one batch broke the limits"):
        list(train_loader(index, num_workers=1, batch_size=len(index)))


def test_a_fault_of_our_own_is_raised_with_its_traceback_and_a_killed_idle_process_replaced(index_of):
    dataset = GuardedSamples(train_clips(index_of("a", "forget_1", "z")), LIMITS, Quarantine(None))
    with pytest.raises(RuntimeError, match=r"(?s)in the process that reads files.*AssertionError: a fault of our own"):
        dataset.__getitems__([SampleKey(0, 1), SampleKey(0, 0)])
    assert dataset[SampleKey(0, 2)].sample_id == 2  # the answer to this question, not to one before
    os.kill(dataset._reader.pid, signal.SIGKILL)
    item = dataset[SampleKey(0, 0)]
    assert (item.bad, item.sample_id) == ((), 0)
    dataset.close()


def test_a_reading_process_ends_with_its_dataset_and_even_a_hung_one_with_its_owner(index_of, monkeypatch):
    monkeypatch.setattr(guard.Reader, "is_late", False)
    index = index_of("a", "wait_1")
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
    end = time.monotonic() + warm.HANG
    while not attempts(int(hung)) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert select.select([ready], [], [], warm.HANG)[0], "the reading process goes on"
    assert os.read(ready, 1) == b""  # its copy is closed
    os.close(ready)


def test_files_quarantined_by_several_processes_are_known_to_other_ranks(tmp_path):
    names = ["a,b.mp4", 'quo"te.mp4', "räd.mp4", b"\xff.mp4".decode("utf-8", "surrogateescape")]
    children = []
    for name in names:
        children.append(os.fork())
        if children[-1] == 0:
            Quarantine(tmp_path, rank=0).add(name, "hung")
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(names)
    assert (tmp_path / "rank_0.csv").read_bytes().count(b"path,cause\n") == 1
    assert Quarantine(tmp_path, rank=1).entries() == dict.fromkeys(names, "hung")


@pytest.fixture
def fit(tiny, small_data, tmp_path):
    """Gives the arguments of a run on data in which the first video of each class has one of these faults."""

    def arguments(*faults, **options):
        root = shutil.copytree(small_data, tmp_path / "data")
        for split in ("train", "val"):
            for folder, fault in zip(sorted((root / split).iterdir()), faults, strict=False):
                min(folder.glob("*.mp4")).rename(folder / f"{fault}_{split}.mp4")
        settings = {"root": root, "size": 64, "val_views.short_side": 64, "batch_size": 3, "decode_timeout": 77}
        settings |= {"max_bad_fraction": 0.5, **options}
        remaining = [argument for argument in tiny if not argument.startswith("--data") or "num_frames" in argument]
        flags = [f"--data.{key}={value}" for key, value in settings.items()]
        return ["fit", *remaining, "--data=mvrec.data.Kinetics", *flags, f"--run_dir={tmp_path / 'run'}"]

    return arguments


def quarantined(run):
    return {Path(path).name for path in Quarantine(run / "quarantine").entries()}


def test_a_run_trains_without_files_that_hang_or_crash_and_scores_them_as_failed(faulty, command, fit, tmp_path):
    code, _, log = command(*fit("spin", "segfault", num_workers=1), "--trainer.num_sanity_val_steps=0")
    assert code == 0, log
    for fault in ("spin", "segfault"):
        for split in ("train", "val"):
            cause = f"{fault}_{split}.mp4: the process reading it {CAUSES[fault]} (rank 0, worker 0)"
            assert log.count(cause) == 1, log
    assert "4/6 videos scored, 2 failed" in log, log
    names = {f"{fault}_{split}.mp4" for fault in ("spin", "segfault") for split in ("train", "val")}
    assert quarantined(tmp_path / "run") == set(attempts()) == names
    assert len(attempts()) == 4


@pytest.mark.slow
def test_two_processes_train_without_files_that_hang_crash_or_eat_memory(fit, tmp_path):
    faults = ["spin", "segfault", "eat_memory"]
    arguments = [*fit(*faults, num_workers=2, decode_memory=0.5), "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "FAULTS_LOG": str(tmp_path / "faults.log"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, faulty_decoder.__file__, *arguments, "--trainer.max_epochs=3"]
    result = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=warm.HANG, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for fault in faults:  # once by each process that met it
        assert 1 <= result.stderr.count(f"{fault}_train.mp4: the process reading it") <= 2, result.stderr
    assert "3/6 videos scored, 3 failed" in result.stderr, result.stderr
    names = {f"{fault}_{split}.mp4" for fault in faults for split in ("train", "val")}
    assert quarantined(tmp_path / "run") == names


def test_a_deadline_longer_than_other_processes_wait_is_refused(index_of, tmp_path):
    index = index_of("a")
    shutil.copytree(index[0].path.parent, index[0].path.parent.with_name("walk"))
    data = Kinetics(str(tmp_path / "data"), decode_timeout=600, num_workers=0, seed=0)
    data.setup("fit")
    fields = {"num_devices": 1, "accumulate_grad_batches": 1, "loggers": [], "overfit_batches": 0.0, "global_rank": 0}
    data.trainer = SimpleNamespace(strategy=DDPStrategy(), world_size=1, **fields)
    data.trainer.strategy._parallel_devices = [torch.device("cpu")]
    data.trainer.strategy.cluster_environment = LightningEnvironment()
    data.train_dataloader()
    data.trainer.world_size = 2
    with pytest.raises(UserError, match="10 files that hang would take 6000 s, and the other processes wait 1800"):
        data.train_dataloader()
