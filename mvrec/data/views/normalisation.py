"""The normalisation of pixels as a setting; needs no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        from mvrec.data.views.transforms import normalise  # torch, which protocols do not need

        return normalise(clips, self)


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
