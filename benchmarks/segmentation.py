"""Segmentation on Shunted-S: our network with its head against the plain form of both, interleaved; prints ratios.

python benchmarks/segmentation.py [--quick] [--only {semantic_fpn,upernet}] [--repeats N] [--json [PATH]]

Images of 512 x 512 and 150 classes on one thread, float32: inference and training step (forward and backward of a
cross-entropy), CPU and wall seconds, and the memory of a training step; then the head alone on given maps, and its
share of the step. The peer is the network before `accelerate` with the same head in its plain form: torch's own layers.
With transformers installed, its UPerNet on Swin-T is a second peer, which has other weights and does other work.
"""

import argparse
from contextlib import nullcontext
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from networks.comparing import HEADER, Row, measure, measure_memory
from results.figures import Figures, add_option
from results.figures import Row as Figure
from torch import Tensor, nn

from mvrec import models
from mvrec.models.heads.resizing import as_papers_count
from mvrec.models.heads.segmentation import SegmentationHead

CLASSES, SIDE = 150, 512
GOALS = {"plain": 1.3, "transformers": 1.1}
ROWS = (Row(train=True, bf16=False, goal={}), Row(train=False, bf16=False, goal={}))


class Labelled(nn.Module):
    """A segmenter whose output in training is its loss, as the recipes have it.

    Args:
        network: From images to logits, or to logits and auxiliary ones.
        plain: Whether the head resizes maps before it convolves them, as its authors wrote it.
    """

    def __init__(self, network: nn.Module, *, plain: bool = False) -> None:
        super().__init__()
        self.network, self.plain = network, plain

    def forward(self, images: Tensor) -> Tensor:
        with as_papers_count() if self.plain else nullcontext():
            logits = self.network(images)
        if not self.training:
            return logits
        outputs = logits if isinstance(logits, tuple) else (logits,)
        masks = torch.arange(images.shape[-1]).expand(len(images), *images.shape[-2:]) % CLASSES
        losses = [F.cross_entropy(output, masks) for output in outputs]
        return torch.stack(losses).sum()


def ours(decoder: str, *, accelerated: bool) -> nn.Module:
    """Return Shunted-S with a head; both forms have the same weights."""
    torch.manual_seed(0)
    network = models.shunted_s(drop_path_rate=0.0)
    head = SegmentationHead(network.feature_info, CLASSES, decoder=decoder, dropout=0.0)
    network.place_head(head, CLASSES)
    return Labelled(models.accelerate(network) if accelerated else network, plain=not accelerated)


def swin() -> nn.Module:
    """Return transformers' UPerNet on Swin-T."""
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"], drop_path_rate=0.0)
    network = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=CLASSES))

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images).logits

    return Labelled(Logits())


class HeadAlone(nn.Module):
    """The head of a segmenter, on maps that are computed once."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            self.maps = [level.detach().requires_grad_() for level in network.feature_maps(images)]
        self.head = network.head

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.head(self.maps, images.shape[-2:])
        return sum(outputs) if isinstance(outputs, tuple) else outputs


def share_of_head(decoder: str, networks: dict[str, nn.Module], images: Tensor, row: Row, repeats: int) -> Figure:
    """Return the time of the head as a share of that of our whole network."""
    network = networks["mvrec"]
    parts = {"mvrec": HeadAlone(network.network, images), "whole": network}
    (figure,) = measure(f"head of {decoder}", parts, images, row, repeats, label=f"{row.label}, of the whole")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat at 128 x 128")
    parser.add_argument("--only", choices=("semantic_fpn", "upernet"), help="one head")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns after a warm-up")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    side, repeats = (128, 1) if options.quick else (SIDE, options.repeats)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    figures = Figures.of(options, "segmentation", packages=("torch", "transformers"))
    print(f"{figures.title}; 2 images of {side} x {side}, one thread; CPU seconds (wall seconds), medians\n")
    for decoder in [options.only] if options.only else ["semantic_fpn", "upernet"]:
        networks = {"mvrec": ours(decoder, accelerated=True), "plain": ours(decoder, accelerated=False)}
        with torch.no_grad():
            first, second = (network.eval()(images) for network in networks.values())
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
        name = f"shunted_s, {decoder}"
        print(f"{name}: logits equal the plain ones within {(first - second).abs().max():.1e}\n\n{HEADER}")
        peers = {"plain": networks["plain"]}
        if decoder == "upernet" and find_spec("transformers") is not None:
            peers["transformers"] = swin()
        for peer, network in peers.items():
            pair = {"mvrec": networks["mvrec"], peer: network}
            for row in ROWS:
                figures.add(*measure(name, pair, images, row._replace(goal={name: GOALS[peer]}), repeats))
        figures.add(*measure_memory(name, networks, images, None))
        figures.add(share_of_head(decoder, networks, images, ROWS[1], repeats))
        print()


if __name__ == "__main__":
    main()
