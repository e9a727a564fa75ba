"""Probabilities of all files of a data set under a network's protocol, read as in training."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mvrec.data.listing.index import SampleIndex
from mvrec.data.loading.batch import SampleKey
from mvrec.data.loading.clips import EvalClips
from mvrec.data.loading.images import EvalImages
from mvrec.data.loading.loader import ClipLoader, EvalBatches, worker_count
from mvrec.data.loading.samples import EvalSamples
from mvrec.inference.recogniser import Recogniser
from mvrec.processes import Limits

VIEWS = 32  # at a time


class SomeRows(EvalBatches):
    """Some rows of an index in batches of one process.

    Args:
        rows: Their numbers, at least one.
        batch_size: Files per batch.
    """

    def __init__(self, rows: Sequence[int], *, batch_size: int) -> None:
        super().__init__(len(rows), batch_size=batch_size, rank=0, world_size=1)
        self.rows = rows

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for keys in super().__iter__():
            yield [key._replace(index=self.rows[key.index]) for key in keys]


def scored(
    data: Any, index: SampleIndex, recogniser: Recogniser, *, rows: Sequence[int], jobs: int | None = None
) -> npt.NDArray[np.float64]:
    """Return the mean probabilities over a file's views: (len(index), K), NaN for rows that are not asked or not read.

    Loader processes read the files, each through a process that a file may hang or crash.

    Args:
        data: A data module of videos or images after `setup`.
        index: Rows of a split.
        recogniser: The network with its protocol.
        rows: Numbers of the rows to score.
        jobs: Loader processes; by default those of the data module.
    """
    probabilities = np.full((len(index), len(recogniser.class_names)), np.nan)
    if not rows:
        return probabilities
    views = recogniser.protocol.num_views
    loader = ClipLoader(
        _dataset(data, index, recogniser),
        SomeRows(rows, batch_size=max(VIEWS // views, 1)),
        num_workers=worker_count(jobs or data.num_workers, processes=1),
        pin_memory=False,
        noun=data.kind.noun,
        limits=Limits(data.decode_timeout, data.decode_memory),
    )
    for batch in tqdm(loader, disable=None, unit="batch"):
        parts = [recogniser.probabilities(part.clips).numpy() for part in batch.parts(VIEWS)]
        ids = batch.sample_ids.numpy()
        for row in np.unique(ids):
            probabilities[row] = np.concatenate(parts)[ids == row].mean(0)
    return probabilities


def _dataset(data: Any, index: SampleIndex, recogniser: Recogniser) -> EvalSamples:
    """Return the views of rows under the network's protocol, opened as the data module opens its files."""
    protocol: Any = recogniser.protocol
    split = next((split for split in ("val", "test") if data.layout.has(split)), None)
    if split is not None:
        return replace(data.eval_dataset(split), index=index, protocol=protocol)
    return EvalClips(index, protocol, data.decoder) if recogniser.is_video else EvalImages(index, protocol)
