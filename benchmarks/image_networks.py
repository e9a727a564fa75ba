"""Our image networks against their plain form, and MViTv2 against timm's, interleaved in one process; prints ratios.

python benchmarks/image_networks.py [--quick] [--only NAME] [--no_compile] [--batch N] [--threads N] [--fp32]
                                    [--json [PATH]]

Images of 224 x 224, on one thread by default: inference and training step (forward and backward), in float32 and under
bfloat16 autocast, CPU and wall seconds, and the memory of a training step. The plain form is the same network before
`accelerate`: torch's own layers and its fused attention, and copies where a layer needs another layout. Compiled means
`torch.compile` of ours against the plain form as it is, and against that compiled, too. All networks have the same
weights and get the same images; logits are compared first, and in float64 the gradients.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import timm
import torch
from networks.comparing import HEADER, Row, assert_equal, measure, measure_memory
from results.figures import Figures, add_option
from torch import nn

from mvrec import models

PLAIN = ("shunted_t", "shunted_s", "sgformer_s", "cloformer_xxs", "cloformer_xs")
TIMM = {"mvit_v2_s": "mvitv2_small"}
NAMES = (*PLAIN, *TIMM)
ROWS = (
    Row(train=True, bf16=True, goal=dict.fromkeys(NAMES, 1.1)),
    Row(train=True, bf16=False, goal=dict.fromkeys(NAMES, 1.3)),
    Row(train=False, bf16=False, goal=dict.fromkeys(NAMES, 1.4)),
    Row(train=False, bf16=True, goal={}),
)
COMPILED = Row(train=False, bf16=False, goal=dict.fromkeys(NAMES, 1.4))


def pair(name: str) -> dict[str, nn.Module]:
    """Return our network and its peer."""
    build: Callable[..., nn.Module] = getattr(models, name)
    network = models.accelerate(build(drop_path_rate=0.0))
    if name in TIMM:
        return {"mvrec": network, "timm": timm.create_model(TIMM[name], drop_path_rate=0.0)}
    return {"mvrec": network, "plain": build(drop_path_rate=0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one network of the smallest kind, one repeat, 2 images")
    parser.add_argument("--only", choices=NAMES, help="one network")
    parser.add_argument("--no_compile", action="store_true", help="skip compiled networks, which take minutes")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images at a time")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch")
    parser.add_argument("--fp32", action="store_true", help="skip bf16, which some processors compute in software")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch, repeats = (2, 1) if options.quick else (options.batch, 7)
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    figures = Figures.of(options, "image_networks", packages=("torch", "timm"))
    where = f"{batch} images of 224 x 224, {options.threads} threads"
    print(f"{figures.title}; {where}; CPU seconds (wall seconds), medians\n")
    for name in [options.only] if options.only else ["cloformer_xxs"] if options.quick else NAMES:
        nets = pair(name)
        (peer,) = (library for library in nets if library != "mvrec")
        # SG-Former sorts tokens: in float32 rounding turns the order of some, in float64 of none.
        atol = 1e-2 if name.startswith("sgformer") else 1e-5
        worst = assert_equal(nets["mvrec"], nets[peer], f"{name} and the {peer} one", images, atol=atol)
        print(f"{name}: logits equal the {peer} ones within {worst:.1e}; in float64 gradients are equal, too")
        print(f"\n{HEADER}")
        for row in (row for row in ROWS if not (row.bf16 and options.fp32)):
            figures.add(*measure(name, nets, images, row, repeats))
        figures.add(*measure_memory(name, nets, images, None))
        if not (options.no_compile or options.quick):
            compiled = {library: torch.compile(network.eval()) for library, network in nets.items()}
            nets = {"mvrec": compiled["mvrec"], peer: nets[peer], f"{peer}, compiled": compiled[peer]}
            label = "inference, fp32, ours compiled and the peer not"
            alone, both = measure(name, nets, images, COMPILED, repeats, label=label, against=peer)
            figures.add(alone, replace(both, peer=peer, measure="inference, fp32, both compiled"))
        print()


if __name__ == "__main__":
    main()
