"""JPEG file -> random crop, scaled to 224 pixels: mvrec and Pillow, interleaved in one process; prints ratios.

The files are generated, in the size and quality of ImageNet's and of a camera's.

python benchmarks/images.py [--quick] [--json [PATH]]
"""

import argparse
import io
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results.figures import Figures, Row, add_option

from mvrec.data.loading.images import read_image
from mvrec.data.views.geometry import random_crop_box
from mvrec.data.views.transforms import Augment, crop_and_resize

SIZE = 224
GOAL = 2.0
AUGMENT = Augment(interpolation="bicubic")


def picture(height: int, width: int) -> Image.Image:
    """Draw waves of several lengths under sensor noise: about as many bytes as a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17 + y / 23), np.cos(x / 31 - y / 13), np.sin((x + y) / 7)]
    pixels = 127 + 70 * np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def ours(path: Path, seed: int) -> torch.Tensor:
    """Do what `TrainImages` does before flip and RandAugment."""
    pixels = read_image(path, upright=False)
    box = random_crop_box(*pixels.shape[:2], AUGMENT, random.Random(seed))
    return crop_and_resize(pixels[None], box, (SIZE, SIZE), interpolation="bicubic")


def pillow(path: Path, seed: int) -> torch.Tensor:
    """Do what torchvision's and timm's loaders do with the same box."""
    with path.open("rb") as file:
        image = Image.open(file).convert("RGB")
    box = random_crop_box(image.height, image.width, AUGMENT, random.Random(seed))
    cut = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    scaled = cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]


def measure(path: Path, *, repeats: int) -> dict[str, float]:
    """Return medians of CPU milliseconds per image of both, and the difference of their pixels."""
    times: dict[str, list[float]] = {"mvrec": [], "Pillow": []}
    differences = []
    for seed in range(repeats):
        results = {}
        for name, function in (("mvrec", ours), ("Pillow", pillow)):
            begin = time.process_time()
            results[name] = function(path, seed)
            if seed:  # the first seed is a warm-up
                times[name].append(1000 * (time.process_time() - begin))
        differences.append((results["mvrec"].int() - results["Pillow"].int()).abs())
    assert np.array_equal(read_image(path), np.asarray(Image.open(path))), "decoded pixels differ"
    greatest = max(int(difference.max()) for difference in differences)
    assert greatest <= 2, f"scaled pixels differ by {greatest} levels"
    ratios = [pillow_ms / mvrec_ms for mvrec_ms, pillow_ms in zip(*times.values(), strict=True)]
    return {
        "mvrec_ms": statistics.median(times["mvrec"]),
        "pillow_ms": statistics.median(times["Pillow"]),
        "ratio": statistics.median(times["Pillow"]) / statistics.median(times["mvrec"]),
        "ratio_low": statistics.quantiles(ratios, n=20)[0],
        "ratio_high": statistics.quantiles(ratios, n=20)[-1],
        "largest_difference_levels": greatest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 repeats instead of 300")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = Figures.of(options, "images", packages=("torch", "torchvision", "Pillow", "simplejpeg"))
    print(f"JPEG -> random resized crop {SIZE}, bicubic; one thread, {measured.title}")
    with tempfile.TemporaryDirectory() as folder:
        for height, width in ((375, 500), (1200, 1600)):
            content = io.BytesIO()
            picture(height, width).save(content, "JPEG", quality=90)
            path = Path(folder) / f"{height}.jpg"
            path.write_bytes(content.getvalue())
            figures = measure(path, repeats=20 if options.quick else 300)
            measured.add(
                Row(f"{width}x{height}", f"JPEG, random resized crop {SIZE}", peer="Pillow", mvrec=figures["mvrec_ms"],
                    other=figures["pillow_ms"], unit="CPU ms", ratio=figures["ratio"], low=figures["ratio_low"],
                    high=figures["ratio_high"], goal=GOAL)
            )  # fmt: skip
            print(
                f"{width}x{height}, {len(content.getvalue()) // 1000} kB: mvrec {figures['mvrec_ms']:.2f} ms "
                f"({1000 / figures['mvrec_ms']:.0f} images/s/core), Pillow {figures['pillow_ms']:.2f} ms; Pillow/mvrec "
                f"{figures['ratio']:.2f} (5 % to 95 %: {figures['ratio_low']:.2f} to {figures['ratio_high']:.2f}); "
                f"decoded pixels equal, scaled ones within {figures['largest_difference_levels']} levels"
            )


if __name__ == "__main__":
    main()
