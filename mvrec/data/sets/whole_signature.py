"""Signatures of classes that pass `**knobs` to their parent."""

import inspect
from typing import Any


class WholeSignature:
    """Base of classes that pass `**knobs` on: `help` and editors list the parent's arguments after a class's own."""

    __signature__: inspect.Signature

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        parameters: dict[str, inspect.Parameter] = {}
        for kind in cls.__mro__:
            if "__init__" in vars(kind):
                _, *listed = inspect.signature(vars(kind)["__init__"]).parameters.values()
                named = [parameter for parameter in listed if parameter.kind is not parameter.VAR_KEYWORD]
                for parameter in named:
                    parameters.setdefault(parameter.name, parameter)
                if len(named) == len(listed):
                    break
        cls.__signature__ = inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind))
