"""torchvision's operations on pixels, imported on first use, because the import takes seconds."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    globals()[name] = value = InterpolationMode if name == "InterpolationMode" else getattr(functional, name)
    return value
