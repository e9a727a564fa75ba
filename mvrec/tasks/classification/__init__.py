"""Classification of videos and images, single- and multi-label: all that knows labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec.tasks.classification.task import Classification

__all__ = ["Classification"]


def __getattr__(name: str) -> Any:
    # Also where earlier versions had it, which `load_from_checkpoint` of their checkpoints asks for.
    if name != "Classification":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mvrec.tasks.classification.task import Classification  # which imports Lightning

    return Classification
