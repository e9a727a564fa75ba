"""One training run in a process of its own: `mvrec fit`, or a loop as people write it. Started by ../run.py."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from whole_runs.parts import Parts
from whole_runs.peers import CLASSES, clip_dataset, image_dataset, plain_network

NORMALISATION = {"mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225]}
RATE, DECAY, CLIP, SMOOTHING = 1e-4, 0.05, 1.0, 0.1
EPOCHS = 1000  # no run gets so far


def configuration(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of `mvrec fit`."""
    data = {
        "root": spec["root"],
        "size": spec["size"],
        "normalisation": NORMALISATION,
        "augment": {"rand_augment": None, "random_erasing": None},
        "batch_size": spec["batch"],
        "num_workers": spec["workers"],
    }
    if spec["kind"] == "clips":  # short side 256 to 320 and a crop of 224: pytorchvideo's tutorial
        data |= {"clip": {"num_frames": spec["frames"], "stride_frames": 4, "target_fps": 30}}
        data["augment"] |= {"crop_side": [224 / 320, 224 / 256]}
    return {
        "seed_everything": 0,
        "model": {
            "backbone": {"class_path": spec["class_path"], "init_args": {"num_classes": CLASSES, **spec["arguments"]}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": RATE, "weight_decay": DECAY}},
            "label_smoothing": SMOOTHING,
        },
        "data": {
            "class_path": f"mvrec.data.{'VideoFolder' if spec['kind'] == 'clips' else 'ImageFolder'}",
            "init_args": data,
        },
        "trainer": {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "devices": 1,
            "gradient_clip_val": CLIP,
            "limit_val_batches": 0,
        },
    }


def mvrec_fit(spec: dict[str, Any], parts: Parts) -> None:
    """Run the command, with what torch does not know of timed from outside."""
    from mvrec.cli.main import main

    path = Path(spec["folder"]) / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(spec)))
    from mvrec.data.sets.recognition_data import RecognitionData
    from mvrec.tasks.classification.task import Classification

    Classification.loss = parts.timed(Classification.loss, "forward")  # type: ignore[method-assign]
    pixels = RecognitionData.on_after_batch_transfer
    RecognitionData.on_after_batch_transfer = parts.timed(pixels, "pixels")  # type: ignore[method-assign]
    main(["fit", "--config", str(path), "--run_dir", str(Path(spec["folder"]) / "run")])


def plain_fit(spec: dict[str, Any], parts: Parts) -> None:
    """Train as torchvision's reference script and pytorchvideo's tutorial do, with a line every ten steps."""
    torch.manual_seed(0)
    make = clip_dataset if spec["kind"] == "clips" else image_dataset
    dataset, is_iterable = make(spec, NORMALISATION)
    loader = DataLoader(
        dataset,
        batch_size=spec["batch"],
        sampler=None if is_iterable else RandomSampler(dataset),
        num_workers=spec["workers"],
        drop_last=True,
        persistent_workers=spec["workers"] > 0,
    )
    network = plain_network(spec)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    forward = parts.timed(lambda inputs, targets: _forward(network, criterion, inputs, targets), "forward")
    for epoch in range(EPOCHS):
        network.train()
        losses, begin, count = [], time.perf_counter(), 0
        for number, batch in enumerate(loader):
            inputs, targets = (batch["video"], batch["label"]) if spec["kind"] == "clips" else batch
            loss, outputs = forward(inputs, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
            count += len(targets)
            top1 = (outputs.argmax(1) == targets).float().mean().item()
            if number % 10 == 0:
                mean, speed = sum(losses) / len(losses), count / (time.perf_counter() - begin)
                rate = optimizer.param_groups[0]["lr"]
                print(f"epoch {epoch} step {number} loss {mean:.4f} top1 {top1:.3f} lr {rate:.3g} {speed:.1f}/s")
        schedule.step()
        checkpoint = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(checkpoint, Path(spec["folder"]) / "checkpoint.pth")


def _forward(network: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    outputs = network(inputs)
    return criterion(outputs, targets), outputs


def main() -> None:
    spec = yaml.safe_load(sys.argv[1])
    parts = Parts(
        Path(spec["report"]),
        begun=spec["begun"],
        inputs_per_step=spec["batch"],
        warm_up=spec["warm_up"],
        seconds=spec["seconds"],
    )
    parts.watch_loader()
    parts.watch_training()
    {"mvrec": mvrec_fit, "plain": plain_fit}[spec["who"]](spec, parts)


if __name__ == "__main__":
    main()
