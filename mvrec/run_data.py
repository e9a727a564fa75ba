"""What the rooms of a run need of its data module, as one typed contract: none of them knows what the data are."""

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
        """How many files there are."""

    def __getitem__(self, number: int, /) -> Any:
        """A row, with its `path`."""

    def columns(self) -> dict[str, list[str]]:
        """What else the list says of each file, by the name of its column."""

    def digest(self) -> str:
        """A hash of the list."""

    def class_counts(self) -> Sequence[int]:
        """Return files of each class."""


class ViewProtocol(Protocol):
    """How a file becomes views; see `mvrec.data.views.protocol`."""

    @property
    def num_views(self) -> int:
        """Views of a file."""

    @property
    def noun(self) -> str:
        """What a file is called."""

    @property
    def view_noun(self) -> str:
        """What a view is called."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, as checkpoints hold it."""


class RunData(Protocol):
    """The data module of a run, after its `setup`."""

    seed: int | None

    @property
    def target_type(self) -> Any:
        """The type of its targets; see `mvrec.data.views.targets`."""

    @property
    def augment_on(self) -> str:
        """Where RandAugment is applied: "worker" or "device"."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of what the network sees, without the batch: (C, T, H, W) or (C, H, W)."""

    @property
    def clips_per_step(self) -> int:
        """Views that this process trains on per step."""

    @property
    def draws_per_batch(self) -> int:
        """Draws of the training order that all processes together take per batch."""

    @property
    def test_split(self) -> str:
        """The split that `test` and `predict` read."""

    @property
    def val_protocol(self) -> ViewProtocol:
        """How files become views while training goes on."""

    @property
    def test_protocol(self) -> ViewProtocol:
        """How files become views for `test` and `predict`."""

    def index(self, split: Any) -> Index:
        """Return the rows of a split."""

    def record(self) -> dict[str, Any]:
        """What a run's record says of its data."""


def data_of(trainer: "Trainer") -> RunData:
    """Return the data module of a trainer."""
    return cast("RunData", trainer.datamodule)  # type: ignore[attr-defined]
