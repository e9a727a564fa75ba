"""What the simulator of a cluster is told: machines and training, with units, and presets."""

import math
import re
from dataclasses import dataclass, fields

SHARES = {"backward_share", "overlap_share"}
MAY_BE_ZERO = {
    "intra_latency_us", "inter_latency_us", "preemptions_per_day", "restart_seconds", "step_spread", "min_step_seconds",
    "global_batch", "gradient_bytes", "decode_cpu_seconds", "read_bytes", "num_shards", "checkpoint_seconds",
    "loader_start_seconds",
}  # fmt: skip
MUST_BE_FINITE = {"batch_per_gpu", "step_seconds", "gradient_bytes", "decode_cpu_seconds", "read_bytes", "videos"}


class Checked:
    """Values that no formula could use are refused, by name."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            least = "0 or more" if item.name in MAY_BE_ZERO else "above 0"
            if item.name in SHARES:
                good, least = 0 <= value <= 1, "from 0 to 1"
            else:
                good = value > 0 or (value == 0 and item.name in MAY_BE_ZERO)
            if good and item.name in MUST_BE_FINITE:
                good, least = math.isfinite(value), "finite"
            if not good:  # also NaN, which no comparison holds for
                raise ValueError(f"{item.name} must be {least}, got {value:g}")


@dataclass(frozen=True)
class Cluster(Checked):
    """The machines. The defaults are estimates for nodes of eight H100; only `node_mtbf_hours` has a published source.

    Attributes:
        gpus_per_node: GPUs of a node; smaller jobs lie on one node.
        cores_per_node: CPU cores of a node that may decode; a job on a part of a node gets its part of them.
        intra_gb_per_s: What a GPU sends to its neighbour in the node, in GB/s.
        intra_latency_us: Start of a message within a node, in microseconds.
        inter_gb_per_s: What a node sends to the next one over all its network cards together, in GB/s.
        inter_latency_us: Start of a message between nodes, in microseconds.
        storage_gb_per_s: What the shared storage delivers to all nodes together, in GB/s.
        node_storage_gb_per_s: What one node can take from it over its own link, in GB/s.
        node_mtbf_hours: Mean time between failures of one node, in hours; inf for none.
        preemptions_per_day: Stops of the job that a signal announces (preemption, time limit), per day of running.
        restart_seconds: From a failure to the first step again, without filling the loaders, in seconds.
    """

    gpus_per_node: int = 8
    cores_per_node: int = 96
    intra_gb_per_s: float = 300.0
    intra_latency_us: float = 5.0
    inter_gb_per_s: float = 200.0
    inter_latency_us: float = 15.0
    storage_gb_per_s: float = 40.0
    node_storage_gb_per_s: float = 5.0
    node_mtbf_hours: float = 2048 * 54 * 24 / 419  # Llama 3, arXiv 2407.21783: 419 unexpected stops of 2048 nodes
    preemptions_per_day: float = 1.0
    restart_seconds: float = 300.0


@dataclass(frozen=True)
class Training(Checked):
    """The work. The defaults are MViT-B 16x4 by `configs/mvit_b_16x4.yaml`; what is an estimate says so.

    Attributes:
        batch_per_gpu: Clips of a GPU in one batch, all views counted.
        global_batch: Clips of all GPUs in one batch, shared out among them; 0 to keep batch_per_gpu at any size.
        step_seconds: One batch of batch_per_gpu clips on one GPU, all-reduce left out, in seconds (estimate).
        min_step_seconds: What a batch of few clips takes at least: kernel launches, optimiser; in seconds (estimate).
        step_spread: Standard deviation of a GPU's time per batch, as a share of it (estimate).
        accumulate_batches: Batches between two all-reduces (trainer.accumulate_grad_batches).
        gradient_bytes: What is all-reduced: parameters times 4.
        gradient_buckets: Messages that DDP cuts the gradients into.
        backward_share: Share of a batch's time that is backward.
        overlap_share: Share of backward that all-reduce can hide behind (estimate).
        decode_cpu_seconds: CPU seconds of decoding and cropping one clip's file, opening included (measured).
        views_per_decode: Clips that one decoded file gives (data.repeats).
        read_bytes: Bytes that are read for one decoded file (estimate).
        workers_per_gpu: Loader processes of a GPU (data.num_workers).
        num_shards: Shards that are dealt out to loader processes whole; 0 where each file is dealt out, as by mvrec.
        checkpoint_seconds: Time that a checkpoint stops training, in seconds (estimate).
        loader_start_seconds: Until the loaders deliver, at every start, in seconds (estimate).
        videos: Files of an epoch.
        epochs: Epochs of the training.
    """

    batch_per_gpu: float = 16
    global_batch: float = 0
    step_seconds: float = 16 / 300
    min_step_seconds: float = 0.03
    step_spread: float = 0.02
    accumulate_batches: int = 1
    gradient_bytes: float = 4 * 36_610_672
    gradient_buckets: int = 7
    backward_share: float = 2 / 3
    overlap_share: float = 0.8
    decode_cpu_seconds: float = 0.0354
    views_per_decode: int = 2
    read_bytes: float = 0.6e6
    workers_per_gpu: int = 12
    num_shards: int = 0
    checkpoint_seconds: float = 5.0
    loader_start_seconds: float = 20.0
    videos: int = 240_000
    epochs: int = 200


PRESETS: dict[str, tuple[Cluster, Training]] = {
    "h100": (Cluster(), Training()),
    # 100 Gbit/s Ethernet, a plain NFS server, few cores, source files with key frames far apart (all but decode: EST).
    "modest": (
        Cluster(
            cores_per_node=32,
            inter_gb_per_s=10.0,
            inter_latency_us=40.0,
            storage_gb_per_s=2.0,
            node_storage_gb_per_s=1.0,
            node_mtbf_hours=2000.0,
            preemptions_per_day=4.0,
        ),
        Training(decode_cpu_seconds=0.0704, workers_per_gpu=4, checkpoint_seconds=15.0),
    ),
}


def explanations(kind: type) -> dict[str, str]:
    """What each attribute of a dataclass is, from its docstring."""
    return dict(re.findall(r"^ {8}(\w+): (.*)$", kind.__doc__ or "", flags=re.MULTILINE))
