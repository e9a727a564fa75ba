"""One evaluation run in a process of its own: `mvrec test`, or a loop over views. Started by ../evaluation_run.py."""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader
from whole_runs.parts import Parts
from whole_runs.peers import CLASSES, Views, plain_network
from whole_runs.training import NORMALISATION


def configuration(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of `mvrec test`."""
    network = {"class_path": spec["class_path"], "init_args": {"num_classes": CLASSES, **spec["arguments"]}}
    data = {
        "root": spec["root"],
        "size": spec["size"],
        "normalisation": NORMALISATION,
        "clip": {"num_frames": spec["frames"], "stride_frames": 4, "target_fps": 30},
        "test_views": {"num_clips": spec["clips"], "num_crops": spec["crops"], "short_side": spec["short_side"]},
        "eval_batch_size": 1,
        "num_workers": spec["workers"],
    }
    return {
        "model": {"backbone": network, "weights": spec["weights"], "views_per_forward": spec["batch"]},
        "data": {"class_path": "mvrec.data.VideoFolder", "init_args": data},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }


def mvrec_test(spec: dict[str, Any], parts: Parts) -> None:
    """Run the command; a step is a video with all of its views."""
    from mvrec.cli.main import main

    path = Path(spec["folder"]) / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(spec)))
    from mvrec.tasks.base import Task

    Task.forward = parts.timed(Task.forward, "forward")  # type: ignore[method-assign]
    score = Task.test_step

    def step(task: Task, *args: Any) -> None:
        score(task, *args)
        parts.step_is_done()

    Task.test_step = step  # type: ignore[method-assign]
    main(["test", "--config", str(path), "--run_dir", str(Path(spec["folder"]) / "run")])


def plain_test(spec: dict[str, Any], parts: Parts) -> None:
    """Score video after video, whose views come in equal batches."""
    paths = sorted((Path(spec["root"]) / "val").rglob("*.mp4"))[: spec["warm_up"] + spec["videos"] + spec["ahead"]]
    loader = DataLoader(Views(spec, paths, NORMALISATION), batch_size=spec["batch"], num_workers=spec["workers"])
    network = plain_network(spec).eval()
    network.load_state_dict(torch.load(spec["weights"], weights_only=True))
    batches_per_video = spec["clips"] * spec["crops"] // spec["batch"]
    forward = parts.timed(network, "forward")
    scores = []
    with torch.inference_mode():
        for number, views in enumerate(loader, start=1):
            scores.append(forward(views).softmax(1))
            if number % batches_per_video == 0:
                torch.cat(scores).mean(0).argmax().item()
                scores = []
                parts.step_is_done()


def main() -> None:
    spec = yaml.safe_load(sys.argv[1])
    views, report = spec["clips"] * spec["crops"], Path(spec["report"])
    knobs = {"inputs_per_step": views, "warm_up": spec["warm_up"], "steps": spec["videos"]}
    parts = Parts(report, begun=spec["begun"], **knobs)
    parts.watch_loader()
    {"mvrec": mvrec_test, "plain": plain_test}[spec["who"]](spec, parts)


if __name__ == "__main__":
    main()
