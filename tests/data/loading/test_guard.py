"""No file can hang a run or take it down: with a decoder that loops in native code, crashes, or eats memory."""

import contextlib
import csv
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import faulty_decoder
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from video_files import write_video

from mvrec.data.listing.layouts import find_split
from mvrec.data.loading import clips
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.loading.guard import GuardedSamples
from mvrec.data.loading.loader import ClipLoader, EvalBatches, TrainBatches
from mvrec.data.loading.quarantine import Quarantine
from mvrec.data.sets.kinetics import Kinetics
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.sampling import ClipSpec
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.processes import Limits

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on memory are Linux's"),
]

LIMITS = Limits(seconds=2.0, memory=0.5)
CLIP = ClipSpec(num_frames=4, stride_frames=2)
AUGMENT = Augment(rand_augment=None)
CAUSES = {
    "spin": "gave no answer for 2 s",
    "wait": "gave no answer for 2 s",
    "segfault": "was ended by SIGSEGV",
    "eat_memory": "needed more than 0.5 GiB",
    "leave": "left with exit code 3",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=16)


@pytest.fixture
def make(tmp_path, clip, monkeypatch):
    """Makes a data set of these names in each class, read by the faulty decoder, and gives its index."""
    monkeypatch.setattr(clips, "open_video", faulty_decoder.open_video)
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "faults.log"))

    def build(*names, root=tmp_path / "data", split="train"):
        for name in names:
            for label in ("run", "walk"):
                target = root / split / label / f"{name}.mp4"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(clip, target)
        return find_split(root, split)

    return build


def train_loader(index, *, num_workers, limits=LIMITS, quarantine=None, batch_size=2):
    dataset = TrainClips(index, CLIP, 16, AUGMENT, seed=1)
    batches = TrainBatches(len(index), batch_size=batch_size, seed=1, rank=0, world_size=1)
    return ClipLoader(
        dataset,
        batches,
        num_workers=num_workers,
        pin_memory=False,
        max_bad_fraction=1.0,
        limits=limits,
        quarantine=quarantine,
    )


def attempts(tmp_path):
    log = tmp_path / "faults.log"
    return sorted(log.read_text().split()) if log.exists() else []


