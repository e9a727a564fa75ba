"""torchvision's operations on pixels, imported when the first one is needed, since the import takes seconds."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    globals()[name] = found = InterpolationMode if name == "InterpolationMode" else getattr(functional, name)
    return found
