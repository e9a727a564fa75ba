"""MViT-B 16x4 and MViTv2-S 16x4 beside torchvision's and pytorchvideo's, interleaved in one process; prints ratios.

python benchmarks/mvit.py [--quick] [--only NAME] [--json PATH]

One clip of 16 x 224 x 224 on one thread: inference and training step (forward and backward), in float32 and under
bfloat16 autocast, CPU and wall seconds; then the bytes that a training step keeps for its backward pass, every storage
once and parameters not at all. All networks have the same weights and get the same clip; logits are compared first, and
in float64 the gradients. Stochastic depth and dropout are off: they take no time and draw differently.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import video

from mvrec import models
from mvrec.models import load_weights


class Row(NamedTuple):
    """A line of the table: what is measured, and the ratio that we want."""

    train: bool
    bf16: bool
    goal: dict[str, float]

    @property
    def what(self) -> str:
        return f"{'training step' if self.train else 'inference'}, {'bf16' if self.bf16 else 'fp32'}"


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


def randomise(network: nn.Module) -> None:
    """No weight stays at a value, such as zero or one, that hides a difference."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, parameter.mean().item(), 0.1)
        elif parameter.std() < 1e-3:
            nn.init.normal_(parameter, 0, 0.02)


def logits_and_gradient(network: nn.Module, clip: Tensor) -> tuple[Tensor, Tensor, float]:
    """Of a loss of the logits: its gradient for the clip, and the norm of that for all parameters."""
    clip = clip.clone().requires_grad_()
    out = network(clip)
    network.zero_grad()
    out.square().mean().backward()
    assert clip.grad is not None
    grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.stack([grad.double().norm() for grad in grads]).norm().item()
    network.zero_grad()
    return out.detach(), clip.grad, norm


def assert_equal(ours: nn.Module, peer: nn.Module, name: str, clip: Tensor) -> float:
    """With the peer's weights in ours; returns the largest difference of a logit."""
    randomise(peer)
    load_weights(ours, peer.state_dict())
    wide = [network.double().train() for network in (ours, peer)]
    # In float32 rounding decides which of two nearly equal tokens a max pooling takes, and so where gradients go.
    (out, grad, norm), (out_there, grad_there, norm_there) = (logits_and_gradient(net, clip.double()) for net in wide)
    torch.testing.assert_close(out, out_there, rtol=1e-8, atol=1e-9, msg=lambda text: f"{name}, logits: {text}")
    scale = grad_there.abs().max().item()
    torch.testing.assert_close(
        grad, grad_there, rtol=1e-6, atol=1e-7 * scale, msg=lambda text: f"{name}, gradient for the clip: {text}"
    )
    assert abs(norm / norm_there - 1) < 1e-6, f"{name}: the gradients' norms are {norm} and {norm_there}"
    for network in wide:
        network.float()
    with torch.no_grad():
        out, out_there = (network.eval()(clip) for network in (ours, peer))
    torch.testing.assert_close(out, out_there, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}, float32: {text}")
    return (out - out_there).abs().max().item()


# -- measuring -------------------------------------------------------------------------------------------------------


def step(network: nn.Module, clip: Tensor, row: Row) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=row.bf16), torch.set_grad_enabled(row.train):
        out = network(clip)
    if row.train:
        out.float().square().mean().backward()
        network.zero_grad()
    return time.process_time() - cpu, time.perf_counter() - wall


def kept_bytes(network: nn.Module, clip: Tensor, *, bf16: bool) -> int:
    """What a training step keeps for its backward pass, without the parameters and the clip themselves."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (clip, *network.parameters())}
    kept: dict[int, tuple[Tensor, int]] = {}  # with the tensor, so that its memory is not given to another one

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    network.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        out = network(clip)
    del out
    return sum(size for _, size in kept.values())


def measure(name: str, nets: dict[str, nn.Module], clip: Tensor, row: Row, repeats: int) -> dict[str, object]:
    """All networks in turn, several times; prints a line per peer."""
    times: dict[str, list[tuple[float, float]]] = {who: [] for who in nets}
    for network in nets.values():
        network.train(row.train)
    for repeat in range(repeats + 1):
        for who, network in nets.items():
            took = step(network, clip, row)
            if repeat:  # the first one warms up
                times[who].append(took)
    record: dict[str, object] = {"network": name, "what": row.what, "goal": row.goal.get(name), "seconds": times}
    medians = {who: [statistics.median(column) for column in zip(*pairs, strict=True)] for who, pairs in times.items()}
    fastest = min((who for who in nets if who != "mvrec"), key=lambda who: medians[who][0])
    for who in nets:
        if who == "mvrec":
            continue
        ratios = [there[0] / here[0] for here, there in zip(times["mvrec"], times[who], strict=True)]
        goal = f"{row.goal[name]:.1f}" if who == fastest and name in row.goal else ""
        print(
            f"| {name} | {row.what} | {who} | {medians['mvrec'][0]:.2f} ({medians['mvrec'][1]:.2f}) | "
            f"{medians[who][0]:.2f} ({medians[who][1]:.2f}) | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {goal} |",
            flush=True,
        )
        record[who] = statistics.median(ratios)
    return record


def measure_memory(name: str, nets: dict[str, nn.Module], clip: Tensor) -> dict[str, object]:
    """Bytes of every network; prints a line per peer."""
    record: dict[str, object] = {"network": name, "goal": MEMORY_GOAL.get(name)}
    for bf16 in (True, False):
        kept = {who: kept_bytes(network, clip, bf16=bf16) for who, network in nets.items()}
        kind = "bf16" if bf16 else "fp32"
        for who, size in kept.items():
            record[f"{who} {kind}"] = size
            if who != "mvrec":
                goal = f"{MEMORY_GOAL[name]:.1f}" if bf16 and name in MEMORY_GOAL else ""
                print(
                    f"| {name} | kept for the backward pass, {kind} | {who} | {kept['mvrec'] / 2**20:.0f} MiB | "
                    f"{size / 2**20:.0f} MiB | {size / kept['mvrec']:.2f} | | {goal} |",
                    flush=True,
                )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, and of MViT-B one peer")
    parser.add_argument("--only", choices=PEERS, help="one network")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0))
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
    machine += f"torchvision {torchvision.__version__}"
    print(f"{machine}; one clip 16 x 224 x 224, one thread; CPU seconds (wall seconds), medians\n")
    records: list[dict[str, object]] = []
    for name in [options.only] if options.only else PEERS:
        ours = getattr(models, name)(drop_path_rate=0.0, head_dropout=0.0)
        nets = {"mvrec": ours}
        for peer, build in PEERS[name].items():
            if options.quick and len(nets) == 2:
                continue
            nets[peer] = build()
            worst = assert_equal(ours, nets[peer], f"{name} and {peer}'s", clip)
            print(f"{name}: logits equal {peer}'s within {worst:.1e}; in float64 gradients are equal, too")
        print("\n| network | what | peer | mvrec | peer | ratio | from, to | goal |\n|---|---|---|---|---|---|---|---|")
        records += [measure(name, nets, clip, row, 1 if options.quick else 5) for row in ROWS]
        records.append(measure_memory(name, nets, clip))
        print()
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
