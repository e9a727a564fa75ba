"""`mvrec benchmark data`: what a training clip costs, step by step, on the user's own data and machine."""

import math
import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch

from mvrec.cli.lightning import instantiate
from mvrec.data.loading.batch import Item, SampleKey, collate
from mvrec.data.loading.loader import ClipLoader, TrainBatches
from mvrec.data.loading.samples import TrainSamples
from mvrec.data.loading.step_times import stage
from mvrec.data.sets.recognition_data import RecognitionData
from mvrec.errors import UserError
from mvrec.messages import CommandParser
from mvrec.ranges import POSITIVE, check_range

STEPS = ("decode", "transform", "collate")


def main(arguments: list[str]) -> None:
    """Measure decoding, transforms and collation per core, and the loader with its workers."""
    parser = CommandParser(
        prog="mvrec benchmark",
        description=main.__doc__,
        epilog="All other arguments are those of `mvrec fit`: --config FILE, --data.root FOLDER, ...",
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=["data"])
    parser.add_argument("--samples", type=int, default=100, help="training files to read for each figure (default 100)")
    parser.add_argument(
        "--device-rate",
        type=float,
        help="clips or images per second that one process trains on, for the number of workers that would feed it",
    )
    options, rest = parser.parse_known_args(arguments)
    check_range("--samples", options.samples)
    check_range("--device-rate", options.device_rate, POSITIVE)
    data = instantiate(["fit", *rest]).datamodule
    data.prepare_data()
    data.setup("fit")
    for line in report(data, num_samples=options.samples, device_rate=options.device_rate):
        print(line)  # noqa: T201


def report(data: RecognitionData, *, num_samples: int, device_rate: float | None) -> Iterator[str]:
    """Yield the lines of the report as they are measured.

    Args:
        data: A data module after `setup("fit")`.
        num_samples: Files to read for each figure.
        device_rate: Views per second that one process trains on, if known.

    Raises:
        UserError: No file could be read.
    """
    noun = data.val_protocol.view_noun
    loader = data.train_dataloader()
    num_samples = min(num_samples, len(data.index("train")) * 4)
    yield f"{data.root}: {len(data.index('train'))} training {data.kind.noun}s, {data.batch_size} per batch"
    total = 0.0
    dataset = data.train_dataset(data.index("train"), seed=data.seed or 0)
    costs, num_views, num_bad = cpu_costs(dataset, keys_of(loader, num_samples), batch_size=data.batch_size)
    if not num_views:
        raise UserError(f"{data.root}: none of {num_bad} {data.kind.noun}s could be read")
    yield f"CPU time per {noun} on one core, over {num_views} {noun}s" + (f" ({num_bad} files bad)" if num_bad else "")
    for step in (*STEPS, "rest"):
        milliseconds = 1000 * costs[step] / num_views
        total += milliseconds
        yield f"  {step:<10}{milliseconds:9.2f} ms"
    per_core = 1000 / total
    yield f"  {'sum':<10}{total:9.2f} ms = {per_core:.1f} {noun}s/s per core"
    rate = loader_rate(loader, num_samples)
    yield f"loader with {loader.num_workers} workers: {rate:.1f} {noun}s/s"
    if device_rate is not None:
        per_worker = rate / max(loader.num_workers, 1)
        yield f"to feed {device_rate:g} {noun}s/s: about {math.ceil(device_rate / per_worker)} workers like these"


def keys_of(loader: ClipLoader, num_samples: int) -> list[SampleKey]:
    """Return the first samples of training."""
    assert isinstance(loader.batches, TrainBatches)
    batches = loader.batches
    keys: list[SampleKey] = []
    for epoch in range(num_samples):  # a small data set is gone through more than once
        batches.set_epoch(epoch)
        keys += islice(chain.from_iterable(batches), num_samples - len(keys))
        if len(keys) >= num_samples:
            break
    batches.set_epoch(0)
    return keys


def cpu_costs(dataset: TrainSamples, keys: list[SampleKey], *, batch_size: int) -> tuple[dict[str, float], int, int]:
    """Measure CPU seconds per step over some samples, read in this process on one thread.

    Returns:
        Seconds per step with the `rest`; the number of views; the number of files that could not be read.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset[keys[0]]  # imports and caches
        stage.start()
        begin = time.process_time()
        items: list[Item] = []
        num_views = num_bad = 0
        for key in keys:
            items.append(dataset[key])
            num_bad += len(items[-1].bad)
            if len(items) == batch_size or key is keys[-1]:
                with stage("collate"):
                    num_views += len(collate(items))
                items = []
        seconds = time.process_time() - begin
    finally:
        stage.counting = False
        torch.set_num_threads(threads)
    costs: dict[str, Any] = {step: stage.seconds[step] for step in STEPS}
    return {**costs, "rest": max(seconds - sum(costs.values()), 0.0)}, num_views, num_bad


def loader_rate(loader: ClipLoader, num_samples: int) -> float:
    """Measure the loader's views per second for a consumer that never waits, after its first batch."""
    assert isinstance(loader.batches, TrainBatches)
    num_batches = max(math.ceil(num_samples / loader.batches.batch_size), 2)
    num_views, begin, epoch, num_taken = 0, 0.0, 0, 0
    while num_taken <= num_batches:
        loader.batches.set_epoch(epoch)
        for batch in loader:
            if num_taken:
                num_views += len(batch)
            else:
                begin = time.perf_counter()
            num_taken += 1
            if num_taken > num_batches:
                break
        epoch += 1
    return num_views / (time.perf_counter() - begin)
