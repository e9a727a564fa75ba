"""MViT-B 16x4 and MViTv2-S 16x4 against torchvision's and pytorchvideo's, interleaved in one process; prints ratios.

python benchmarks/mvit.py [--quick] [--only NAME] [--fp32] [--json [PATH]]

One clip of 16 x 224 x 224 on one thread: inference and training step (forward and backward), in float32 and under
bfloat16 autocast, CPU and wall seconds; then the bytes that a training step keeps for its backward pass, every storage
once and parameters not at all, and by how much it raises the resident memory of the process. All networks have the same
weights and get the same clip; logits are compared first, and in float64 the gradients. Stochastic depth and dropout are
off: they take no time and draw differently.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from networks.comparing import HEADER, Row, assert_equal, measure, measure_memory
from results.figures import Figures, add_option
from torch import nn
from torchvision.models import video

from mvrec import models

ROWS = (
    Row(train=True, bf16=True, goal={"mvit_b_16x4": 1.6, "mvit_v2_s_16x4": 1.8}),
    Row(train=True, bf16=False, goal={"mvit_v2_s_16x4": 1.6}),
    Row(train=False, bf16=False, goal={"mvit_b_16x4": 1.5, "mvit_v2_s_16x4": 1.5}),
    Row(train=False, bf16=True, goal={"mvit_v2_s_16x4": 1.4}),
)
MEMORY_GOAL = {"mvit_b_16x4": 2.0}


def torchvision_v1() -> nn.Module:
    return video.mvit_v1_b(dropout=0.0, stochastic_depth_prob=0.0)


def torchvision_v2() -> nn.Module:
    return video.mvit_v2_s(dropout=0.0, stochastic_depth_prob=0.0)


def pytorchvideo_v1() -> nn.Module:
    with warnings.catch_warnings():  # its import uses deprecated parts of torch
        warnings.simplefilter("ignore")
        from pytorchvideo.models.hub import mvit_base_16x4
    network = mvit_base_16x4(pretrained=False, dropout_rate_block=0.0, droppath_rate_block=0.0, head_dropout_rate=0.0)
    for name, module in network.named_modules():  # the release pools with torch's epsilon, its weights with this one
        if isinstance(module, nn.LayerNorm) and ".norm_" in name:
            module.eps = 1e-6
    return network


PEERS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "mvit_b_16x4": {"torchvision": torchvision_v1, "pytorchvideo": pytorchvideo_v1},
    "mvit_v2_s_16x4": {"torchvision": torchvision_v2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, and of MViT-B one peer")
    parser.add_argument("--only", choices=PEERS, help="one network")
    parser.add_argument("--fp32", action="store_true", help="skip bf16, which some processors compute in software")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0))
    figures = Figures.of(options, "mvit", packages=("torch", "torchvision", "pytorchvideo"))
    print(f"{figures.title}; one clip 16 x 224 x 224, one thread; CPU seconds (wall seconds), medians\n")
    for name in [options.only] if options.only else PEERS:
        network = models.accelerate(getattr(models, name)(drop_path_rate=0.0, head_dropout=0.0))
        nets = {"mvrec": network}
        for peer, build in PEERS[name].items():
            if options.quick and len(nets) == 2:
                continue
            nets[peer] = build()
            worst = assert_equal(network, nets[peer], f"{name} and {peer}'s", clip)
            print(f"{name}: logits equal {peer}'s within {worst:.1e}; in float64 gradients are equal, too")
        print(f"\n{HEADER}")
        for row in (row for row in ROWS if not (row.bf16 and options.fp32)):
            figures.add(*measure(name, nets, clip, row, 1 if options.quick else 5))
        figures.add(*measure_memory(name, nets, clip, MEMORY_GOAL.get(name)))
        print()


if __name__ == "__main__":
    main()
