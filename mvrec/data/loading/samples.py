"""What datasets of clips and of images share: how a key becomes an item, and what happens to a file that is bad."""

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.data import Dataset

from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.batch import PADDING_ID, BadSample, Item, SampleKey
from mvrec.data.views.targets import NoTarget, Target
from mvrec.data.views.transforms import pixel_seed
from mvrec.errors import DecodeError
from mvrec.machine import machine_fault
from mvrec.seeds import derive_seed

SUBSTITUTES = 10  # files tried in place of one that cannot be read before training is given up


class _Reading:
    """Who is told which file is opened next. In a reading process that is its guard; see `mvrec.data.loading.guard`.

    Attributes:
        announce: Takes row and path; raises `DecodeError` for a file that is not to be opened again.
    """

    announce: Callable[[int, str], None]


reading = _Reading()
reading.announce = lambda number, path: None


class TrainSamples(Dataset[Item]):
    """Random views of an index, `repeats` of them per file from one decode.

    An item is asked for by `SampleKey`; all that is random about it follows from (seed, epoch, index), so
    workers and restarts cannot change it. A file that cannot be read is replaced by another one, chosen the same
    way, and reported.
    """

    index: SampleIndex
    repeats: int
    seed: int

    @abstractmethod
    def views(self, sample: Sample, *, seeds: tuple[int, ...], rng: random.Random) -> Tensor:
        """One random view per pixel seed: uint8 (V, T, C, H, W), images without T.

        Args:
            sample: The file.
            seeds: One per view; what is random about its pixels follows from it.
            rng: For what the views share.

        Raises:
            DecodeError: The file cannot be read.
        """

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Item:
        bad: list[BadSample] = []
        number = key.index
        for attempt in range(SUBSTITUTES):
            if attempt:
                number = derive_seed(self.seed, key.epoch, key.index, "substitute", attempt) % len(self.index)
            sample = self.index[number]
            try:
                reading.announce(number, str(sample.path))
                return self._item(sample, number, key)._replace(bad=tuple(bad))
            except DecodeError as error:
                bad.append(BadSample(number, str(sample.path), error.cause, stop=machine_fault(error) or ""))
                if bad[-1].stop:  # no other file would fare better
                    return Item(None, (), PADDING_ID, bad=tuple(bad))
        bad[-1] = bad[-1]._replace(stop=f"not one of {SUBSTITUTES} files in a row could be read")
        return Item(None, (), PADDING_ID, bad=tuple(bad))

    def _item(self, sample: Sample, number: int, key: SampleKey) -> Item:
        repeats = range(self.repeats) if key.repeats is None else key.repeats
        seeds = tuple(derive_seed(self.seed, key.epoch, key.index, "view", repeat) for repeat in repeats)
        rng = random.Random(derive_seed(self.seed, key.epoch, key.index, "clip"))
        views = self.views(sample, seeds=tuple(pixel_seed(seed) for seed in seeds), rng=rng)
        targets = (self.index.target(number),) * len(seeds)
        return Item(views, targets, number, seeds, view_ids=tuple(repeats))


class EvalSamples(Dataset[Item]):
    """All views of each file of an index, from one decode. Nothing is random, nothing is replaced.

    A key whose `repeats` names some of the views gets these only, so that processes can share the views of a file.
    """

    index: SampleIndex

    @abstractmethod
    def views(self, sample: Sample, number: int, *, wanted: Sequence[int] | None = None) -> Tensor:
        """The protocol's views of row `number`: uint8 (V, T, C, H, W), images without T.

        Args:
            sample: The file.
            number: Its row.
            wanted: Which of the views, by their numbers; `None` for all.

        Raises:
            DecodeError: The file cannot be read.
        """

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Item:
        sample = self.index[key.index]
        target: Target = NoTarget()
        sample_id = key.index if key.counted else PADDING_ID
        try:
            target = self.index.target(key.index)
            reading.announce(key.index, str(sample.path))
            views = self.views(sample, key.index, wanted=key.repeats)
        except DecodeError as error:
            bad = BadSample(key.index, str(sample.path), error.cause, stop=machine_fault(error) or "", target=target)
            return Item(None, (target,), sample_id, bad=(bad,) if key.counted else ())
        numbers = tuple(range(len(views)) if key.repeats is None else key.repeats)
        return Item(views, (target,) * len(views), sample_id, seeds=numbers, view_ids=numbers)
