"""Mask R-CNN next to torchvision's code on the same plain backbone, and its parts, interleaved; prints ratios.

python benchmarks/detection.py [--quick] [--only {network,parts,loader}] [--network NAME] [--repeats N] [--json [PATH]]

One image of 800 x 1088 with 8 objects of 80 classes, float32 on one thread. CPU and wall seconds of a training step and
of inference with masks of pixels, and the memory of a training step. mvrec is the accelerated network with its head,
torchvision its `MaskRCNN` on `FeaturePyramid` of the network before `accelerate`, each with its own rules. Both have
random weights, and 100 detections. Then the parts alone: masks of 100 detections pasted into the image, the pooling of
512 boxes and of 128 masks, and the way of an image of 640 x 480 from its file to the network, where torchvision resizes
whole masks.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks.comparing import HEADER, Row, measure, measure_memory
from peers.torchvision_detection import LabelledMaskRCNN, WholeMasks, mask_rcnn, pasted, write_images
from results.figures import Figures, add_option
from results.figures import Row as Figure
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from mvrec import models
from mvrec.data.loading.batch import SampleKey
from mvrec.data.sets.detection.object_folder import ObjectFolder
from mvrec.data.views.objects import Objects
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.pooler import Pooler
from mvrec.models.heads.detection.results import ImageSize

CLASSES, SIZE, OBJECTS = 80, (800, 1088), 8
GOALS = {"step": 1.3, "paste": 2.5, "loader": 3.0}
NAMES = ("cloformer_xxs", "shunted_t", "shunted_s", "sgformer_s")
ROWS = (
    Row(train=True, bf16=False, goal={}),
    Row(train=False, bf16=False, goal={}),
)
Call = Callable[[], Any]


class LabelledDetector(nn.Module):
    """A network with our head as one of images alone: to its loss in training, else to masks of pixels.

    Args:
        network: The network with its head.
        targets: See `DetectionHead`.
    """

    def __init__(self, network: Backbone, targets: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.network, self.targets = network, targets

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        sizes = [ImageSize(height, width, 1.0, 1.0)] * len(images)
        if self.training:
            return torch.stack(list(self.network(images, sizes, self.targets).values())).sum()
        detections = self.network(images, sizes)
        return torch.cat([paste_masks(each.mask_probabilities, each.boxes, height, width) for each in detections])


def targets_of(size: tuple[int, int], *, count: int = OBJECTS) -> dict[str, Tensor]:
    """Return random boxes with ellipses as masks."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    sides = torch.rand(count, 2, generator=generator) * min(size) / 3 + 32
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    boxes = torch.cat([corners, corners + sides], 1)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    masks = []
    for left, top, right, bottom in boxes.tolist():
        across = (columns - (left + right) / 2) / (right - left) * 2
        masks.append(((rows - (top + bottom) / 2) / (bottom - top) * 2) ** 2 + across**2 <= 1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return {"boxes": boxes, "labels": labels, "masks": torch.stack(masks).byte(), "size": torch.tensor(size)}


def networks(name: str, images: Tensor) -> dict[str, nn.Module]:
    """Return our detector and torchvision's for an image (1, 3, H, W)."""
    size = images.shape[-2], images.shape[-1]
    targets = [targets_of(size)]
    plain = getattr(models, name)(drop_path_rate=0.0)
    peer = mask_rcnn(plain, CLASSES, size)
    network = getattr(models, name)(drop_path_rate=0.0)
    network.place_head(DetectionHead(network.feature_info, CLASSES, detector="mask_rcnn"), CLASSES)
    network = models.accelerate(network)
    for predictor in class_predictors(peer, network):
        nn.init.normal_(predictor.weight, std=0.5)  # so that some boxes pass the least score
    pair = {"mvrec": LabelledDetector(network, targets), "torchvision": LabelledMaskRCNN(peer, targets)}
    with torch.no_grad():
        counts = {library: len(detector.eval()(images)) for library, detector in pair.items()}
    assert set(counts.values()) == {100}, f"detections whose masks are pasted: {counts}"
    return pair


def class_predictors(*detectors: nn.Module) -> list[nn.Module]:
    """Return the layers that score the classes of boxes."""
    return [module for each in detectors for name, module in each.named_modules() if name.endswith("cls_score")]


# -- parts -----------------------------------------------------------------------------------------------------------


def timed(call: Call) -> tuple[float, float]:
    """Return CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def compare(
    subject: str, calls: dict[str, Call], repeats: int, *, per: int = 1, goal: float | None = None, note: str = ""
) -> Figure:
    """Measure "mvrec" and "torchvision" in turns after a warm-up; print and return a line.

    Args:
        subject: The part.
        calls: What is measured of both.
        repeats: Number of turns.
        per: Images in a call.
        goal: The ratio to reach.
        note: A remark for the page.
    """
    times: dict[str, list[tuple[float, float]]] = {library: [] for library in calls}
    for repeat in range(repeats + 1):
        for library, call in calls.items():
            took = timed(call)
            if repeat:
                times[library].append(took)
    ratios = [peer[0] / mvrec[0] for mvrec, peer in zip(times["mvrec"], times["torchvision"], strict=True)]
    medians = {library: 1e3 / per * statistics.median(cpu for cpu, _ in pairs) for library, pairs in times.items()}
    ratio = statistics.median(ratios)
    print(
        f"| {subject} | | torchvision | {medians['mvrec']:.3g} ms | {medians['torchvision']:.3g} ms | {ratio:.2f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {goal or ''} |",
        flush=True,
    )
    return Figure(
        subject, "one thread", peer="torchvision", mvrec=medians["mvrec"], other=medians["torchvision"], unit="CPU ms",
        ratio=ratio, low=min(ratios), high=max(ratios), goal=goal, note=note,
    )  # fmt: skip


def parts(size: tuple[int, int], repeats: int) -> list[Figure]:
    """Measure pasting and pooling."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    boxes = targets_of(size, count=512)["boxes"]
    probabilities = torch.rand(100, 28, 28, generator=generator)
    paste = {
        "mvrec": lambda: paste_masks(probabilities, boxes[:100], height, width),
        "torchvision": lambda: pasted(probabilities, boxes[:100], height, width),
    }
    figures = [compare("masks of 100 detections", paste, repeats, goal=GOALS["paste"])]
    strides = (4, 8, 16, 32)
    maps = [
        torch.randn(1, 256, -(-height // stride), -(-width // stride), generator=generator).requires_grad_()
        for stride in strides
    ]
    named = {str(level): each for level, each in enumerate(maps)}
    for side, count in ((7, 512), (14, 128)):
        pooler, peer = Pooler(strides, side, style="mmdetection"), MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2)
        pool = {
            "mvrec": lambda pooler=pooler, count=count: pooler(maps, [boxes[:count]]).sum().backward(),
            "torchvision": lambda peer=peer, count=count: peer(named, [boxes[:count]], [size]).sum().backward(),
        }
        figures.append(compare(f"pooling of {count} boxes to {side} x {side}, with gradients", pool, repeats))
    return figures


class OurViews:
    """Training views of the images of a COCO data set, with masks as the network gets them."""

    def __init__(self, root: Path) -> None:
        data = ObjectFolder(str(root), seed=0)
        data.setup("validate")
        index = data.index("train")
        self.samples, self.count = data.train_dataset(index, seed=0), len(index)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Any]]:
        if number >= self.count:
            raise IndexError(number)
        item = self.samples[SampleKey(epoch=0, index=number)]
        (view,) = Objects.batched(item.targets)
        return item.views[0], view


