"""Classification of videos and images, single- and multi-label: all code about labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec.tasks.classification.task import Classification

__all__ = ["Classification"]


def __getattr__(name: str) -> Any:
    # Earlier versions had the class here, and `load_from_checkpoint` of their checkpoints looks for it.
    if name != "Classification":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mvrec.tasks.classification.task import Classification  # imports Lightning

    return Classification
