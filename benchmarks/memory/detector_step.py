"""Peak memory and time of a training step of Mask R-CNN with MViTv2 at detection size.

    python benchmarks/memory/detector_step.py                                # with activation checkpointing
    python benchmarks/memory/detector_step.py --plain                        # without
    python benchmarks/memory/detector_step.py --global-attention --size 400 672   # without windows

Each form needs a process of its own, because the peak of a process never falls. The memory of Python and its libraries,
of the weights and of the optimiser is in it.
"""

import argparse
import resource
import time

import torch

from mvrec.models import create_model
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.results import ImageSize

GIB = 2**20  # of KiB


def targets_of(height: int, width: int, objects: int) -> list[dict[str, torch.Tensor]]:
    """Return random boxes whose masks fill them."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(objects, 2, generator=generator) * 0.6
    sides = 0.05 + torch.rand(objects, 2, generator=generator) * 0.35
    boxes = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height, width, height])
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return [{"boxes": boxes, "labels": torch.arange(objects) % 80, "masks": masks}]


def main() -> None:
    """Run a few steps on one image and print the peak and the seconds of the fastest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mvit_v2_t")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], help="height and width, multiples of 32")
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="without activation checkpointing")
    parser.add_argument("--global-attention", action="store_true", help="without windows")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(options.model, detection=not options.global_attention).train()
    model.place_head(DetectionHead(model.feature_info, 80, style="detectron2"), 80)
    model.set_activation_checkpointing(not options.plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    height, width = options.size
    x, targets = torch.randn(1, 3, height, width), targets_of(height, width, options.objects)
    seconds = []
    for _ in range(options.steps):
        start = time.process_time(), time.perf_counter()
        losses = model(x, [ImageSize(height, width)], targets)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        seconds.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    processor, wall = min(seconds)
    attention = "global attention" if options.global_attention else "windows"
    form = f"{attention}, {'without' if options.plain else 'with'} activation checkpointing"
    print(f"{options.model} {height} x {width}, {form}: peak {peak:.2f} GiB, {processor:.1f} CPU s, {wall:.1f} s")


if __name__ == "__main__":
    main()
