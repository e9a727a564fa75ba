"""Checks of networks' names in configs and flags, while their place is known."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from mvrec.cli.config_check import Entry
from mvrec.cli.options import class_names
from mvrec.errors import UserError, nearest
from mvrec.published import CREATE_MODEL, ZOO, list_models


class NetworkName(NamedTuple):
    """A network of the zoo or of another library that a config or flag names, with its place."""

    name: str
    where: str


def check_networks(settings: Sequence[Entry]) -> None:
    """Check the names of the zoo in configs and flags, without importing it.

    Raises:
        UserError: A name that does not exist, with the nearest.
    """
    networks = class_names(ZOO)
    for key, value, where, _ in settings:
        if re.fullmatch(r"model(\.backbone)+", key) and isinstance(value, str):
            package, _, name = value.rpartition(".")
            if package == ZOO and name not in networks:
                _refuse(name, networks, where)
    for name, where in _created(settings):
        if "/" not in name and name not in list_models():
            _refuse(name, list_models(), where)


def check_baselines(settings: Sequence[Entry]) -> None:
    """Check the names of networks of other libraries in configs and flags, which imports these libraries.

    Raises:
        UserError: A name that does not exist, with the nearest, or a library that is not installed.
    """
    for name, where in _created(settings):
        if "/" in name:
            from mvrec.models.baselines.names import check_baseline

            try:
                check_baseline(name)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None


def _created(settings: Sequence[Entry]) -> Iterator[NetworkName]:
    """Yield the names that `create_model` gets."""
    by_name: set[str] = set()  # keys whose network is `create_model(name)`
    for key, value, where, _ in settings:
        if re.fullmatch(r"model(\.backbone)+", key) and isinstance(value, str):
            (by_name.add if value == CREATE_MODEL else by_name.discard)(key)
        elif key.removesuffix(".name") in by_name and isinstance(value, str):
            yield NetworkName(value, where.removesuffix(".name"))


def _refuse(name: str, names: Sequence[str], where: str) -> NoReturn:
    hint = nearest(name, names) or f" (mvrec models lists its networks; those of timm are called timm/{name})"
    raise UserError(f"{where}: the zoo has no {name!r}{hint}")
