"""Clips per second of synchronous data-parallel training, in closed form: compute, all-reduce, stragglers, supply."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from scaling.parameters import Cluster, Training


@dataclass(frozen=True)
class Speed:
    """What a cluster does with its GPUs while nothing fails.

    Attributes:
        gpus: GPUs of the job.
        clips_per_second: Of all GPUs together.
        efficiency: Share of what as many GPUs would do that never wait for anything.
        bottleneck: compute, all-reduce, decode cores, storage or network: what takes the longest in a step.
        seconds: What each of these would take for one step (of `accumulate_batches` batches), were it alone; the
            all-reduce's is the part that backward does not hide.
        step_clips: Clips of one optimiser step.
    """

    gpus: int
    clips_per_second: float
    efficiency: float
    bottleneck: str
    seconds: dict[str, float]
    step_clips: float


def ring_all_reduce(processes: int, size: float, *, latency: float, bandwidth: float, messages: int = 1) -> float:
    """Return seconds of a ring all-reduce: `2 (p - 1) alpha + 2 (p - 1) / p * n / bandwidth`.

    Reduce-scatter and all-gather, p - 1 rounds each, in which every process sends n / p bytes to its neighbour: Thakur,
    Rabenseifner and Gropp 2005 (doi 10.1177/1094342005051521), and Patarasu and Yuan 2009
    (doi 10.1016/j.jpdc.2008.09.002), who show that no algorithm sends fewer bytes. Adding numbers costs nothing here.

    Args:
        processes: p.
        size: n, bytes of every process, of all messages together.
        latency: alpha, seconds.
        bandwidth: Bytes per second; infinity is allowed.
        messages: Pieces that n is cut into; each pays the latency.
    """
    rounds = 2 * (processes - 1)
    return messages * rounds * latency + rounds / processes * size / bandwidth


def all_reduce(gpus: int, cluster: Cluster, training: Training) -> float:
    """Return seconds of the hierarchical all-reduce of all gradients.

    Reduce-scatter in the node, then every GPU all-reduces its share with the GPUs of the same place on the other nodes,
    all of which go through the node's network at the same time, then all-gather in the node. The two halves in the node
    cost as much as one ring all-reduce there.
    """
    local = min(gpus, cluster.gpus_per_node)
    inside = ring_all_reduce(
        local,
        training.gradient_bytes,
        latency=1e-6 * cluster.intra_latency_us,
        bandwidth=1e9 * cluster.intra_gb_per_s,
        messages=training.gradient_buckets,
    )
    between = ring_all_reduce(
        num_nodes(gpus, cluster),
        training.gradient_bytes / local,
        latency=1e-6 * cluster.inter_latency_us,
        bandwidth=1e9 * cluster.inter_gb_per_s / local,
        messages=training.gradient_buckets,
    )
    return inside + between


def num_nodes(gpus: int, cluster: Cluster) -> int:
    """Return nodes of a job, the last of which may be partly used."""
    return math.ceil(gpus / cluster.gpus_per_node)


def slowest_of(processes: int) -> float:
    """How many standard deviations the slowest of n normal times lies above their mean, on average.

    Blom 1958: the quantile of the normal distribution at `(n - 3/8) / (n + 1/4)`. A formula instead of random numbers,
    because it is smooth in n, so that tables are, and costs nothing; it is 0 for n = 1, and at most 5 % from drawn
    numbers, at n = 2. Times with a heavier tail than the normal distribution's need a larger `step_spread`.
    """
    return NormalDist().inv_cdf((processes - 0.375) / (processes + 0.25))


def shard_balance(num_shards: int, readers: int) -> float:
    """Share of full speed at which readers work that each take whole shards: the fullest takes `ceil(shards / n)`."""
    if num_shards == 0:
        return 1.0
    return num_shards / (readers * math.ceil(num_shards / readers))


def supply(gpus: int, cluster: Cluster, training: Training) -> dict[str, float]:
    """Return clips per second that decoding, the storage and the nodes' links to it could each deliver."""
    cores_per_gpu = cluster.cores_per_node / cluster.gpus_per_node
    decoding = gpus * min(cores_per_gpu, training.workers_per_gpu)
    balance = shard_balance(training.num_shards, gpus * training.workers_per_gpu)
    views = training.views_per_decode
    per_byte = views / training.read_bytes if training.read_bytes else math.inf
    per_core = views / training.decode_cpu_seconds if training.decode_cpu_seconds else math.inf
    return {
        "decode cores": balance * decoding * per_core,
        "storage": 1e9 * cluster.storage_gb_per_s * per_byte,
        "network": 1e9 * cluster.node_storage_gb_per_s * num_nodes(gpus, cluster) * per_byte,
    }


def batch_of(gpus: int, training: Training) -> tuple[float, float]:
    """Return clips and seconds of one GPU's batch, without waiting for others."""
    clips = training.global_batch / gpus if training.global_batch else training.batch_per_gpu
    seconds = training.step_seconds * clips / training.batch_per_gpu
    return clips, max(seconds, training.min_step_seconds) if training.global_batch else seconds


def speed(gpus: int, cluster: Cluster, training: Training) -> Speed:
    """Predict what a number of GPUs does.

    A step is `accumulate_batches` batches, after which all wait for the slowest; then what the last backward has not
    hidden of the all-reduce. Loaders work beside it, so a step takes as long as the slowest of both.

    Raises:
        ValueError: Fewer clips in `global_batch` than GPUs.
    """
    if training.global_batch and training.global_batch < gpus:
        raise ValueError(f"global_batch {training.global_batch:g} does not reach for {gpus} GPUs: give at least {gpus}")
    batches = training.accumulate_batches
    clips, batch_seconds = batch_of(gpus, training)
    step_clips = gpus * clips * batches
    mean = batches * batch_seconds
    straggling = training.step_spread * slowest_of(gpus) / math.sqrt(batches)
    hidden = training.overlap_share * training.backward_share * batch_seconds
    seconds = {
        "compute": mean * (1 + straggling),
        "all-reduce": max(0.0, all_reduce(gpus, cluster, training) - hidden),
        **{name: step_clips / rate for name, rate in supply(gpus, cluster, training).items()},
    }
    step = max(seconds["compute"] + seconds["all-reduce"], *(seconds[name] for name in list(seconds)[2:]))
    supplied = step > seconds["compute"] + seconds["all-reduce"]
    candidates = list(seconds)[2:] if supplied else ["compute", "all-reduce"]
    alone = training.batch_per_gpu / training.step_seconds
    return Speed(
        gpus=gpus,
        clips_per_second=step_clips / step,
        efficiency=step_clips / step / (gpus * alone),
        bottleneck=max(candidates, key=seconds.__getitem__),
        seconds=seconds,
        step_clips=step_clips,
    )
