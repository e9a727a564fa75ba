"""The part of a data module that runs rely on, as a typed contract: no code of runs knows what the data are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from lightning import Trainer


class Row(Protocol):
    """A row of an index."""

    @property
    def path(self) -> Path:
        """The file."""


class Index(Protocol):
    """The files of a split; see `mvrec.data.listing.index.SampleIndex`."""

    def __len__(self) -> int:
        """Return the number of files."""

    def __getitem__(self, number: int, /) -> Any:
        """Return a row, with its `path`."""

    def columns(self) -> dict[str, list[str]]:
        """Return the list's other columns: one value per file, by the column's name."""

    def digest(self) -> str:
        """Return a hash of the list."""

    def class_counts(self) -> Sequence[int]:
        """Return the number of files of each class."""


class ViewProtocol(Protocol):
    """The plan by which a file becomes views; see `mvrec.data.views.protocol`."""

    @property
    def num_views(self) -> int:
        """Views of a file."""

    @property
    def noun(self) -> str:
        """The name of a file, such as "video"."""

    @property
    def view_noun(self) -> str:
        """The name of a view, such as "clip"."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, as checkpoints hold it."""


class RunData(Protocol):
    """The data module of a run, after its `setup`."""

    seed: int | None

    @property
    def target_type(self) -> Any:
        """The class of its targets; see `mvrec.data.views.targets`."""

    @property
    def augment_on(self) -> str:
        """The place of RandAugment: "worker" or "device"."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of the network's input without the batch: (C, T, H, W) or (C, H, W)."""

    @property
    def clips_per_step(self) -> int:
        """The number of views per step on which this process trains."""

    @property
    def draws_per_batch(self) -> int:
        """The number of draws from the training order per batch, over all processes."""

    @property
    def test_split(self) -> str:
        """The split that `test` and `predict` read."""

    @property
    def val_protocol(self) -> ViewProtocol:
        """The protocol of validation during training."""

    @property
    def test_protocol(self) -> ViewProtocol:
        """The protocol of `test` and `predict`."""

    def index(self, split: Any) -> Index:
        """Return the rows of a split."""

    def record(self) -> dict[str, Any]:
        """Return the facts about the data that a run records."""


def data_of(trainer: "Trainer") -> RunData:
    """Return the data module of a trainer."""
    return cast("RunData", trainer.datamodule)  # type: ignore[attr-defined]
