"""Checks of networks' names in configs and flags, while their place is known."""

import re
from collections.abc import Sequence
from typing import NoReturn

from mvrec import models
from mvrec.cli.config_check import Entry
from mvrec.errors import UserError, nearest
from mvrec.models.backbone import Backbone
from mvrec.models.baselines.names import check_baseline
from mvrec.published import CREATE_MODEL, ZOO


def check_backbones(settings: Sequence[Entry]) -> None:
    """Check the names of the zoo and of baselines in configs and flags.

    Raises:
        UserError: A name does not exist, with the nearest one, or a baseline's library is not installed.
    """
    variants = models.list_models()
    classes = {name for name, kind in vars(models).items() if isinstance(kind, type) and issubclass(kind, Backbone)}
    by_name: set[str] = set()  # keys whose network is `create_model(name)`
    for key, value, where, _ in settings:
        if re.fullmatch(r"model(\.backbone)+", key) and isinstance(value, str):
            package, _, name = value.rpartition(".")
            if package == ZOO and not hasattr(models, name):
                _refuse(name, [*variants, *classes], where)
            (by_name.add if value == CREATE_MODEL else by_name.discard)(key)
        elif key.removesuffix(".name") in by_name and isinstance(value, str):
            _check_model_name(value, variants, where.removesuffix(".name"))


def _check_model_name(name: str, variants: Sequence[str], where: str) -> None:
    if "/" not in name and name not in variants:
        _refuse(name, variants, where)
    if "/" in name:
        try:
            check_baseline(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _refuse(name: str, names: Sequence[str], where: str) -> NoReturn:
    hint = nearest(name, names) or f" (mvrec models lists its networks; those of timm are called timm/{name})"
    raise UserError(f"{where}: the zoo has no {name!r}{hint}")
