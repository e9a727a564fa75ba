"""What failures and preemption cost: closed forms by Young and Daly, and a simulation that they are held against.

A failure takes the work since the last checkpoint and a restart, in which the next failure may come. A preemption that
a signal announces takes a checkpoint and a restart, and no work, as mvrec saves when it is asked to end.
"""

import math
import random
import statistics
from dataclasses import dataclass

from scaling.parameters import Cluster, Training
from scaling.throughput import num_nodes


@dataclass(frozen=True)
class Risk:
    """All in seconds.

    Attributes:
        mtbf: Mean time between failures of the job; infinity for none.
        checkpoint: What a checkpoint takes.
        restart: What a start takes.
        between_preemptions: Mean running time between two; infinity for none.
    """

    mtbf: float
    checkpoint: float
    restart: float
    between_preemptions: float = math.inf


def risk_of(gpus: int, cluster: Cluster, training: Training) -> Risk:
    """A job fails when one of its nodes does."""
    per_day = cluster.preemptions_per_day
    return Risk(
        mtbf=3600 * cluster.node_mtbf_hours / num_nodes(gpus, cluster),
        checkpoint=training.checkpoint_seconds,
        restart=cluster.restart_seconds + training.loader_start_seconds,
        between_preemptions=86400 / per_day if per_day else math.inf,
    )


def young_interval(risk: Risk) -> float:
    """Return seconds of work between two checkpoints by Young 1974: `sqrt(2 d M)` (doi 10.1145/361147.361115)."""
    return math.sqrt(2 * risk.checkpoint * risk.mtbf) if risk.checkpoint else 0.0


def daly_interval(risk: Risk) -> float:
    """Return seconds of work between two checkpoints by Daly 2006, higher order (doi 10.1016/j.future.2004.11.016).

    `sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d` for d < 2M, else M.
    """
    if math.isinf(risk.mtbf):
        return math.inf
    part = risk.checkpoint / (2 * risk.mtbf)
    if part >= 1:
        return risk.mtbf
    return young_interval(risk) * (1 + math.sqrt(part) / 3 + part / 9) - risk.checkpoint


def lost_share(risk: Risk, interval: float) -> float:
    """Share of the time that brings nothing, with a checkpoint after every `interval` seconds of work.

    A piece of work and its checkpoint take `M exp(R / M) (exp((t + d) / M) - 1)` seconds on average (Daly 2006),
    failures in restarts included; preemptions add checkpoint and restart to the time. That a preemption's checkpoint
    also shortens what the next failure takes is left out, and so are failures in the restart after a preemption.

    Raises:
        ValueError: There is nothing between two checkpoints.
    """
    if not interval > 0:
        raise ValueError(f"the interval between checkpoints must be above 0, got {interval:g} s")
    if math.isinf(interval):
        useful = 1.0 if math.isinf(risk.mtbf) else 0.0
    elif math.isinf(risk.mtbf):
        useful = interval / (interval + risk.checkpoint)
    elif (risk.restart + interval + risk.checkpoint) / risk.mtbf > 700:
        useful = 0.0  # beyond what a float holds
    else:
        growth = math.expm1((interval + risk.checkpoint) / risk.mtbf)
        useful = interval / (risk.mtbf * math.exp(risk.restart / risk.mtbf) * growth)
    return 1 - useful / (1 + (risk.checkpoint + risk.restart) / risk.between_preemptions)


def failing_restarts(risk: Risk, rng: random.Random) -> float:
    """Return seconds until a restart succeeds: a failure in the middle of one begins it anew."""
    seconds = 0.0
    while (alive := rng.expovariate(1 / risk.mtbf)) < risk.restart:
        seconds += alive
    return seconds + risk.restart


def simulate_once(risk: Risk, interval: float, *, events: int, rng: random.Random) -> float:
    """Return lost share of one history of failures and preemptions, event by event.

    Time is drawn to the next failure and the next preemption. Up to the earlier of the two, pieces of work and their
    checkpoints follow each other; then the failure throws the open piece away, or the preemption saves it.
    """
    useful = total = 0.0
    for _ in range(events):
        to_failure = rng.expovariate(1 / risk.mtbf) if math.isfinite(risk.mtbf) else math.inf
        to_stop = rng.expovariate(1 / risk.between_preemptions) if math.isfinite(risk.between_preemptions) else math.inf
        alive = min(to_failure, to_stop)
        pieces, rest = divmod(alive, interval + risk.checkpoint)
        useful += pieces * interval
        total += alive
        if to_failure <= to_stop:
            total += failing_restarts(risk, rng)
        else:
            useful += min(rest, interval)
            total += risk.checkpoint + risk.restart
    return 1 - useful / total


def simulate(risk: Risk, interval: float, *, events: int, seed: int, histories: int = 20) -> tuple[float, float]:
    """Return mean lost share of several histories, and the standard error of that mean.

    Args:
        risk: With failures or preemptions, or both.
        interval: Seconds of work between two checkpoints.
        events: Failures and preemptions of each history.
        seed: Of the random numbers.
        histories: At least two.

    Raises:
        ValueError: Nothing ever happens.
    """
    if math.isinf(risk.mtbf) and math.isinf(risk.between_preemptions):
        raise ValueError("nothing fails and nothing is preempted: there is nothing to simulate")
    rng = random.Random(seed)
    shares = [simulate_once(risk, interval, events=events, rng=rng) for _ in range(histories)]
    return statistics.mean(shares), statistics.stdev(shares) / math.sqrt(histories)
