import itertools
import logging
import os

import numpy as np
import pytest
import torch
from video_files import truncate, write_video

from mvrec.data.listing.index import Row, SampleIndex
from mvrec.data.loading.batch import BadSample
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.loading.loader import (
    BadFiles,
    ClipLoader,
    EvalBatches,
    TrainBatches,
    Unwrapped,
    epoch_order,
    worker_count,
)
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError

# torch on machines with fewer cores than a test has workers
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def samplers_of(world_size, *, num_samples=101, batch_size=None, seed=3, **options):
    """One sampler per rank; by default all ranks together make batches of 8."""
    options = {"batch_size": batch_size or 8 // world_size, "seed": seed, "world_size": world_size, **options}
    return [TrainBatches(num_samples, rank=rank, **options) for rank in range(world_size)]


def global_keys(samplers, epoch=0):
    """The keys of each batch that all ranks make together, in order of the ranks."""
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = zip(*(list(sampler) for sampler in samplers), strict=True)
    return [[key for part in ranks for key in part] for ranks in parts]


def global_batches(samplers, epoch=0):
    """The rows of each such batch."""
    return [[key.index for key in keys] for keys in global_keys(samplers, epoch)]


def test_each_sample_once_per_epoch_whatever_the_number_of_ranks():
    for epoch in (0, 5):
        batches = global_batches(samplers_of(1), epoch)
        rows = list(itertools.chain(*batches))
        assert len(rows) == len(set(rows)) == 96  # 5 of 101 are left over
        assert set(rows) <= set(range(101))
        assert rows != sorted(rows)
        for world_size in (1, 2, 4):
            samplers = samplers_of(world_size)
            assert global_batches(samplers, epoch) == batches
            assert [len(sampler) for sampler in samplers] == [12] * world_size


def test_order_depends_on_seed_and_epoch_only_and_keys_carry_their_epoch():
    state = torch.get_rng_state()
    (sampler,) = samplers_of(1)
    first, *others = (global_batches([sampler], epoch) for epoch in range(3))
    assert global_batches([sampler], 0) == first != others[0]
    assert global_batches(samplers_of(1, seed=4), 0) != first
    assert torch.equal(torch.get_rng_state(), state)
    left_over = {frozenset(range(101)) - {*itertools.chain(*batches)} for batches in (first, *others)}
    assert len(left_over) == 3
    sampler.set_epoch(7)
    assert {key.epoch for batch in sampler for key in batch} == {7}
    assert sampler.sampler is sampler


def test_a_tiny_data_set_is_repeated():
    for num_samples, most in ((1, 8), (3, 3), (5, 2), (7, 2), (8, 1)):
        for world_size in (1, 2, 4):
            (batch,) = global_batches(samplers_of(world_size, num_samples=num_samples))
            counts = [batch.count(index) for index in range(num_samples)]
            assert len(batch) == 8
            assert max(counts) == most
            assert max(counts) - min(counts) <= 1


def test_a_step_has_the_same_samples_however_it_is_shared():
    reference = [sorted(step) for step in global_batches(samplers_of(1, batch_size=24), epoch=1)]
    for world_size, batch_size, accumulate in ((1, 8, 3), (2, 4, 3), (4, 3, 2), (1, 2, 12)):
        samplers = samplers_of(world_size, batch_size=batch_size, accumulate=accumulate)
        batches = global_batches(samplers, epoch=1)
        assert len(batches) == len(samplers[0]) == 4 * accumulate  # whole steps only: 96 of 101 samples
        steps = [itertools.chain(*batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]
        assert [sorted(step) for step in steps] == reference


LABELS = np.repeat([0, 1, 3], [60, 30, 10])  # class 2 is empty


@pytest.mark.parametrize(
    ("balance", "expected"), [(0.0, [60, 30, 0, 10]), (1.0, [33.3, 33.3, 0, 33.3]), (0.5, [47.3, 33.4, 0, 19.3])]
)
def test_balanced_classes_have_their_share_in_every_epoch(balance, expected):
    def order_of(seed):
        return epoch_order(100, seed=seed, labels=LABELS, balance=balance).tolist()

    for seed in range(3):
        order = order_of(seed)
        counts = np.bincount(LABELS[order], minlength=4)
        assert len(order) == counts.sum() == 100
        assert np.abs(counts - expected).max() < 1
        draws = np.bincount(order, minlength=100)
        for label in (0, 1, 3):  # within a class all samples are drawn about equally often
            assert draws[label == LABELS].max() - draws[label == LABELS].min() <= 1
        assert order_of(seed + 10) != order == order_of(seed)
    samplers = samplers_of(2, num_samples=100, batch_size=5, labels=LABELS, balance=balance)
    counts = np.bincount(LABELS[[*itertools.chain(*global_batches(samplers))]], minlength=4)
    assert np.abs(counts - expected).max() < 1


def test_evaluation_asks_for_each_sample_exactly_once():
    for world_size, num_samples in itertools.product((1, 2, 3, 4), (101, 4, 2)):
        samplers = [EvalBatches(num_samples, batch_size=8, rank=r, world_size=world_size) for r in range(world_size)]
        keys = [key for sampler in samplers for batch in sampler for key in batch]
        assert sorted(key.index for key in keys if key.counted) == list(range(num_samples))
        assert sum(not key.counted for key in keys) == max(world_size - num_samples, 0)
        for rank, sampler in enumerate(samplers):
            assert len(sampler) == len(list(sampler)) >= 1
            assert all(1 <= len(batch) <= 8 for batch in sampler)
            if rank >= num_samples:
                ((key,),) = sampler
                assert (key.index, key.counted) == (0, False)


def draws(world_size, *, num_samples=100, epoch=0):
    """(sample, repeat) of each global batch, in order of the ranks."""
    batches = global_keys(samplers_of(world_size, num_samples=num_samples, repeats=3), epoch)
    return [[(key.index, repeat) for key in batch for repeat in key.repeats] for batch in batches]


@pytest.mark.parametrize("epoch", [0, 4])
def test_repeated_draws_fill_an_epoch_as_deits_sampler_does(epoch):
    batches = draws(1, epoch=epoch)
    assert [len(batch) for batch in batches] == [8] * 12  # 100 // 8, as without repeats
    shown, repeats = zip(*itertools.chain(*batches), strict=True)
    assert len(set(shown)) == 32
    assert list(shown) == [index for index in dict.fromkeys(shown) for _ in range(3)]
    assert list(repeats) == [0, 1, 2] * 32
    # The samples are the first of the permutation of that epoch.
    plain = itertools.chain(*global_batches(samplers_of(1, num_samples=100), epoch))
    assert list(dict.fromkeys(shown)) == list(plain)[:32]
    assert draws(4, epoch=epoch) == draws(2, epoch=epoch) == batches
    (tiny,) = draws(1, num_samples=2)
    assert len(tiny) == 8
    assert {index for index, _ in tiny} == {0, 1}


def test_an_epoch_of_repeated_draws_is_as_long_as_timms_on_imagenet():
    from timm.data.distributed_sampler import RepeatAugSampler

    expected = RepeatAugSampler(range(1_281_167), num_replicas=8, rank=3)
    actual = TrainBatches(1_281_167, batch_size=128, seed=0, rank=3, world_size=8, repeats=expected.num_repeats)
    assert len(actual) == len(expected) // 128 == 1251


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eleven videos, and one that is cut short."""
    root = tmp_path_factory.mktemp("loader")
    for number in range(11):
        write_video(root / f"{number}.mp4", num_frames=4 + number, size=(24, 32))
    truncate(root / "0.mp4", 0.3, root / "broken.mp4")
    return root


def index_of(root, num_videos, *others):
    names = [*(f"{number}.mp4" for number in range(num_videos)), *others]
    rows = [Row(name, str(number % 3)) for number, name in enumerate(names)]
    return SampleIndex(rows, root=root, class_names=["0", "1", "2"])


@pytest.fixture(scope="module")
def index(root):
    return index_of(root, 11)


def train_loader(index, *, num_workers=0, max_bad_fraction=None):
    dataset = TrainClips(index, clip=ClipSpec(2, 2), size=16, augment=Augment(), seed=5, repeats=2)
    batches = TrainBatches(len(index), batch_size=2, seed=5, rank=0, world_size=1)
    return ClipLoader(dataset, batches, num_workers=num_workers, pin_memory=False, max_bad_fraction=max_bad_fraction)


def record(batch):
    tensors = (batch.clips, batch.targets, batch.sample_ids, batch.view_ids, batch.seeds)
    return [(tuple(tensor.shape), tensor.contiguous().numpy().tobytes()) for tensor in tensors]


def records(loader, epochs):
    """A record of each batch of some epochs."""
    for epoch in epochs:
        loader.batches.set_epoch(epoch)
        yield from map(record, loader)


@pytest.fixture(scope="module")
def stream(index):
    """Two epochs of five batches without workers."""
    stream = list(records(train_loader(index), range(2)))
    assert len({str(batch) for batch in stream}) == len(stream) == 10
    return stream


@pytest.mark.parametrize(("count", "before", "after"), [(3, 0, 2), (5, 0, 0), (7, 2, 0)])
def test_a_restored_loader_goes_on_with_the_next_batch(index, stream, count, before, after):
    loader = train_loader(index, num_workers=before)
    first = list(itertools.islice(records(loader, range(2)), count))
    state = loader.state_dict()
    position = {"seed": 5, "epoch": (count - 1) // 5, "consumed": 2 * ((count - 1) % 5 + 1)}
    assert state == {**position, "draws_per_batch": 2, "draws_per_step": 2}
    restored = train_loader(index, num_workers=after)
    restored.load_state_dict(state)
    assert len(restored) == 5
    assert first + list(records(restored, range(state["epoch"], 2))) == stream


def test_evaluation_has_no_position(index):
    dataset = EvalClips(index, ClipProtocol(ClipSpec(2, 2), Views(num_clips=2, short_side=16), size=16))
    batches = EvalBatches(len(index), batch_size=4, rank=1, world_size=2)
    loader = ClipLoader(dataset, batches, num_workers=0, pin_memory=False)
    views = list(loader)
    assert torch.cat([batch.sample_ids for batch in views]).tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
    assert torch.cat([batch.view_ids for batch in views]).tolist() == [0, 1] * 5
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    hidden = Unwrapped(loader)
    assert (len(hidden), hidden.dataset) == (2, dataset)
    assert [record(batch) for batch in hidden] == [record(batch) for batch in views]
    assert not isinstance(hidden, torch.utils.data.DataLoader)


def test_a_broken_file_is_replaced_and_named_once(root, caplog):
    streams = []
    for num_workers in (0, 2):
        caplog.clear()
        loader = train_loader(index_of(root, 7, "broken.mp4"), num_workers=num_workers, max_bad_fraction=0.2)
        with caplog.at_level(logging.WARNING):
            streams.append(list(records(loader, range(2))))
        (message,) = [entry.getMessage() for entry in caplog.records if entry.name == "mvrec.data.loading.loader"]
        assert message.startswith(f"unreadable, another video takes its place: {root / 'broken.mp4'}: ")
    assert streams[0] == streams[1]
    assert all(shape[0] == 4 for batch in streams[0] for shape, _ in batch)


def test_too_many_broken_files_stop_training_with_their_cause(root, caplog):
    removed = [f"gone{number}.mp4" for number in range(40)]
    for index, most, message in (
        (index_of(root, 6, "broken.mp4", "gone.mp4"), 0.2, r"2 of the first 8 videos .*max_bad_fraction=0.2 allows"),
        (index_of(root, 1, "broken.mp4"), 0.0, r"1 of the first 2 videos cannot be read.*broken\.mp4: "),
        (index_of(root, 0, *removed), 1.0, r"10 files in a row could not be read; the last: .*gone\d+\.mp4: "),
    ):
        with pytest.raises(UserError, match=message):
            list(records(train_loader(index, max_bad_fraction=most), [0]))
    assert "broken.mp4" in caplog.text
    assert "gone.mp4" in caplog.text


def test_share_of_broken_files_is_taken_of_what_was_asked_for():
    def bad(*numbers):
        return tuple(BadSample(number, f"{number}.mp4", "empty") for number in numbers)

    files = BadFiles(100_000, 0.05)
    files.report(bad(*range(5)), requested=8)  # 5 of 8, but fewer than 100 samples say little
    files.report(bad(*range(5)), requested=8)  # the same ones again
    with pytest.raises(UserError, match="6 of the first 100 videos"):
        files.report(bad(5), requested=8)
    files = BadFiles(100_000, 0.05)
    for _ in range(100):
        files.report((), requested=8)
    files.report(bad(*range(40)), requested=8)  # 40 of 808
    with pytest.raises(UserError, match=r"41 of the first 816 videos cannot be read.*the first: 0\.mp4: empty"):
        files.report(bad(40), requested=8)


def test_workers_are_the_cores_of_a_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    for cores_of_slurm, processes, expected in (
        ("", 4, 3),
        ("", 24, 1),
        ("7", 4, 7),  # Slurm counts per task already
        ("64", 1, 12),  # but this process may run on 12
    ):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", cores_of_slurm)
        assert worker_count("auto", processes=processes) == expected
    assert [worker_count(number) for number in (0, 40)] == [0, 40]
