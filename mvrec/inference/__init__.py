"""A trained network in use, without Lightning.

The names are imported when they are first asked for, since not every part of this package needs torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec.inference.recogniser import Recogniser, load_recogniser

__all__ = ["Recogniser", "load_recogniser"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mvrec.inference import recogniser

    return getattr(recogniser, name)
