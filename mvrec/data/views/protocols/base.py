"""The common part of all kinds of protocols."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from mvrec.data.views.geometry import Geometry
from mvrec.data.views.normalisation import Normalisation


class Protocol(ABC):
    """Everything between a file and a score except the model.

    Attributes:
        kind: Its name in dictionaries.
        noun: The name of a file.
        view_noun: The name of a view.
        is_video: Whether views have an axis T.
        size: Side of a view in pixels.
        normalisation: Mean and standard deviation.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    view_noun: ClassVar[str]
    is_video: ClassVar[bool]
    size: int
    normalisation: Normalisation

    @property
    @abstractmethod
    def num_views(self) -> int:
        """Views per file."""

    @property
    @abstractmethod
    def view_shape(self) -> tuple[int, ...]:
        """(C, T, H, W) or (C, H, W) of a view."""

    @abstractmethod
    def geometries(self, height: int, width: int) -> list[Geometry]:
        """Return the spatial views of frames of this size."""

    @abstractmethod
    def central(self) -> Self:
        """Return the protocol with one view, the central one."""

    @abstractmethod
    def under(self, settings: Mapping[str, Any]) -> Self:
        """Return the protocol with the values of a data module's arguments."""

    @classmethod
    @abstractmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "Protocol":
        """Return the protocol of a data module's arguments."""

    @classmethod
    @abstractmethod
    def of_values(cls, values: Mapping[str, Any]) -> "Protocol":
        """Return the protocol from the values of `as_dict` without `kind`."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, the form in checkpoints."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]  # all subclasses are dataclasses


def shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that all data modules have as arguments."""
    return {"size": settings["size"], "normalisation": normalisation_of(settings["normalisation"])}


def normalisation_of(values: Mapping[str, Any]) -> Normalisation:
    """Return mean and standard deviation from plain numbers."""
    return Normalisation(mean=tuple(values["mean"]), std=tuple(values["std"]))
