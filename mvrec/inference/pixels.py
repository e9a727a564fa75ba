"""Arrays of a caller as pixels uint8 (..., H, W, 3), or one line that says what is wrong with them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mvrec.errors import UserError

_WHITE = 1.001  # the most that scaled floats of 0..1 reach by rounding


def array_of(value: Any) -> npt.NDArray[Any]:
    """Return a tensor of any device, or an array of any library, as one of NumPy."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    return np.asarray(value)


def rgb_pixels(value: Any, *, axes: int, name: str, noun: str) -> npt.NDArray[np.uint8]:
    """Return pixels as uint8, checked.

    Floats of 0..1 are scaled, with a warning, and whole numbers of 0..255 are taken as they are.

    Args:
        value: An array or tensor, or a list of frames (H, W, 3).
        axes: 4 for a video (T, H, W, 3), 3 for an image (H, W, 3).
        name: Its name in messages.
        noun: "video" or "image".

    Returns:
        uint8 (T, H, W, 3) or (H, W, 3).

    Raises:
        UserError: The shape, type or range is not that of pixels.
    """
    array = _stacked(value, name) if isinstance(value, Sequence) else array_of(value)
    _check_shape(array, axes, f"{name}: a{'n' if noun == 'image' else ''} {noun}")
    return _uint8(array, f"{name}: {array.dtype} {array.shape}")


def _stacked(frames: Sequence[Any], name: str) -> npt.NDArray[Any]:
    arrays = [array_of(frame) for frame in frames]
    first = arrays[0] if arrays else np.empty(0)
    for number, array in enumerate(arrays):
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"{name}: the frames of a video have one size and type: frame 0 is {first.dtype} {first.shape}, frame "
                f"{number} is {array.dtype} {array.shape}"
            )
    return np.stack(arrays) if arrays else first


def _check_shape(array: npt.NDArray[Any], axes: int, subject: str) -> None:
    expected = "(T, H, W, 3)" if axes == 4 else "(H, W, 3)"
    fault = f"{subject} is an array {expected}, got {array.dtype} {array.shape}"
    if array.size == 0:
        raise UserError(f"{fault}: it is empty")
    if array.ndim == axes and array.shape[-1] == 3:
        return
    raise UserError(f"{fault}{_advice(array.shape, axes)}")


def _advice(shape: tuple[int, ...], axes: int) -> str:
    advice = ""
    if len(shape) == axes - 1:
        grey = ": grey pixels? repeat them: np.repeat(x[..., None], 3, axis=-1)"
        advice = ": a single frame? add an axis: x[None]" if shape[-1] == 3 else grey
    elif len(shape) != axes:
        pass
    elif shape[-1] == 1:
        advice = ": grey pixels? repeat them: np.repeat(x, 3, axis=-1)"
    elif shape[-1] == 4:
        advice = ": four channels? drop the last one: x[..., :3]"
    elif 3 in (first := shape[: axes - 2]):  # (C, H, W), (T, C, H, W) or (C, T, H, W)
        channel = len(first) - 1 - first[::-1].index(3)
        order = ", ".join(str(axis) for axis in (*(axis for axis in range(axes) if axis != channel), channel))
        advice = f": channels first? move them last: x.transpose({order}), of a tensor x.permute({order})"
    return advice


def _uint8(array: npt.NDArray[Any], subject: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise UserError(f"{subject} are no pixels: give uint8 in 0..255")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{subject} has values that are not finite: give uint8 in 0..255")
    if array.dtype.kind != "f" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind != "f" or not (low >= 0 and high <= _WHITE):
        normalised = ", as after normalising: undo that" if low < 0 else ""
        raise UserError(f"{subject} has values {low:g}..{high:g}{normalised}: give uint8 in 0..255, or floats in 0..1")
    warnings.warn(f"pixels of {array.dtype} in 0..1 are multiplied by 255: give uint8 to be exact", stacklevel=2)
    return np.rint(np.clip(array, 0, 1) * np.float32(255)).astype(np.uint8)
