"""The tasks that networks are trained and scored for: one folder per task, and `base.py` for all.

Each is imported on first use: using a trained network loads no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec.tasks.action_detection.task import ActionDetection
    from mvrec.tasks.base import Task
    from mvrec.tasks.classification.task import Classification
    from mvrec.tasks.detection.task import Detection
    from mvrec.tasks.regression.task import Regression
    from mvrec.tasks.segmentation.task import Segmentation

_HOMES = {
    "ActionDetection": "action_detection.task",
    "Classification": "classification.task",
    "Detection": "detection.task",
    "Regression": "regression.task",
    "Segmentation": "segmentation.task",
    "Task": "base",
}

__all__ = ["ActionDetection", "Classification", "Detection", "Regression", "Segmentation", "Task"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = member = getattr(import_module(f"mvrec.tasks.{_HOMES[name]}"), name)
    return member


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