def children(pid):
    return {int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fault", CAUSES)
def test_training_goes_on_without_a_file_that_breaks_the_limits(make, tmp_path, fault, num_workers, caplog):
    index = make("a", "b", "c", "d", f"{fault}_1")
    # Whoever eats memory is not to be late first, on a busy machine.
    limits = replace(LIMITS, seconds=30.0) if fault == "eat_memory" else LIMITS
    loader = train_loader(index, num_workers=num_workers, limits=limits, quarantine=tmp_path / "quarantine")
    begin = time.monotonic()
    batches = list(loader)
    assert time.monotonic() - begin < 40
    assert [len(batch) for batch in batches] == [2] * 5
    names = [index[int(i)].path.stem for batch in batches for i in batch.sample_ids]
    assert len(names) == 10
    assert f"{fault}_1" not in names
    bad = {(entry.path, entry.cause) for batch in batches for entry in batch.bad}
    assert {Path(path).parent.name for path, _ in bad} == {"run", "walk"}
    worker = ", worker " if num_workers else ""
    for _, cause in bad:
        assert CAUSES[fault] in cause
        assert f"(rank 0{worker}" in cause
    with (tmp_path / "quarantine/rank_0.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {path for path, _ in bad}
    assert len([record for record in caplog.records if "another video takes its place" in record.message]) == 2


def test_the_good_samples_are_those_of_a_run_that_never_hung(make, tmp_path):
    """Position, order and augmentation of everything else stay as they were."""
    index = make("a", "b", "c", "d", "spin_1")
    guarded = list(train_loader(index, num_workers=1))
    known = tmp_path / "known"
    for label in ("run", "walk"):
        Quarantine(known).add(str(tmp_path / f"data/train/{label}/spin_1.mp4"), "known")
    reference = list(train_loader(index, num_workers=0, quarantine=known))
    for ours, theirs in zip(guarded, reference, strict=True):
        assert torch.equal(ours.clips, theirs.clips)
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
        assert torch.equal(ours.seeds, theirs.seeds)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_guarded_items_equal_unguarded_ones(make, num_workers):
    index = make("a", "b", "c", "d", "e")
    for ours, theirs in zip(
        train_loader(index, num_workers=num_workers),
        train_loader(index, num_workers=num_workers, limits=None),
        strict=True,
    ):
        assert torch.equal(ours.clips, theirs.clips)
        assert torch.equal(ours.targets, theirs.targets)


def test_a_file_costs_its_deadline_once(make, tmp_path):
    """Neither later epochs nor other workers nor a resumed run open it again."""
    index = make("a", "spin_1")
    loader = train_loader(index, num_workers=1, quarantine=tmp_path / "quarantine")
    for epoch in range(3):
        loader.batches.set_epoch(epoch)
        list(loader)
    assert attempts(tmp_path) == ["spin_1.mp4"] * 2  # one per class
    list(train_loader(index, num_workers=2, quarantine=tmp_path / "quarantine"))
    assert attempts(tmp_path) == ["spin_1.mp4"] * 2
    (tmp_path / "faults.log").unlink()
    list(train_loader(index, num_workers=1))
    assert attempts(tmp_path) == ["spin_1.mp4"] * 2


def eval_loader(index, *, num_workers=0, batch_size=2, **kwargs):
    protocol = ClipProtocol(CLIP, Views(num_clips=2, short_side=16), 16)
    batches = EvalBatches(len(index), batch_size=batch_size, rank=0, world_size=1)
    return ClipLoader(
        EvalClips(index, protocol), batches, num_workers=num_workers, pin_memory=False, limits=LIMITS, **kwargs
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_reports_the_sample_as_failed(make, num_workers):
    index = make("a", "segfault_1", "spin_1")
    batches = list(eval_loader(index, num_workers=num_workers))
    scored = sorted(int(i) for batch in batches for i in batch.sample_ids.unique())
    failed = sorted(entry.index for batch in batches for entry in batch.bad)
    assert scored == [0, 3]
    assert failed == [1, 2, 4, 5]


def test_too_many_in_one_evaluation_stop_it_before_other_processes_give_up(make):
    loader = eval_loader(make(*(f"segfault_{number}" for number in range(6))), batch_size=4)
    with pytest.raises(UserError, match=r"10 files of one evaluation broke the limits .*; the last: .*SIGSEGV"):
        list(loader)


def test_each_evaluation_counts_anew(make):
    loader = eval_loader(make(*(f"segfault_{number}" for number in range(3))))
    for _ in range(2):
        assert sum(len(batch.bad) for batch in loader) == 6
        loader.dataset.close()
        loader.dataset.quarantine.files.clear()  # all are met again


def test_too_many_in_one_training_batch_stop_the_run(make):
    index = make(*(f"leave_{number}" for number in range(6)), *"abcdefghijkl")
    with pytest.raises(UserError, match="10 files of one batch broke the limits"):
        list(train_loader(index, num_workers=1, batch_size=len(index)))


def test_a_fault_of_our_own_is_no_bad_file(make):
    index = make("a", "forget_1")
    dataset = GuardedSamples(TrainClips(index, CLIP, 16, AUGMENT), LIMITS, Quarantine(None))
    with pytest.raises(RuntimeError, match=r"(?s)in the process that reads files.*AssertionError: a fault of our own"):
        dataset.__getitems__([SampleKey(0, 1), SampleKey(0, 0)])
    assert dataset[SampleKey(0, 2)].sample_id == 2  # the answer to this question, not to one before
    dataset.close()


def test_the_reading_process_ends_with_its_owner(make):
    index = make("a", "wait_1")
    dataset = GuardedSamples(TrainClips(index, CLIP, 16, AUGMENT), Limits(seconds=60.0), Quarantine(None))
    before = children(os.getpid())
    dataset[SampleKey(0, 0)]
    (reader,) = children(os.getpid()) - before
    dataset.close()
    assert reader not in children(os.getpid())
    # Even a stuck one, whose owner is killed without a chance to say goodbye.
    code = f"""
import sys; sys.path[:0] = {[str(Path(faulty_decoder.__file__).parent)]!r}
import faulty_decoder
from mvrec.data.loading import clips; clips.open_video = faulty_decoder.open_video
from mvrec.data.loading.batch import SampleKey; from mvrec.data.loading.clips import TrainClips
from mvrec.data.loading.guard import GuardedSamples; from mvrec.data.listing.layouts import find_split
from mvrec.data.sets.kinetics import Kinetics
from mvrec.data.views.sampling import ClipSpec; from mvrec.data.views.transforms import Augment
from mvrec.data.loading.quarantine import Quarantine; from mvrec.processes import Limits
from pathlib import Path
index = find_split(Path({str(index[0].path.parents[2])!r}), "train")
data = GuardedSamples(TrainClips(index, ClipSpec(4, 2), 16, Augment(rand_augment=None)), Limits(60.0), Quarantine(None))
data[SampleKey(0, 0)]; print(data._reader.pid, flush=True); data[SampleKey(0, 1)]
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    stuck = int(owner.stdout.readline())
    time.sleep(0.5)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    end = time.monotonic() + 5
    while time.monotonic() < end and Path(f"/proc/{stuck}/stat").exists():
        if Path(f"/proc/{stuck}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{stuck}").exists()


def test_an_idle_reading_process_that_is_killed_is_replaced(make):
    index = make("a", "b")
    dataset = GuardedSamples(TrainClips(index, CLIP, 16, AUGMENT), LIMITS, Quarantine(None))
    dataset[SampleKey(0, 0)]
    os.kill(dataset._reader.pid, 9)
    item = dataset[SampleKey(0, 1)]
    assert item.bad == ()
    assert item.sample_id == 1
    dataset.close()


def test_quarantine_survives_odd_names_and_many_writers(tmp_path):
    names = ["a,b.mp4", 'quo"te.mp4', "räd.mp4", b"\xff.mp4".decode("utf-8", "surrogateescape")]
    first, second = (Quarantine(tmp_path / "q", rank=rank) for rank in (0, 1))
    for name in names:
        first.add(name, "cause")
    assert second.news() == dict.fromkeys(names, "cause")


RUN = [
    "--data.batch_size=3",
    "--data.num_workers=2",
    "--data.max_bad_fraction=0.5",
    "--data.decode_timeout=3",
    "--data.decode_memory=0.5",
]


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_whole_run_with_all_faults(tiny, digits, tmp_path, devices):
    """Training and test, on one and two processes: each bad file once, and as failed where it is scored."""
    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    faults = ["spin", "segfault", "eat_memory"]
    for split in ("train", "test"):
        folders = sorted(path for path in (root / split).iterdir() if path.is_dir())
        for folder, fault in zip(folders, faults, strict=False):
            video = sorted(folder.glob("*.mp4"))[0]
            video.rename(folder / f"{fault}_{split}.mp4")
            listed = root / f"{split}.csv"
            old, new = (f"{split}/{folder.name}/{name}" for name in (video.name, f"{fault}_{split}.mp4"))
            listed.write_text(listed.read_text().replace(old, new))
    script = Path(faulty_decoder.__file__)
    environment = {**os.environ, "FAULTS_LOG": str(tmp_path / "faults.log"), "OMP_NUM_THREADS": "1"}
    run_dir = tmp_path / "run"
    common = [f"--data.root={root}", f"--run_dir={run_dir}", *RUN]
    parallel = [f"--trainer.devices={devices}", "--trainer.strategy=ddp"]

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stderr

    log = run("fit", *tiny, *common, *parallel, "--trainer.max_epochs=3", "--trainer.limit_val_batches=0")
    tried = attempts(tmp_path)
    for fault in faults:
        named = [line for line in log.splitlines() if f"{fault}_train.mp4: the process reading it" in line]
        assert 1 <= len(named) <= devices, log  # by each process that met it
        assert all("(rank " in line and ", worker " in line for line in named)
        # Loader processes that meet it within the same seconds cannot know of each other.
        assert 1 <= tried.count(f"{fault}_train.mp4") <= 2 * devices
    known = Quarantine(run_dir / "quarantine").news()
    assert {Path(path).name for path in known} == {f"{fault}_train.mp4" for fault in faults}

    log = run("test", f"--ckpt_path={run_dir}/checkpoints/last.ckpt", *common, *parallel)
    assert "21/24 videos scored, 3 failed" in log, log
    for fault in faults:
        assert f"failed, counted as wrong: {root}" in log
        assert log.count(f"{fault}_test.mp4") >= 1


@pytest.mark.parametrize(("world_size", "refused"), [(1, False), (2, True)])
def test_a_deadline_that_outlasts_the_other_processes_is_refused(make, tmp_path, world_size, refused):
    make("a")
    data = Kinetics(str(tmp_path / "data"), decode_timeout=600, num_workers=0, seed=0)
    data.setup("fit")
    data.trainer = SimpleNamespace(
        overfit_batches=0.0,
        strategy=DDPStrategy(),
        world_size=world_size,
        global_rank=0,
        num_devices=1,
        accumulate_grad_batches=1,
        loggers=[],
    )
    data.trainer.strategy._parallel_devices = [torch.device("cpu")]
    data.trainer.strategy.cluster_environment = LightningEnvironment()
    expected = pytest.raises(UserError, match="10 files that hang would take 6000 s, and the other processes wait 1800")
    with expected if refused else contextlib.nullcontext():
        data.train_dataloader()


def test_loader_processes_that_begin_a_list_together_write_one_header(tmp_path):
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            Quarantine(tmp_path).add(f"{number}.mp4", "hung")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    lines = (tmp_path / "rank_0.csv").read_text().splitlines()
    assert lines[0] == "path,cause"
    assert sorted(lines[1:]) == [f"{number}.mp4,hung" for number in range(8)]
