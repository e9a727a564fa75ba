"""One small data set of images with objects, in every format that tools write."""

import json
from pathlib import Path

from mask_trees import write_image

NAMES = ("cat", "dog")
SIZES = {"a.png": (40, 60), "b.png": (50, 50), "c.png": (30, 70)}  # height and width
BOXES = {  # class, x, y, width and height in whole pixels; c.png has none
    "a.png": [("dog", 10, 5, 20, 30), ("cat", 0, 0, 15, 12)],
    "b.png": [("cat", 8, 8, 30, 25)],
    "c.png": [],
}


def write_images(folder: Path, sizes=SIZES, *, seed: int = 0) -> None:
    for number, (name, (height, width)) in enumerate(sizes.items(), start=seed):
        write_image(folder / name, height, width, seed=number)


def corners(box):
    _, x, y, width, height = box
    return x, y, x + width, y + height


def outline(box):
    """The polygon of a box."""
    x1, y1, x2, y2 = corners(box)
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def coco(boxes=BOXES, sizes=SIZES, *, shapes=True, ids=(3, 7), **changes):
    """COCO's annotations, with gaps in all ids."""
    images = [
        {"id": 10 * number, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
        for number, name in enumerate(boxes, start=1)
    ]
    annotations = [
        {
            "id": 100 * image["id"] + number,
            "image_id": image["id"],
            "category_id": ids[NAMES.index(box[0])],
            "bbox": list(box[1:]),
            "area": box[3] * box[4],
            "iscrowd": 0,
            **({"segmentation": [outline(box)]} if shapes else {}),
        }
        for image in images
        for number, box in enumerate(boxes[image["file_name"]])
    ]
    categories = [{"id": number, "name": name} for number, name in zip(ids, NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write_json(path: Path, tree) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def write_coco(root: Path, **changes) -> Path:
    write_images(root / "images")
    return write_json(root / "annotations.json", coco(**changes))


def write_voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    for name, boxes in BOXES.items():
        height, width = SIZES[name]
        objects = "".join(
            f"<object><name>{box[0]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for box in boxes
            for x1, y1, x2, y2 in [corners(box)]
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        path = root / f"Annotations/{Path(name).stem}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<annotation><filename>{name}</filename>{size}{objects}</annotation>")
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, stems in (("train", "ac"), ("val", "b")):
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))


def yolo_line(box, size, *, polygon: bool = False) -> str:
    height, width = size
    label, x, y, w, h = NAMES.index(box[0]), *box[1:]
    values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    if polygon:
        values = [value / side for value, side in zip(outline(box), [width, height] * 4, strict=True)]
    return " ".join(map(repr, [label, *values])) + "\n"


def write_yolo(root: Path, *, polygon: bool = False, yaml: bool = True, split: str = "") -> None:
    write_images(root / "images" / split)
    for name, boxes in BOXES.items():
        path = root / "labels" / split / f"{Path(name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if boxes:  # an image without objects has no file, or an empty one
            path.write_text("".join(yolo_line(box, SIZES[name], polygon=polygon) for box in boxes))
    if yaml:
        names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
        (root / "data.yaml").write_text(f"path: .\ntrain: images/{split}\nnames:\n{names}")


def write_labelme(root: Path) -> None:
    write_images(root)
    for name, boxes in BOXES.items():
        shapes = []
        for box in boxes:
            x1, y1, x2, y2 = corners(box)
            points = outline(box)
            pairs = [points[at : at + 2] for at in range(0, 8, 2)]
            rectangle = {"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}
            shapes.append({"label": box[0], **(rectangle if box[0] == "cat" else {"points": pairs})})
        tree = {"imagePath": name, "imageHeight": SIZES[name][0], "imageWidth": SIZES[name][1], "shapes": shapes}
        write_json(root / f"{Path(name).stem}.json", tree)


def write_csv(root: Path) -> None:
    write_images(root)
    lines = ["path,x1,y1,x2,y2,label"]
    for name, boxes in BOXES.items():
        lines += [f"{name},{','.join(map(str, corners(box)))},{box[0]}" for box in boxes] or [f"{name},,,,,"]
    (root / "objects.csv").write_text("\n".join(lines) + "\n")
