"""Whole evaluations, 10 x 3 views of videos of 30 s: `mvrec test` next to a loop that opens each video per view.

python benchmarks/evaluation_run.py [--quick] [--json [PATH]]

mvrec opens each video once and decodes each frame that it needs once. The loop opens and decodes it for each of its 30
views with pytorchvideo's EncodedVideo and scales in float, as PySlowFast's and pytorchvideo's loaders for tests do. The
views have MViT-B's size, 16 frames of 224 pixels; the network is a block of an MViT with the same weights on both
sides, so that reading counts. Both take turns, each in processes of its own, with one loader process and one thread.
Reading's share with MViT-B itself is computed from one forward pass of its fast form (mvrec) and of torchvision's.
Memory is that of all processes (PSS) after each tenth of the videos.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from page import by_row
from results.figures import Figures, Row, add_option
from torch import nn
from whole_runs.files import video_folder
from whole_runs.peers import CLASSES, plain_network
from whole_runs.processes import measured

GOAL = 3.0
CLIPS, CROPS, BATCH, FRAMES, SIZE, SHORT_SIDE, SECONDS = 10, 3, 10, 16, 224, 256, 30
VIDEOS, QUICK_VIDEOS, TURNS = {"mvrec": 40, "plain": 10}, {"mvrec": 20, "plain": 3}, 2
WARM_UP, AHEAD, DISTINCT = 1, 3, 5  # videos before and after the measurement: loaders read ahead
NETWORK = ("mvrec.models.MViT", {"embed_dim": 8, "depth": 1, "kv_stride": 8})
SUBJECT = f"{CLIPS} x {CROPS} views of {SECONDS} s, a small network"


def spec_of(root: Path, weights: Path) -> dict[str, Any]:
    """Return what both sides are told."""
    path, arguments = NETWORK
    return {
        **{"root": str(root), "weights": str(weights), "workers": 1, "warm_up": WARM_UP, "ahead": AHEAD},
        **{"clips": CLIPS, "crops": CROPS, "batch": BATCH, "frames": FRAMES, "size": SIZE, "short_side": SHORT_SIDE},
        **{"class_path": path, "arguments": arguments, "peer_class_path": path, "peer_arguments": arguments},
    }


def clips_per_cpu_second(report: dict[str, Any]) -> float:
    return float(report["inputs"] / report["cpu"])


def reading_per_video(report: dict[str, Any]) -> float:
    """Return CPU seconds per video outside the network."""
    return float((report["cpu"] - report["parts"]["forward"]["cpu"]) / report["steps"])


def rows_of(reports: dict[str, list[dict[str, Any]]], forward_seconds: dict[str, float]) -> list[Row]:
    """Return the lines of a comparison.

    Args:
        reports: The turns of "mvrec" and "plain".
        forward_seconds: CPU seconds of MViT-B for one view, of both.
    """
    rates = {side: [clips_per_cpu_second(report) for report in turns] for side, turns in reports.items()}
    mvrec, plain = (statistics.median(values) for values in rates.values())
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    reading = {
        side: statistics.median([reading_per_video(report) for report in turns]) for side, turns in reports.items()
    }
    whole = {side: reading[side] + CLIPS * CROPS * forward_seconds[side] for side in reading}
    shares = {side: 100 * reading[side] / whole[side] for side in reading}
    tenths = {side: [memory["pss"] for memory in turns[0]["memory"]] for side, turns in reports.items()}
    peer = "a loop that opens it per view"
    return [
        Row(SUBJECT, "clips per CPU second", peer, mvrec, plain, "clips/CPU s", mvrec / plain, min(ratios), max(ratios),
            GOAL),
        Row(SUBJECT, "reading per video", peer, reading["mvrec"], reading["plain"], "CPU s",
            reading["plain"] / reading["mvrec"]),
        Row(SUBJECT, "memory after the last tenth, PSS", peer, tenths["mvrec"][-1], tenths["plain"][-1], "MiB",
            more={"mvrec after each tenth": ", ".join(f"{value:.0f}" for value in tenths["mvrec"])}),
        Row("the same with MViT-B 16x4", "share of reading, from one forward pass", peer, shares["mvrec"],
            shares["plain"], "%"),
        Row("the same with MViT-B 16x4", "CPU seconds per video, from one forward pass", peer, whole["mvrec"],
            whole["plain"], "CPU s", whole["plain"] / whole["mvrec"]),
    ]  # fmt: skip


def mvit_b_forward_seconds() -> dict[str, float]:
    """Return CPU seconds per view of MViT-B's forward pass, after a warm-up: our fast form and torchvision's."""
    from torchvision.models.video import mvit_v1_b

    from mvrec.models import create_model

    seconds = {}
    clip = torch.rand(1, 3, FRAMES, SIZE, SIZE)
    networks: dict[str, nn.Module] = {"mvrec": create_model("mvit_b_16x4"), "plain": mvit_v1_b()}
    with torch.inference_mode():
        for side, network in networks.items():
            network.eval()(clip)
            before = time.process_time()
            network(clip)
            seconds[side] = time.process_time() - before
    return seconds


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn, fewer videos")
    add_option(parser)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    videos, turns = (QUICK_VIDEOS, 1) if options.quick else (VIDEOS, TURNS)
    figures = Figures.of(
        options, "evaluation_run", packages=("torch", "lightning", "torchvision", "pytorchvideo", "av")
    )
    print(f"{figures.title}; one thread and one loader process; medians of the turns\n")
    reports: dict[str, list[dict[str, Any]]] = {"mvrec": [], "plain": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluated = WARM_UP + max(videos.values()) + AHEAD
        root = video_folder(folder / "videos", files=CLASSES, seconds=SECONDS, distinct=DISTINCT, evaluated=evaluated)
        spec = spec_of(root, folder / "weights.pth")
        torch.save(plain_network(spec).state_dict(), spec["weights"])
        for turn in range(turns):
            for side, results in reports.items():
                knobs = {**spec, "who": side, "videos": videos[side]}
                results.append(measured("evaluation", knobs, folder / f"{side}-{turn}"))
    rows = rows_of(reports, mvit_b_forward_seconds())
    print(by_row(rows))
    figures.add(*rows)


if __name__ == "__main__":
    main()
