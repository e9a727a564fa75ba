"""Detection as torchvision's reference scripts do it: the network, and a data set whose masks are whole pixels."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.transforms import v2

from mvrec.models import FeaturePyramid
from mvrec.models.backbone import Backbone


def mask_rcnn(backbone: Backbone, num_classes: int, size: tuple[int, int]) -> MaskRCNN:
    """Return torchvision's Mask R-CNN on a network's maps.

    Args:
        backbone: The network.
        num_classes: Without the background, which torchvision counts.
        size: Short and long side, to which it scales images: those of the benchmark's images, which stay as they are.
    """
    short, long = size
    return MaskRCNN(FeaturePyramid(backbone), num_classes + 1, min_size=short, max_size=long)


class LabelledMaskRCNN(nn.Module):
    """Torchvision's Mask R-CNN as a network of images alone: to its loss in training, else to masks of pixels.

    Args:
        network: The detector.
        targets: Boxes (N, 4), labels (N,) from 0 and masks (N, H, W) of each image.
    """

    def __init__(self, network: MaskRCNN, targets: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.network = network
        self.targets = [{**target, "labels": target["labels"] + 1} for target in targets]

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return torch.stack(list(self.network(list(images), self.targets).values())).sum()
        return torch.cat([detected["masks"][:, 0] >= 0.5 for detected in self.network(list(images))])


def pasted(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Return masks bool (N, H, W) of probabilities (N, 28, 28) in boxes (N, 4)."""
    return paste_masks_in_image(probabilities[:, None], boxes, (height, width))[:, 0] >= 0.5


class WholeMasks:
    """Images of a COCO file with all their masks as pixels, which are scaled and flipped like the image.

    Args:
        images: Folder of the images.
        annotations: The file.
        size: Short side, and most of the long side.
    """

    def __init__(self, images: Path, annotations: Path, size: tuple[int, int]) -> None:
        content = json.loads(annotations.read_text())
        self.folder, self.images = images, content["images"]
        self.objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            self.objects[annotation["image_id"]].append(annotation)
        short, long = size
        self.transforms = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(short, max_size=long, antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        if number >= len(self.images):
            raise IndexError(number)
        about = self.images[number]
        height, width = about["height"], about["width"]
        objects = self.objects[about["id"]]
        with Image.open(self.folder / about["file_name"]) as image:
            pixels = image.convert("RGB")
        corners = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        masks = [decoded(each["segmentation"], height, width) for each in objects]
        target = {
            "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor([each["category_id"] for each in objects]),
            "masks": tv_tensors.Mask(torch.from_numpy(np.stack(masks))),
        }
        return self.transforms(pixels, target)


def decoded(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """Return the pixels of an object's polygons: uint8 (H, W)."""
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, height, width)))


def write_images(root: Path, *, count: int, objects: int, size: tuple[int, int] = (480, 640), seed: int = 0) -> Path:
    """Write JPEGs and a COCO file of polygons around random objects, as `train/` and `annotations/`; return the file.

    Args:
        root: Folder of both.
        count: Number of images.
        objects: Objects of each.
        size: Height and width.
        seed: Determines all content.
    """
    rng, height, width = random.Random(seed), *size
    noise = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in range(1, count + 1):
        name = f"{number:05d}.jpg"
        coarse = noise.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(root / "train" / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for _ in range(objects):
            polygon = _star(rng, height, width)
            left, top, right, bottom = *polygon.min(0), *polygon.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": rng.randint(1, 80),
                    "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
                    "area": float((right - left) * (bottom - top) / 2),
                    "iscrowd": 0,
                    "segmentation": [polygon.ravel().tolist()],
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    path = root / "annotations/instances_train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _star(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Return a polygon (24, 2) around a random point, inside the picture, in hundredths of pixels as COCO has them."""
    radius = rng.uniform(15, 90)
    middle = np.array([rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)])
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    lengths = radius * np.array([rng.uniform(0.6, 1) for _ in angles])
    return np.round(middle + np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None], 2)
