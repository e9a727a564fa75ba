"""The tiny network of the recording of inference modes, from its recorded state dict, and the recording's inputs."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from golden_support import filled
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden" / "dense"


def load(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def weights(spec: dict[str, Any]) -> dict[str, Tensor]:
    entries = spec["state_dict"].items()
    return {
        key: filled(key, tuple(entry["shape"]), entry["rule"], torch.float32) * entry.get("scale", 1)
        for key, entry in entries
    }


class TinySegmenter:
    """Four convolutions, FPN and the head of Semantic FPN, written out.

    Args:
        state: The weights under the reference's names.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state, self.calls = state, 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        maps: list[Tensor] = []
        for i, (stride, padding) in enumerate(((4, 3), (2, 1), (2, 1), (2, 1))):
            maps.append(self._conv(maps[-1] if maps else pixels, f"backbone.convs.{i}", stride, padding).relu())
        levels = [self._conv(maps[i], f"neck.lateral_convs.{i}.conv", 1, 0) for i in range(4)]
        for i in (3, 2, 1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], levels[i - 1].shape[2:], mode="nearest")
        levels = [self._conv(levels[i], f"neck.fpn_convs.{i}.conv", 1, 1) for i in range(4)]
        total = self._scale_head(levels[0], 0, 1)
        for i in (1, 2, 3):
            total = total + _up(self._scale_head(levels[i], i, i), total.shape[2:])
        return _up(self._conv(total, "decode_head.conv_seg", 1, 0), pixels.shape[2:])

    def _conv(self, x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        state = self.state
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)

    def _scale_head(self, x: Tensor, level: int, convolutions: int) -> Tensor:
        for i in range(convolutions):
            name = f"decode_head.scale_heads.{level}.{2 * i}"
            mean, variance, weight, bias = (
                self.state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.batch_norm(self._conv(x, f"{name}.conv", 1, 1), mean, variance, weight, bias).relu()
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return x


def image_u8(height: int, width: int, seed: int) -> Tensor:
    """Squares of colour with noise: uint8 (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (3, -(-height // 8), -(-width // 8)), generator=generator)
    colours = colours.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    noise = torch.randint(-16, 17, (3, height, width), generator=generator)
    return (colours + noise).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def normalised(spec: dict[str, Any]) -> Tensor:
    """The recording's image, float (1, 3, H, W)."""
    image = image_u8(*spec["input"]["image"]["original_size"], spec["input"]["image"]["seed"]).permute(2, 0, 1).float()
    mean, std = (torch.tensor(spec["input"]["normalise"][key])[:, None, None] for key in ("mean", "std"))
    return ((image - mean) / std)[None]


def distance(values: Tensor, recorded: dict[str, Any]) -> float:
    """Largest difference of recorded numbers, in units of their deviation."""
    assert list(values.shape) == recorded["shape"]
    flat = values.double().flatten()
    places = [(j * 2654435761 + 12345) % len(flat) for j in range(len(recorded["sampled"]))]
    pairs = [(flat[place].item(), number) for place, number in zip(places, recorded["sampled"], strict=True)]
    pairs += [(flat.mean().item(), recorded["mean"]), (flat.std(unbiased=False).item(), recorded["std"])]
    return max(abs(number - other) for number, other in pairs) / recorded["std"]


def _up(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear")
