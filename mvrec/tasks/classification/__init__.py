"""Classification of videos and images, single- and multi-label: all that knows labels."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The task where earlier versions had it, which `load_from_checkpoint` of their checkpoints asks for."""
    if name != "Classification":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mvrec.tasks.classification import task  # with Lightning, which the other modules here do without

    return task.Classification