def loader(repeats: int, *, count: int) -> list[Figure]:
    """Measure the way of an image with its objects from the file to the network's pixels."""
    figures = []
    for objects in (OBJECTS, 40):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            annotations = write_images(root, count=count, objects=objects)
            read = {
                "mvrec": partial(list, OurViews(root)),
                "torchvision": partial(list, WholeMasks(root / "train", annotations, (800, 1333))),
            }
            figures.append(
                compare(f"image of 640 x 480 with {objects} objects", read, repeats, per=count, goal=GOALS["loader"])
            )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat at 256 x 320 on the smallest network")
    parser.add_argument("--only", choices=("network", "parts", "loader"), help="one kind of rows")
    parser.add_argument("--network", choices=NAMES, default="shunted_t", help="the backbone")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of networks after a warm-up")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, repeats = ((256, 320), 1) if options.quick else (SIZE, options.repeats)
    turns = 1 if options.quick else 5  # of parts, which take little time
    name = NAMES[0] if options.quick else options.network
    figures = Figures.of(options, "detection", packages=("torch", "torchvision"))
    print(f"{figures.title}; {size[0]} x {size[1]}, one thread; CPU seconds (wall seconds), medians\n\n{HEADER}")
    kinds = [options.only] if options.only else ["network", "parts", "loader"]
    if "network" in kinds:
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        pair, subject = networks(name, images), f"{name}, Mask R-CNN"
        for row in ROWS:
            figures.add(*measure(subject, pair, images, row._replace(goal={subject: GOALS["step"]}), repeats))
        figures.add(*measure_memory(subject, pair, images, None, autocast=(False,)))
    if "parts" in kinds:
        figures.add(*parts(size, turns))
    if "loader" in kinds:
        figures.add(*loader(turns, count=4 if options.quick else 24))


if __name__ == "__main__":
    main()
