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

NUM_VIDEOS = 11

# torch on machines with fewer cores than a test has workers
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def ranks(world_size, *, num_samples=101, global_batch_size=8, seed=3):
    return [
        TrainBatches(
            num_samples, batch_size=global_batch_size // world_size, seed=seed, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]


def global_batches(samplers, epoch=0):
    """The rows of each batch that all ranks make together, in order of the ranks."""
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [[key.index for part in parts for key in part] for parts in zip(*(list(s) for s in samplers), strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("epoch", [0, 5])
def test_each_sample_once_per_epoch_whatever_the_number_of_ranks(world_size, epoch):
    samplers = ranks(world_size)
    batches = global_batches(samplers, epoch)
    assert batches == global_batches(ranks(1), epoch)
    assert [len(sampler) for sampler in samplers] == [len(batches)] * world_size == [12] * world_size
    flat = [index for batch in batches for index in batch]
    assert len(flat) == len(set(flat)) == 96  # 5 of 101 are left over
    assert set(flat) <= set(range(101))
    assert flat != sorted(flat)


def test_order_depends_on_seed_and_epoch_only():
    state = torch.get_rng_state()
    (sampler,) = ranks(1)
    first, second = (global_batches([sampler], epoch) for epoch in (0, 1))
    assert first != second
    assert global_batches([sampler], 0) == first
    assert global_batches(ranks(1, seed=4), 0) != first
    assert torch.equal(torch.get_rng_state(), state)
    left_over = [set(range(101)) - {i for batch in global_batches([sampler], e) for i in batch} for e in range(3)]
    assert len({frozenset(rows) for rows in left_over}) == 3


def test_keys_carry_their_epoch():
    (sampler,) = ranks(1)
    sampler.set_epoch(7)
    assert {key.epoch for batch in sampler for key in batch} == {7}
    assert sampler.sampler is sampler


@pytest.mark.parametrize(("num_samples", "most"), [(1, 8), (3, 3), (5, 2), (7, 2), (8, 1)])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_tiny_data_set_is_repeated(num_samples, most, world_size):
    samplers = ranks(world_size, num_samples=num_samples)
    (batch,) = global_batches(samplers)
    counts = [batch.count(index) for index in range(num_samples)]
    assert len(batch) == 8
    assert max(counts) == most
    assert max(counts) - min(counts) <= 1


def test_set_epoch_keeps_the_position_only_within_an_epoch():
    (sampler,) = ranks(1)
    whole = global_batches([sampler], 2)
    sampler.consumed = 3 * 8
    sampler.set_epoch(2)
    assert [[key.index for key in batch] for batch in sampler] == whole[3:]
    assert len(sampler) == 12
    sampler.set_epoch(3)
    assert sampler.consumed == 0
    assert len(list(sampler)) == 12


@pytest.mark.parametrize(("world_size", "batch_size", "accumulate"), [(1, 8, 3), (2, 4, 3), (4, 3, 2), (1, 2, 12)])
def test_a_step_has_the_same_samples_however_it_is_shared(world_size, batch_size, accumulate):
    samplers = [
        TrainBatches(101, batch_size=batch_size, seed=3, rank=rank, world_size=world_size, accumulate=accumulate)
        for rank in range(world_size)
    ]
    batches = global_batches(samplers, epoch=1)
    assert len(batches) == len(samplers[0]) == 4 * accumulate  # whole steps only: 96 of 101 samples
    parts = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    steps = [[row for batch in part for row in batch] for part in parts]
    (reference,) = ranks(1, global_batch_size=24)
    assert [sorted(step) for step in steps] == [sorted(step) for step in global_batches([reference], epoch=1)]


LABELS = np.repeat([0, 1, 3], [60, 30, 10])  # class 2 is empty


@pytest.mark.parametrize(
    ("balance", "expected"), [(0.0, [60, 30, 0, 10]), (1.0, [33.3, 33.3, 0, 33.3]), (0.5, [47.3, 33.4, 0, 19.3])]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_classes_have_their_share_in_every_epoch(balance, expected, seed):
    order = epoch_order(100, seed=seed, labels=LABELS, balance=balance)
    counts = np.bincount(LABELS[order.numpy()], minlength=4)
    assert len(order) == counts.sum() == 100
    assert np.abs(counts - expected).max() < 1
    draws = np.bincount(order.numpy(), minlength=100)
    for label in (0, 1, 3):  # within a class all samples are drawn about equally often
        assert draws[label == LABELS].max() - draws[label == LABELS].min() <= 1
    assert order.tolist() != epoch_order(100, seed=seed + 10, labels=LABELS, balance=balance).tolist()
    assert order.tolist() == epoch_order(100, seed=seed, labels=LABELS, balance=balance).tolist()


def test_balance_holds_over_ranks():
    samplers = [
        TrainBatches(100, batch_size=5, seed=1, rank=rank, world_size=2, labels=LABELS, balance=1.0)
        for rank in range(2)
    ]
    drawn = [row for batch in global_batches(samplers) for row in batch]
    assert np.bincount(LABELS[drawn], minlength=4).tolist() in ([33, 33, 0, 34], [33, 34, 0, 33], [34, 33, 0, 33])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_samples", [101, 4, 2])
def test_evaluation_asks_for_each_sample_exactly_once(world_size, num_samples):
    samplers = [EvalBatches(num_samples, batch_size=8, rank=rank, world_size=world_size) for rank in range(world_size)]
    keys = [key for sampler in samplers for batch in sampler for key in batch]
    assert sorted(key.index for key in keys if key.counted) == list(range(num_samples))
    for rank, sampler in enumerate(samplers):
        assert len(sampler) == len(list(sampler)) >= 1
        assert all(1 <= len(batch) <= 8 for batch in sampler)
        if rank >= num_samples:
            ((key,),) = sampler
            assert (key.index, key.counted) == (0, False)
    assert sum(not key.counted for key in keys) == max(world_size - num_samples, 0)


def draws(world_size, *, num_samples=100, batch_size=8, epoch=0, repeats=3):
    """(sample, repeat) of each global batch, in order of the ranks."""
    samplers = [
        TrainBatches(num_samples, batch_size=batch_size, seed=1, rank=rank, world_size=world_size, repeats=repeats)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = zip(*(list(sampler) for sampler in samplers), strict=True)
    return [[(key.index, repeat) for part in ranks for key in part for repeat in key.repeats] for ranks in parts]


@pytest.mark.parametrize("epoch", [0, 4])
def test_repeated_draws_fill_an_epoch_as_deits_sampler_does(epoch):
    batches = draws(1, epoch=epoch)
    assert [len(batch) for batch in batches] == [8] * 12  # 100 // 8, as without repeats
    flat = [draw for batch in batches for draw in batch]
    shown = [index for index, _ in flat]
    assert len(set(shown)) == 32
    assert shown == [index for index in dict.fromkeys(shown) for _ in range(3)]
    assert [repeat for _, repeat in flat] == [0, 1, 2] * 32
    # The samples are the first of the permutation of that epoch.
    plain = TrainBatches(100, batch_size=8, seed=1, rank=0, world_size=1)
    plain.set_epoch(epoch)
    assert list(dict.fromkeys(shown)) == [key.index for batch in plain for key in batch][:32]


def test_an_epoch_of_repeated_draws_is_as_long_as_timms_on_imagenet():
    from timm.data.distributed_sampler import RepeatAugSampler

    theirs = RepeatAugSampler(range(1_281_167), num_replicas=8, rank=3)
    ours = TrainBatches(1_281_167, batch_size=128, seed=0, rank=3, world_size=8, repeats=theirs.num_repeats)
    assert len(ours) == len(theirs) // 128 == 1251
    # Both show the samples three times in a row, timm's ranks one draw each in turn, ours a run of draws each.
    small = [iter(RepeatAugSampler(range(3000), num_replicas=8, rank=rank)) for rank in range(8)]
    drawn = [int(index) for ranks in zip(*small, strict=True) for index in ranks]
    assert drawn == [index for index in dict.fromkeys(drawn) for _ in range(3)][: len(drawn)]
    assert len(drawn) == 2816  # 3000 rounded down to 256, where only what does not fill a batch is dropped here
    assert len(set(drawn)) == -(-2816 // 3)


def test_repeated_draws_do_not_depend_on_the_ranks_and_fill_a_batch_of_a_tiny_data_set():
    assert draws(4, batch_size=2) == draws(2, batch_size=4) == draws(1, batch_size=8)
    (batch,) = draws(1, num_samples=2, batch_size=8)
    assert len(batch) == 8
    assert {index for index, _ in batch} == {0, 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("loader")
    for number in range(NUM_VIDEOS):
        write_video(root / f"{number}.mp4", num_frames=8 + number, size=(24, 32))
    truncate(root / "0.mp4", 0.3, root / "broken.mp4")
    return root


def index_of(root, names):
    return SampleIndex(
        [Row(name, str(number % 3)) for number, name in enumerate(names)], root=root, class_names=["0", "1", "2"]
    )


@pytest.fixture(scope="module")
def index(root):
    return index_of(root, [f"{number}.mp4" for number in range(NUM_VIDEOS)])


def train_loader(index, *, num_workers=0, batch_size=2, max_bad_fraction=None, repeats=1):
    dataset = TrainClips(index, clip=ClipSpec(2, 2), size=16, augment=Augment(), seed=5, repeats=repeats)
    batches = TrainBatches(len(index), batch_size=batch_size, seed=5, rank=0, world_size=1)
    return ClipLoader(dataset, batches, num_workers=num_workers, pin_memory=False, max_bad_fraction=max_bad_fraction)


def record(batch):
    tensors = (batch.clips, batch.targets, batch.sample_ids, batch.view_ids, batch.seeds)
    return [(tuple(tensor.shape), tensor.contiguous().numpy().tobytes()) for tensor in tensors]


def each_epoch(loader, numbers):
    for epoch in numbers:
        loader.batches.set_epoch(epoch)
        yield loader


def epochs(loader, numbers):
    return [record(batch) for batch in itertools.chain.from_iterable(each_epoch(loader, numbers))]


@pytest.fixture(scope="module")
def stream(index):
    """Two epochs of five batches without workers."""
    found = epochs(train_loader(index, repeats=2), [0, 1])
    assert len(found) == 10
    assert len({str(batch) for batch in found}) == 10
    return found


def test_workers_do_not_change_the_batches(index, stream):
    loader = train_loader(index, num_workers=3, repeats=2)
    assert epochs(loader, [0, 1]) == stream
    assert len(loader) == 5


@pytest.mark.parametrize(("taken", "before", "after"), [(1, 0, 2), (3, 2, 0), (5, 0, 0), (7, 0, 0)])
def test_a_restored_loader_goes_on_with_the_next_batch(index, stream, taken, before, after):
    loader = train_loader(index, num_workers=before, repeats=2)
    batches = itertools.chain.from_iterable(each_epoch(loader, (0, 1)))
    records = [record(batch) for batch in itertools.islice(batches, taken)]
    state = loader.state_dict()
    position = {"seed": 5, "epoch": (taken - 1) // 5, "consumed": 2 * ((taken - 1) % 5 + 1)}
    assert state == {**position, "draws_per_batch": 2, "draws_per_step": 2}
    restored = train_loader(index, num_workers=after, repeats=2)
    restored.load_state_dict(state)
    assert records + epochs(restored, range(state["epoch"], 2)) == stream


def test_evaluation_has_no_position(index):
    dataset = EvalClips(index, ClipProtocol(ClipSpec(2, 2), Views(num_clips=2, short_side=16), size=16))
    batches = EvalBatches(len(index), batch_size=4, rank=1, world_size=2)
    loader = ClipLoader(dataset, batches, num_workers=0, pin_memory=False)
    for _ in range(2):
        found = list(loader)
        assert torch.cat([batch.sample_ids for batch in found]).tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
        assert torch.cat([batch.view_ids for batch in found]).tolist() == [0, 1] * 5
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    hidden = Unwrapped(loader)
    assert (len(hidden), hidden.dataset) == (2, dataset)
    assert [record(batch) for batch in hidden] == [record(batch) for batch in found]
    assert not isinstance(hidden, torch.utils.data.DataLoader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_file_is_replaced_and_named_once(root, caplog, num_workers):
    names = [f"{number}.mp4" for number in range(7)] + ["broken.mp4"]
    index = index_of(root, names)
    streams = []
    for workers in (num_workers, 0):
        caplog.clear()
        loader = train_loader(index, num_workers=workers, max_bad_fraction=0.2)
        with caplog.at_level(logging.WARNING):
            streams.append(epochs(loader, [0, 1]))
        (message,) = [entry.getMessage() for entry in caplog.records if entry.name == "mvrec.data.loading.loader"]
        assert message.startswith(f"unreadable, another video takes its place: {root / 'broken.mp4'}: ")
    assert streams[0] == streams[1]
    assert all(shape[0] == 2 for batch in streams[0] for shape, _ in batch)


def test_too_many_broken_files_stop_training(root, caplog):
    names = [f"{number}.mp4" for number in range(6)] + ["broken.mp4", "gone.mp4"]
    loader = train_loader(index_of(root, names), max_bad_fraction=0.2)
    with pytest.raises(UserError, match=r"2 of the first 8 videos cannot be read, .*max_bad_fraction=0.2 allows"):
        epochs(loader, [0])
    assert {name for name in names if name in caplog.text} >= {"broken.mp4", "gone.mp4"}


def test_a_single_broken_file_stops_training_where_none_is_allowed(root):
    loader = train_loader(index_of(root, ["0.mp4", "broken.mp4"]), max_bad_fraction=0.0)
    with pytest.raises(UserError, match=r"1 of the first 2 videos cannot be read.*broken\.mp4: "):
        epochs(loader, [0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_readable_stops_at_once(root, num_workers):
    loader = train_loader(
        index_of(root, [f"gone{number}.mp4" for number in range(40)]), num_workers=num_workers, max_bad_fraction=1.0
    )
    with pytest.raises(UserError, match=r"10 files in a row could not be read; the last: .*gone\d+\.mp4: "):
        next(iter(loader))


def test_share_of_broken_files_is_taken_of_what_was_asked_for():
    files = BadFiles(100_000, 0.05)

    def bad(*numbers):
        return tuple(BadSample(number, f"{number}.mp4", "empty") for number in numbers)

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


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({}, 1, 12),
        ({}, 4, 3),
        ({}, 24, 1),
        ({"SLURM_CPUS_PER_TASK": "7"}, 1, 7),
        ({"SLURM_CPUS_PER_TASK": "7"}, 4, 7),  # Slurm counts per task already
        ({"SLURM_CPUS_PER_TASK": "64"}, 1, 16),
        ({"SLURM_CPUS_PER_TASK": "1"}, 1, 1),
    ],
)
def test_workers_are_the_cores_of_a_process(monkeypatch, environment, processes, expected):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert worker_count("auto", processes=processes) == expected
    assert worker_count(0) == 0
    assert worker_count(40) == 40
