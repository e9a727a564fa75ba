"""MViT-B 16x4 and MViTv2-S 16x4 beside torchvision's, interleaved in one process; prints ratios.

python benchmarks/mvit.py [--quick] [--bf16] [--train]
"""

import argparse
import statistics
import time

import torch
from torchvision.models import video as peers

from mvrec import models

PAIRS = {"mvit_b_16x4": "mvit_v1_b", "mvit_v2_s_16x4": "mvit_v2_s"}


def seconds(model: torch.nn.Module, clip: torch.Tensor, *, train: bool, bf16: bool) -> float:
    """CPU seconds of one step."""
    begin = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.set_grad_enabled(train):
        out = model(clip)
    if train:
        out.float().square().mean().backward()
        model.zero_grad()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two repeats instead of seven")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--train", action="store_true", help="forward and backward instead of inference")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 16, 224, 224)
    print(
        f"torch {torch.__version__}, one thread, one clip, {'bf16' if options.bf16 else 'fp32'}, "
        f"{'training step' if options.train else 'inference'}"
    )
    for ours, theirs in PAIRS.items():
        pair = [getattr(models, ours)().train(options.train), getattr(peers, theirs)().train(options.train)]
        times: list[list[float]] = [[], []]
        for repeat in range(3 if options.quick else 8):
            for network, kept in zip(pair, times, strict=True):
                step = seconds(network, clip, train=options.train, bf16=options.bf16)
                if repeat:  # the first one warms up
                    kept.append(step)
        ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(*times, strict=True)]
        print(
            f"{ours}: mvrec {statistics.median(times[0]):.2f} s, torchvision {statistics.median(times[1]):.2f} s, "
            f"torchvision/mvrec {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
