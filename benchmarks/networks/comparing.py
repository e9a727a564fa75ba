"""Networks with the same weights and the same input, interleaved in one process on one thread."""

import ctypes
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from results import figures
from torch import Tensor, nn

from mvrec.models import load_weights

HEADER = "| network | what | peer | mvrec | peer | ratio | from, to | goal |\n|---|---|---|---|---|---|---|---|"


class Row(NamedTuple):
    """A line of the table: the measurement and its goal."""

    train: bool
    bf16: bool
    goal: dict[str, float]

    @property
    def label(self) -> str:
        return f"{'training step' if self.train else 'inference'}, {'bf16' if self.bf16 else 'fp32'}"


def randomise(network: nn.Module) -> None:
    """Randomise all weights, because values such as zero or one hide differences."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1 or parameter.numel() == 1:
            nn.init.normal_(parameter, parameter.mean().item(), 0.1)
        elif parameter.std() < 1e-3:
            nn.init.normal_(parameter, 0, 0.02)


def logits_and_gradient(network: nn.Module, clip: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the logits, and for a loss of them its gradient for the clip and the norm of all gradients."""
    clip = clip.clone().requires_grad_()
    out = network(clip)
    network.zero_grad()
    out.square().mean().backward()
    assert clip.grad is not None
    grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.stack([grad.double().norm() for grad in grads]).norm().item()
    network.zero_grad()
    return out.detach(), clip.grad, norm


def assert_equal(network: nn.Module, peer: nn.Module, name: str, clip: Tensor, *, atol: float = 1e-5) -> float:
    """Load the peer's weights, compare both, and return the largest difference of a logit.

    Args:
        network: Our network.
        peer: The other network.
        name: Name of the pair, for messages.
        clip: The input of both.
        atol: Tolerance of logits in float32, in which networks that sort decide between near ties.
    """
    randomise(peer)
    load_weights(network, peer.state_dict())
    wide = [module.double().train() for module in (network, peer)]
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
        out, out_there = (module.eval()(clip) for module in (network, peer))
    torch.testing.assert_close(out, out_there, rtol=1e-4, atol=atol, msg=lambda text: f"{name}, float32: {text}")
    return (out - out_there).abs().max().item()


# -- measuring -------------------------------------------------------------------------------------------------------


def step(network: nn.Module, clip: Tensor, row: Row) -> tuple[float, float]:
    """Return CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=row.bf16), torch.set_grad_enabled(row.train):
        out = network(clip)
    if row.train:
        out.float().square().mean().backward()
        network.zero_grad()
    return time.process_time() - cpu, time.perf_counter() - wall


def kept_bytes(network: nn.Module, clip: Tensor, *, bf16: bool = False) -> int:
    """Count the bytes kept for the backward pass, every storage once, without the network and the clip."""
    excluded = {part.untyped_storage().data_ptr() for part in (clip, *network.parameters(), *network.buffers())}
    storages: dict[int, tuple[Tensor, int]] = {}  # with the tensor, so that its memory is not reused

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = tensor.detach(), storage.nbytes()  # attached, it would keep the graph

    network.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda _: None),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        out = network(clip)
    del out
    return sum(size for _, size in storages.values())


def resident_bytes(network: nn.Module, clip: Tensor, row: Row) -> int:
    """Return the increase of a process's peak resident memory by a step; Linux only."""
    network.train(row.train)
    ctypes.CDLL(None).malloc_trim(0)  # free memory that was not returned would hide a part
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    step(network, clip, row)
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measure(
    name: str,
    nets: dict[str, nn.Module],
    clip: Tensor,
    row: Row,
    repeats: int,
    *,
    label: str | None = None,
    against: str | None = None,
) -> list[figures.Row]:
    """Measure all networks in turn, several times; print and return a line per peer.

    Args:
        name: Name of the network.
        nets: "mvrec" and the peers.
        clip: Their input.
        row: The measured step.
        repeats: Number of repeats, after a warm-up.
        label: The label of the line; the row's by default.
        against: The peer of the goal; the fastest one by default.
    """
    times: dict[str, list[tuple[float, float]]] = {library: [] for library in nets}
    for network in nets.values():
        network.train(row.train)
    for repeat in range(repeats + 1):
        for library, network in nets.items():
            took = step(network, clip, row)
            if repeat:
                times[library].append(took)
    label = label or row.label
    medians = {
        library: [statistics.median(column) for column in zip(*pairs, strict=True)] for library, pairs in times.items()
    }
    peers = [library for library in nets if library != "mvrec"]
    against = against or min(peers, key=lambda peer: medians[peer][0])
    rows = []
    for peer in peers:
        ratios = [other[0] / mvrec[0] for mvrec, other in zip(times["mvrec"], times[peer], strict=True)]
        goal = row.goal.get(name) if peer == against else None
        print(
            f"| {name} | {label} | {peer} | {medians['mvrec'][0]:.3g} ({medians['mvrec'][1]:.3g}) | "
            f"{medians[peer][0]:.3g} ({medians[peer][1]:.3g}) | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {'' if goal is None else f'{goal:.1f}'} |",
            flush=True,
        )
        rows.append(
            figures.Row(name, label, peer=peer, mvrec=medians["mvrec"][0], other=medians[peer][0], unit="CPU s",
                        ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), goal=goal)
        )  # fmt: skip
    return rows


def measure_memory(
    name: str,
    nets: dict[str, nn.Module],
    clip: Tensor,
    goal: float | None,
    *,
    autocast: tuple[bool, ...] = (True, False),
) -> list[figures.Row]:
    """Measure the bytes that training steps of every network keep, and peak resident memory; return a line per peer.

    Args:
        name: Name of the network.
        nets: "mvrec" and the peers.
        clip: Their input.
        goal: The ratio to reach of the bytes that a step under autocast keeps.
        autocast: Whether bfloat16 autocast is on, for each measured step.
    """
    rows = []
    for bf16 in autocast:
        row = Row(train=True, bf16=bf16, goal={})
        stored = {library: kept_bytes(network, clip, bf16=bf16) for library, network in nets.items()}
        resident = {library: resident_bytes(network, clip, row) for library, network in nets.items()}
        for label, sizes in (("kept for the backward pass", stored), ("peak of resident memory", resident)):
            label += ", bf16" if bf16 else ", fp32"
            limit = goal if bf16 and sizes is stored else None
            mib = {library: size / 2**20 for library, size in sizes.items()}
            for peer in mib:
                if peer != "mvrec":
                    print(
                        f"| {name} | {label} | {peer} | {mib['mvrec']:.0f} MiB "
                        f"| {mib[peer]:.0f} MiB | {mib[peer] / mib['mvrec']:.2f} | | {limit or ''} |",
                        flush=True,
                    )
                    rows.append(
                        figures.Row(name, label, peer=peer, mvrec=mib["mvrec"], other=mib[peer], unit="MiB",
                                    ratio=mib[peer] / mib["mvrec"], goal=limit)
                    )  # fmt: skip
    return rows
