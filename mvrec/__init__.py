"""mvrec: train, fine-tune, evaluate and ship video and image recognition models.

    import mvrec

    model = mvrec.load("runs/demo")
    print(model.predict("clip.mp4").top(3))

Importing this package costs nothing: names and sub-packages load when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec import data, models, tasks
    from mvrec.data import open_video, read_image
    from mvrec.errors import DecodeError, UserError
    from mvrec.inference.actions.detectors import TorchvisionDetector
    from mvrec.inference.actions.knobs import ActionKnobs
    from mvrec.inference.actions.results import ActionPrediction
    from mvrec.inference.explaining import Heat
    from mvrec.inference.model import Model, load
    from mvrec.inference.objects.knobs import ObjectKnobs
    from mvrec.inference.objects.results import ObjectPrediction
    from mvrec.inference.results import Features, Prediction
    from mvrec.inference.timeline.prediction import VideoSegments
    from mvrec.inference.timeline.segments import TimelineKnobs
    from mvrec.models import create_model
    from mvrec.script.running import Run, fit, test

__version__ = "0.1.0"

_HOMES = {
    "ActionKnobs": "inference.actions.knobs",
    "ActionPrediction": "inference.actions.results",
    "DecodeError": "errors",
    "Features": "inference.results",
    "Heat": "inference.explaining",
    "Model": "inference.model",
    "ObjectKnobs": "inference.objects.knobs",
    "ObjectPrediction": "inference.objects.results",
    "Prediction": "inference.results",
    "Run": "script.running",
    "TimelineKnobs": "inference.timeline.segments",
    "TorchvisionDetector": "inference.actions.detectors",
    "UserError": "errors",
    "VideoSegments": "inference.timeline.prediction",
    "create_model": "models",
    "fit": "script.running",
    "load": "inference.model",
    "open_video": "data",
    "read_image": "data",
    "test": "script.running",
}
_PACKAGES = ("data", "models", "tasks")

__all__ = [
    "ActionKnobs",
    "ActionPrediction",
    "DecodeError",
    "Features",
    "Heat",
    "Model",
    "ObjectKnobs",
    "ObjectPrediction",
    "Prediction",
    "Run",
    "TimelineKnobs",
    "TorchvisionDetector",
    "UserError",
    "VideoSegments",
    "create_model",
    "data",
    "fit",
    "load",
    "models",
    "open_video",
    "read_image",
    "tasks",
    "test",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"mvrec.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"mvrec.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
