"""Augmentation of the user's own: any function of frames, such as the transforms of torchvision.transforms.v2."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mvrec.class_paths import calling, path_of
from mvrec.errors import PartError
from mvrec.seeds import derive_seed

Transforms = list[Callable] | Callable  # of one clip to another; see `apply_own`


def apply_own(clip: Tensor, transforms: Transforms, *, key: str, seed: int, keep_size: bool = True) -> Tensor:
    """Apply augmentations of the user's to one clip or image, with the same random numbers for the same seed.

    Args:
        clip: (T, C, H, W), of images T is 1.
        transforms: One function or several in their order; each gets and returns such a tensor of the same type.
        key: Their key below `data.augment`.
        seed: Determines the random numbers of torch, numpy and `random`.
        keep_size: Whether H and W must stay.

    Raises:
        PartError: An augmentation raises an exception, or returns something else.
    """
    where = f"data.augment.{key}"
    with _seeded(derive_seed(key, seed), clip.device):
        for transform in transforms if isinstance(transforms, list) else [transforms]:
            with calling(where, transform, note=f"on {clip.dtype} (T, C, H, W) = {tuple(clip.shape)}"):
                changed = transform(clip)
            _check(changed, clip, f"{where}: {path_of(transform)}", keep_size=keep_size)
            clip = changed
    return clip


def own_frames(frames: np.ndarray, transforms: Transforms, *, seed: int) -> np.ndarray:
    """Apply augmentations of the user's to whole frames uint8 (T, H, W, C), before the crop."""
    clip = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)  # a copy: several views share the frames
    changed = apply_own(clip, transforms, key="before_crop", seed=seed, keep_size=False)
    return changed.permute(0, 2, 3, 1).numpy()


def own_on_device(clips: Tensor, seeds: Tensor, transforms: Transforms) -> Tensor:
    """Apply augmentations of the user's to each clip of a batch.

    Args:
        clips: Normalised float (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,) on the CPU.
        transforms: See `apply_own`.
    """
    augmented = []
    for clip, seed in zip(clips, seeds.tolist(), strict=True):
        frames = clip.transpose(0, 1) if clip.ndim == 4 else clip[None]  # (T, C, H, W)
        frames = apply_own(frames, transforms, key="on_device", seed=seed)
        augmented.append(frames.transpose(0, 1) if clip.ndim == 4 else frames[0])
    return torch.stack(augmented)


def _check(changed: object, clip: Tensor, name: str, *, keep_size: bool) -> None:
    expected = tuple(clip.shape) if keep_size else (*clip.shape[:2], "H", "W")
    if not isinstance(changed, Tensor):
        raise PartError(f"{name} returned a {type(changed).__name__}, expected a tensor (T, C, H, W) = {expected}")
    axes = 4 if keep_size else 2
    if changed.dtype != clip.dtype or changed.ndim != 4 or changed.shape[:axes] != clip.shape[:axes]:
        shape = tuple(changed.shape)
        raise PartError(f"{name} returned {changed.dtype} {shape}, expected {clip.dtype} (T, C, H, W) = {expected}")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, numpy and `random` for a while."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - what augmentations of others use
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
