"""RandAugment with PIL, image by image, as the recipes' own codes do it."""

import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from mvrec.data.views.rand_augment import MAX_MAGNITUDE, RandAugment


def rand_augment_pil(images: list[Image.Image], recipe: RandAugment, rng: random.Random) -> list[Image.Image]:
    """Return the operations that mvrec draws from the same `rng`, image by image with PIL."""
    for name in rng.choices(list(PIL_OPERATIONS), k=recipe.num_ops):
        if rng.random() >= recipe.probability:
            continue
        strength = min(max(rng.gauss(recipe.magnitude, recipe.magnitude_std), 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
        sign = 1.0
        if name in SIGNED:
            sign = -1.0 if rng.random() < 0.5 else 1.0
        operation = PIL_OPERATIONS[name]
        images = [operation(image, strength, sign, recipe.fill) for image in images]
    return images


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: tuple[int, int, int]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)


def _brighter_darks(strength: float) -> list[int]:
    return [min(255, level + int(110 * strength)) if level < 128 else level for level in range(256)] * 3


def _enhanced(kind: Any) -> Callable:
    return lambda image, s, sign, fill: kind(image).enhance(max(0.1, 1 + 0.9 * s * sign))


# In the order of mvrec's table, so that the same draws mean the same operations.
PIL_OPERATIONS: dict[str, Callable[[Image.Image, float, float, tuple[int, int, int]], Image.Image]] = {
    "auto_contrast": lambda image, s, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, s, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, s, sign, fill: ImageOps.invert(image),
    "rotate": lambda image, s, sign, fill: image.rotate(-30 * s * sign, Image.Resampling.BILINEAR, fillcolor=fill),
    "posterize": lambda image, s, sign, fill: ImageOps.posterize(image, 4 - int(4 * s)),
    "solarize": lambda image, s, sign, fill: ImageOps.solarize(image, 256 - int(256 * s)),
    "solarize_add": lambda image, s, sign, fill: image.point(_brighter_darks(s)),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image, s, sign, fill: _affine(image, (1, 0.3 * s * sign, 0, 0, 1, 0), fill),
    "shear_y": lambda image, s, sign, fill: _affine(image, (1, 0, 0, 0.3 * s * sign, 1, 0), fill),
    "translate_x": lambda image, s, sign, fill: _affine(image, (1, 0, -0.45 * s * sign * image.width, 0, 1, 0), fill),
    "translate_y": lambda image, s, sign, fill: _affine(image, (1, 0, 0, 0, 1, -0.45 * s * sign * image.height), fill),
}
SIGNED = {"rotate", "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"}
