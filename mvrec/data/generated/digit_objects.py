"""Scenes of handwritten digits on textures with a box and a mask for each digit: a small data set, made locally."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mvrec.data.generated.digit_scenes import SPLITS, Scene, scenes, split_digits, write_image
from mvrec.data.generated.moving_digits_video import appearing_at_once
from mvrec.data.generated.splits import RECORD, is_generated
from mvrec.data.sets.detection.object_folder import ObjectFolder
from mvrec.data.views.objects.augment import ObjectAugment
from mvrec.errors import UserError
from mvrec.ranges import COUNT_OR_NONE, Range, check_range

NOUN = "scenes with objects"
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIRST_CATEGORY = 1  # COCO counts categories from 1

Layout = Literal["coco", "yolo"]

_VERSION = 1
_LEAST_PIXELS = 64
_SCENE = 128
_LEAST_INK = 40  # visible pixels of a digit that is an object, of a scene of 128 x 128 pixels


class DigitObjects(ObjectFolder):
    """`ObjectFolder` on generated scenes: handwritten digits with boxes and masks on regions of four textures.

    A toy to see that detectors learn, not a benchmark. The files are a COCO data set as anybody would bring it.

    Args:
        root: The folder of the scenes, generated if it does not exist.
        train_images: Scenes in the training split.
        val_images: Scenes in the validation split.
        test_images: Scenes in the test split.
        protocol: See `DetectionData`; by default the scenes in their own size, which is also that of the network.
        augment: See `DetectionData`. By default none: a mirrored digit is none.
        batch_size: See `DetectionData`.
        max_bad_fraction: See `DetectionData`.
        **knobs: See `ObjectFolder`.

    Raises:
        UserError: From `prepare_data`: `root` holds something else, or scikit-learn is missing.
    """

    def __init__(
        self,
        root: str = "data/digit_objects",
        *,
        train_images: int = 600,
        val_images: int = 50,
        test_images: int = 100,
        protocol: str = "mmdetection-128x128",
        augment: ObjectAugment = ObjectAugment(short_sides=None, flip_probability=0.0),  # noqa: B008 - frozen
        batch_size: int = 8,
        max_bad_fraction: float = 0.0,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root, protocol=protocol, augment=augment, batch_size=batch_size, max_bad_fraction=max_bad_fraction, **knobs
        )
        self.images = {"train": train_images, "val": val_images, "test": test_images}

    def prepare_data(self) -> None:
        """Generate the scenes unless they exist."""
        generate_digit_objects(self.root, images=self.images)
        super().prepare_data()


@dataclass(frozen=True)
class DrawnDigit:
    """A digit of a scene, as far as it is visible.

    Attributes:
        digit: 0 to 9.
        mask: bool (H, W), where its ink is.
    """

    digit: int
    mask: npt.NDArray[np.bool_]

    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the mask in pixels."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def generate_digit_objects(
    root: Path, *, images: Mapping[str, int], seed: int = 0, size: int = _SCENE, layout: Layout = "coco"
) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds what anybody with own images would have, and `dataset.json` with the parameters:

    - "coco": `{train,val,test}/<number>.png` and `annotations/instances_{train,val,test}.json` with boxes and masks as
      run lengths, as COCO names them;
    - "yolo": `images/{train,val,test}/<number>.png`, `labels/{train,val,test}/<number>.txt` with boxes, `data.yaml`.

    The scenes are those of `generate_digit_scenes` with the same numbers. A digit of which later ones leave fewer than
    40 pixels (of 128 x 128) is no object. The splits share no handwriting. The folder appears in one step.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        images: Number of scenes in "train", "val" and "test".
        seed: Determines all content.
        size: Height and width in pixels.
        layout: Which files.

    Raises:
        UserError: `root` holds something else, a parameter is impossible, or scikit-learn is missing.
    """
    counts = {split: images.get(split) for split in SPLITS}
    for split, count in counts.items():
        check_range(f"{NOUN}: images[{split!r}]", count or 0)
    check_range(f"{NOUN}: seed", seed, COUNT_OR_NONE)
    check_range(f"{NOUN}: size", size, Range(_LEAST_PIXELS))
    if layout not in get_args(Layout):
        raise UserError(f"{NOUN}: layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    parameters = {"version": _VERSION, "images": counts, "seed": seed, "size": size, "layout": layout}
    root = Path(root)
    if is_generated(root, parameters, noun=NOUN):
        return
    handwriting = split_digits(seed, noun=NOUN)
    labelled = (
        (path, scene, visible_digits(scene, handwriting[path.partition("/")[0]][1]))
        for path, scene in scenes(parameters, handwriting)
    )
    with appearing_at_once(root, parameters, noun=NOUN) as draft:
        {"coco": _write_coco, "yolo": _write_yolo}[layout](draft, labelled)
        (draft / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")


def visible_digits(scene: Scene, digits: npt.NDArray[np.int64]) -> list[DrawnDigit]:
    """Return the digits of a scene that later ones leave visible.

    Args:
        scene: The scene.
        digits: (n,), what each handwriting of its split says.
    """
    least = _LEAST_INK * (len(scene.owners) / _SCENE) ** 2
    masks = [scene.owners == number for number in range(1, len(scene.digits) + 1)]
    return [
        DrawnDigit(int(digits[handwriting]), mask)
        for handwriting, mask in zip(scene.digits, masks, strict=True)
        if mask.sum() >= least
    ]


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs of 0 and 1 in turns, column by column and from 0 on, as COCO's RLE has them.

    Args:
        mask: (H, W).
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lengths = np.diff([0, *changes, len(pixels)]).tolist()
    return [0, *lengths] if pixels[0] else lengths


_Labelled = Iterator[tuple[str, Scene, list[DrawnDigit]]]


def _write_coco(root: Path, labelled: _Labelled) -> None:
    categories = [{"id": FIRST_CATEGORY + digit, "name": name} for digit, name in enumerate(CLASSES)]
    files: dict[str, dict[str, list[dict[str, Any]]]] = {
        split: {"images": [], "annotations": [], "categories": categories} for split in SPLITS
    }
    for path, scene, drawn in labelled:
        write_image(root / path, scene.pixels)
        split, _, name = path.partition("/")
        images, annotations = files[split]["images"], files[split]["annotations"]
        height, width = scene.owners.shape
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        annotations += [
            {
                "id": number,
                "image_id": len(images),
                "category_id": FIRST_CATEGORY + each.digit,
                "bbox": each.box(),
                "area": int(each.mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": run_lengths(each.mask)},
            }
            for number, each in enumerate(drawn, start=len(annotations) + 1)
        ]
    folder = root / "annotations"
    folder.mkdir()
    for split, content in files.items():
        (folder / f"instances_{split}.json").write_text(json.dumps(content))


def _write_yolo(root: Path, labelled: _Labelled) -> None:
    for path, scene, drawn in labelled:
        write_image(root / "images" / path, scene.pixels)
        labels = (root / "labels" / path).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(f"{_yolo_line(each, len(scene.owners))}\n" for each in drawn))
    names = "".join(f"  {digit}: {name}\n" for digit, name in enumerate(CLASSES))
    splits = "".join(f"{split}: images/{split}\n" for split in SPLITS)
    (root / "data.yaml").write_text(f"path: .\n{splits}names:\n{names}")


def _yolo_line(drawn: DrawnDigit, size: int) -> str:
    """Return label, middle and sides of a box as shares of the picture."""
    left, top, width, height = drawn.box()
    numbers = (left + width / 2, top + height / 2, width, height)
    return " ".join([str(drawn.digit), *(f"{number / size:.6f}" for number in numbers)])
