"""The normalisation of pixels; as a setting it needs no torch, which is imported to normalise."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per RGB channel, on the scale 0..1."""

    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)

    def __post_init__(self) -> None:
        if not min(self.std) > 0:
            raise ValueError(f"std must be above 0, got {self.std}")

    def __call__(self, clips: "Tensor") -> "Tensor":
        """Convert uint8 (B, C, T, H, W) or (B, C, H, W) to normalised float32 of the same shape."""
        import torch

        shape = (1, 3) + (1,) * (clips.ndim - 2)
        offset, factor = _on_device(self, clips.device)
        return torch.addcmul(offset.view(shape), clips.float(), factor.view(shape))


@lru_cache(maxsize=16)
def _on_device(normalisation: Normalisation, device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """Return the summand and the factor of pixels, (3,) each; cached, because a copy waits for the device."""
    import torch

    with torch.inference_mode(False):
        mean, std = torch.tensor(normalisation.mean, device=device), torch.tensor(normalisation.std, device=device)
        return -mean / std, 1 / (255 * std)


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
