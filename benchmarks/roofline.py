"""The time of a network next to that of its products and its memory traffic alone; prints a table.

python benchmarks/roofline.py [--quick] [--only NAME] [--json [PATH]]

Inference and training step (forward and backward) in float32 on one thread. Every operation of a step is recorded, of
our network and of its peer: the products (linear layers, convolutions, attention) with their shapes, and the bytes that
all others read and write. Then each product runs alone, and the bytes are divided by the speed of a large copy. The sum
is the least time of these operations; the peer's time divided by it is the highest ratio that is left to gain without
other operations.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from image_networks import pair
from mvit import PEERS
from networks.comparing import Row as Step
from networks.comparing import step
from results.figures import Figures, Row, add_option
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mvrec import models

IMAGES = ("shunted_t", "sgformer_s", "cloformer_xxs", "mvit_v2_s")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "attention", "_conv_depthwise")
REPEATS = 3
COPIED = 2**28  # bytes, far above all caches


class Recorder(TorchDispatchMode):
    """Counts the products of a step by what they are called with, and the bytes of all other operations.

    Attributes:
        products: The number of calls by operation and arguments, tensors as (shape, strides, type).
        bytes: Read and written by other operations, views not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Any, str]] = Counter()
        self.arguments: dict[tuple[Any, str], tuple[Any, Any]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if any(part in name for part in PRODUCTS):
            call = pytree.tree_map_only(Tensor, Described.of, (args, kwargs or {}))
            key = (func, repr(call))
            self.products[key] += 1
            self.arguments[key] = call
        elif not func.is_view:
            self.bytes += sum(_size(part) for part in pytree.tree_leaves((args, kwargs, out)) if _is_dense(part))
        return out


@dataclass(frozen=True)
class Described:
    """A tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    is_packed: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "Described":
        strides = () if tensor.is_mkldnn else tuple(tensor.stride())
        return cls(tuple(tensor.shape), strides, tensor.dtype, tensor.is_mkldnn)

    def made(self) -> Tensor:
        """Return such a tensor of random values."""
        if self.is_packed:
            return torch.randn(self.shape, dtype=self.dtype).to_mkldnn()
        tensor = torch.empty_strided(self.shape, self.strides, dtype=self.dtype)
        return tensor.normal_() if self.dtype.is_floating_point else tensor.zero_()


def _is_dense(part: Any) -> bool:
    return isinstance(part, Tensor) and not part.is_mkldnn


def _size(tensor: Tensor) -> int:
    """Return the bytes that a tensor covers; a value that is expanded is read once."""
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size()) * tensor.element_size()


def least_of(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of the fastest of some calls."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def copy_speed() -> float:
    """Return bytes per second of a large copy, read and written ones."""
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    return 2 * COPIED / least_of(lambda: target.copy_(source))


def roof(network: nn.Module, clip: Tensor, row: Step, speed: float) -> tuple[float, float]:
    """Return the seconds of all products alone, and of the bytes of all other operations at the speed of a copy."""
    with Recorder() as recorder:
        step(network, clip, row)
    products = 0.0
    for (func, described), count in recorder.products.items():
        args, kwargs = pytree.tree_map_only(Described, Described.made, recorder.arguments[func, described])
        with torch.no_grad():
            products += count * least_of(lambda f=func, a=args, k=kwargs: f(*a, **k))
    return products, recorder.bytes / speed


def cases(names: list[str]) -> Iterator[tuple[str, dict[str, nn.Module], Tensor]]:
    """Yield names, the two networks and their input."""
    generator = torch.Generator().manual_seed(0)
    for name in names:
        if name in IMAGES:
            yield name, pair(name), torch.randn(8, 3, 224, 224, generator=generator)
            continue
        network = models.accelerate(getattr(models, name)(drop_path_rate=0.0, head_dropout=0.0))
        nets = {"mvrec": network, "torchvision": PEERS[name]["torchvision"]()}
        yield name, nets, torch.randn(1, 3, 16, 224, 224, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small network")
    parser.add_argument("--only", choices=(*IMAGES, *PEERS), help="one network")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = Figures.of(options, "roofline", packages=("torch", "torchvision", "timm"))
    speed = copy_speed()
    print(f"{figures.title}; a copy reads and writes {speed / 1e9:.1f} GB/s on one thread; CPU seconds\n")
    columns = ("network", "what", "mvrec", "its products alone", "the rest as bytes", "peer", "ratio", "highest ratio")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    names = [options.only] if options.only else ["cloformer_xxs"] if options.quick else [*PEERS, *IMAGES]
    for name, nets, clip in cases(names):
        (peer,) = (library for library in nets if library != "mvrec")
        for train in (False, True):
            row = Step(train=train, bf16=False, goal={})
            for network in nets.values():
                step(network.train(train), clip, row)
            seconds: dict[str, list[float]] = {library: [] for library in nets}
            for _ in range(1 if options.quick else REPEATS):
                for library, network in nets.items():
                    seconds[library].append(step(network, clip, row)[0])
            best, peer_best = min(seconds["mvrec"]), min(seconds[peer])
            products, rest = roof(nets["mvrec"], clip, row, speed)
            highest = peer_best / (products + rest)
            values = (best, products, rest, peer_best, peer_best / best, highest)
            print(f"| {name} | {row.label} | {' | '.join(f'{value:.2f}' for value in values)} |", flush=True)
            more = {"its products alone": f"{products:.2f} s", "the rest as bytes": f"{rest:.2f} s"}
            more["highest ratio"] = f"{highest:.2f}"
            ratio = peer_best / best
            figures.add(Row(name, row.label, peer, best, peer_best, "CPU s", ratio=ratio, more=more))


if __name__ == "__main__":
    main()
