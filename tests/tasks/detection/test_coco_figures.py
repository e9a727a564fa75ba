"""Average precision of boxes and masks, next to pycocotools: recorded, and live on sets made here."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mvrec.data.listing.objects.shapes import ShapePacking
from mvrec.data.listing.objects.table import ImageObjects
from mvrec.data.loading.batch import BadSample
from mvrec.data.views.objects import Objects
from mvrec.data.views.targets import NoTarget
from mvrec.tasks.detection.coco_figures import FIGURES, coco_figures
from mvrec.tasks.detection.detecting import ImageDetections
from mvrec.tasks.detection.image_regions import ImageRegions, Truth
from mvrec.tasks.detection.matching import ranked_claims
from mvrec.tasks.detection.predictions import coco_results
from mvrec.tasks.detection.scores import RegionScores, RegionTally
from mvrec.tasks.scores import ScoreKeeper

GOLDEN = Path(__file__).parents[2] / "golden/dense"
RECORDED = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
RECORDED += ("AR_small", "AR_medium", "AR_large")
OF_AREAS = {"AP_small", "AP_medium", "AP_large"}


def random_set(seed: int, *, num_images: int = 9, num_classes: int = 4) -> list[ImageRegions]:
    """Images with crowds, equal scores, a class without objects, images without objects and without detections."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(num_images):
        height, width = (int(side) for side in rng.integers(90, 260, 2))
        true, other = ([] if rng.random() < 0.2 else boxes(rng, height, width) for _ in range(2))
        labels = rng.integers(0, num_classes - 1, len(true))
        rows = [(box, rng.integers(num_classes)) for box in other]
        for box, label in zip(true, labels, strict=True):
            for _ in range(int(rng.integers(3))):
                near = inside(box + rng.normal(0, 3, 4) * (rng.random() < 0.8), height, width)
                rows.append((near, label if rng.random() < 0.8 else rng.integers(num_classes)))
        detected = np.array([box for box, _ in rows]).reshape(-1, 4)
        guesses = np.array([label for _, label in rows], np.int64)
        corners = np.concatenate([detected[:, :2], detected[:, :2] + detected[:, 2:]], axis=1).astype(np.float32)
        truth = Truth(
            image_id=1000 - 7 * number,  # in another order than the images
            boxes=np.array(true).reshape(-1, 4),
            labels=labels,
            crowd=rng.random(len(true)) < 0.15,
            areas=np.array([box[2] * box[3] * rng.uniform(0.4, 1) for box in true]),
            masks=tuple(mask_of(box, height, width) for box in true),
        )
        shapes = tuple(mask_of(box, height, width) for box in detected)
        scores = rng.integers(1, 20, len(detected)).astype(np.float32) / 20
        images.append(ImageRegions(height, width, corners, scores, guesses, shapes, truth))
    return images


def boxes(rng: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    sides = np.exp(rng.uniform(np.log(6), np.log(120), (int(rng.integers(1, 7)), 2)))
    return [inside(np.array([*(rng.random(2) * (width, height)), *side]).round(2), height, width) for side in sides]


def inside(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box of two pixels or more within an image."""
    left, top = np.clip(box[0], 0, width - 3), np.clip(box[1], 0, height - 3)
    return np.array([left, top, np.clip(box[2], 2, width - left), np.clip(box[3], 2, height - top)])


def mask_of(box: np.ndarray, height: int, width: int) -> bytes:
    """A diamond in a box."""
    left, top, across, down = box.tolist()
    points = [
        left,
        top + down / 2,
        left + across / 2,
        top,
        left + across,
        top + down / 2,
        left + across / 2,
        top + down,
    ]
    return rle.frPyObjects([points], height, width)[0]["counts"]


def by_pycocotools(images: list[ImageRegions], num_classes: int, kind: str, *, keeps_boxes: bool = False) -> COCOeval:
    """The evaluator of the reference, from the JSON that files would have."""
    frames = [{"id": image.truth.image_id, "height": image.height, "width": image.width} for image in images]
    rows = []
    for image in images:
        for place, box in enumerate(image.truth.boxes.tolist()):
            shape = {"size": [image.height, image.width], "counts": image.truth.masks[place].decode()}
            row = {"id": len(rows) + 1, "image_id": image.truth.image_id, "bbox": box, "segmentation": shape}
            row |= {"category_id": int(image.truth.labels[place]), "area": float(image.truth.areas[place])}
            rows.append(row | {"iscrowd": int(image.truth.crowd[place])})
    categories = [{"id": number, "name": str(number)} for number in range(num_classes)]
    results = [row for image in images for row in coco_results(image, class_ids=range(num_classes))]
    if kind == "segm" and not keeps_boxes:
        for row in results:
            del row["bbox"]  # as mmdetection and detectron2 do: areas are those of masks
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": frames, "annotations": rows, "categories": categories}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_pycocotools(kind, seed):
    images = random_set(seed)
    judge = by_pycocotools(images, 4, kind)
    ordered = sorted(images, key=lambda image: image.truth.image_id)
    figures = coco_figures(ordered, 4, kind)
    expected = [float("nan") if value == -1 else value for value in judge.stats]
    np.testing.assert_allclose(list(figures.figures.values()), expected, rtol=0, atol=1e-12)
    assert np.nanmax(list(figures.figures.values())) > 0.1
    np.testing.assert_allclose(figures.precision, judge.eval["precision"], rtol=0, atol=1e-12)
    for number, value in enumerate(figures.by_class(threshold=0.5)):
        part = judge.eval["precision"][0, :, number, 0, -1]
        expected = part[part > -1].mean() if (part > -1).any() else np.nan
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


def region_scores(images: list[ImageRegions], *, by_masks: bool) -> RegionScores:
    extent = {"failed": (), "expected": len(images), "num_classes": 4}
    ids = torch.arange(len(images))
    return RegionScores(sample_ids=ids, images=tuple(images), masks=True, ranked_by_masks=by_masks, **extent)


@pytest.mark.parametrize("by_masks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_claims_give_the_figure_of_any_draw_of_images(seed, by_masks):
    scores = region_scores(random_set(seed, num_images=12), by_masks=by_masks)
    once = ranked_claims(scores).scores(np.ones((1, 12)))
    assert once[0] == pytest.approx(scores.metrics()["mask_map" if by_masks else "map"], abs=1e-12)
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 3, 12)
    images = [replace(image, scores=generator.random(len(image.scores)).astype(np.float32)) for image in scores.images]
    repeated = [
        replace(image, truth=replace(image.truth, image_id=2000 - 3 * place + copy))
        for place, (image, count) in enumerate(zip(images, counts, strict=True))
        for copy in range(count)
    ]
    figure = next(iter(region_scores(repeated, by_masks=by_masks).metrics().values()))
    claims = ranked_claims(region_scores(images, by_masks=by_masks))
    assert claims.scores(counts[None].astype(float))[0] == pytest.approx(figure, abs=1e-12)
    both = claims.joined(claims).scores(np.stack([np.append(counts, 0 * counts), np.append(0 * counts, counts)]) * 1.0)
    assert both == pytest.approx(figure, abs=1e-12)


def recorded_images(spec: dict) -> list[ImageRegions]:
    truth, ids = spec["input"]["ground_truth"], [row["id"] for row in spec["input"]["ground_truth"]["categories"]]
    images = []
    for frame in truth["images"]:
        rows = [row for row in truth["annotations"] if row["image_id"] == frame["id"]]
        detected = [row for row in spec["input"]["detections"] if row["image_id"] == frame["id"]]
        boxes = np.array([row["bbox"] for row in detected], np.float64).reshape(-1, 4)
        images.append(
            ImageRegions(
                height=frame["height"],
                width=frame["width"],
                corners=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),  # type: ignore[arg-type]
                scores=np.array([row["score"] for row in detected]),  # type: ignore[arg-type]  # the recorded doubles
                labels=np.array([ids.index(row["category_id"]) for row in detected], np.int64),
                masks=tuple(row["segmentation"]["counts"].encode() for row in detected),
                truth=Truth(
                    image_id=frame["id"],
                    boxes=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
                    labels=np.array([ids.index(row["category_id"]) for row in rows], np.int64),
                    crowd=np.array([row["iscrowd"] for row in rows], bool),
                    areas=np.array([row["area"] for row in rows], np.float64),
                    masks=tuple(row["segmentation"]["counts"].encode() for row in rows),
                ),
            )
        )
    return sorted(images, key=lambda image: image.truth.image_id)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["ties_crowd", "unique_scores"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_the_recorded_ones(name, kind):
    """Results with boxes and masks were recorded, of whose masks pycocotools takes the areas of the boxes."""
    spec = json.loads((GOLDEN / f"coco_ap_{name}.json").read_text())
    images, number = recorded_images(spec), len(spec["input"]["ground_truth"]["categories"])
    figures = coco_figures(images, number, kind)
    expected = np.array([spec["outputs"][kind][key] for key in RECORDED])
    if kind == "segm":
        with_boxes = by_pycocotools(images, number, kind, keeps_boxes=True).stats
        np.testing.assert_allclose(with_boxes, expected, rtol=0, atol=1e-12)
        by_mask = by_pycocotools(images, number, kind).stats
        assert {key for key, equal in zip(RECORDED, by_mask == expected, strict=True) if not equal} <= OF_AREAS
        expected = by_mask
    values = np.nan_to_num(list(figures.figures.values()), nan=-1)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    for ending, threshold in (("AP", None), ("AP50", 0.5)):
        expected = spec["outputs"][f"{kind}_{ending}_by_class"]
        values = np.nan_to_num(figures.by_class(threshold=threshold), nan=-1)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def view_of(image: ImageRegions) -> dict:
    """The targets of an image's view, as `Objects.batched` gives them."""
    truth = image.truth
    return {
        "image_id": torch.tensor(truth.image_id),
        "frame": torch.tensor([image.height, image.width]),
        "truth_boxes": torch.from_numpy(truth.boxes),
        "truth_labels": torch.from_numpy(truth.labels),
        "truth_crowd": torch.from_numpy(truth.crowd),
        "truth_areas": torch.from_numpy(truth.areas),
        "truth_masks": None if truth.masks is None else list(truth.masks),
    }


def output_of(image: ImageRegions) -> ImageDetections:
    tensors = (torch.from_numpy(values) for values in (image.corners, image.scores, image.labels))
    return ImageDetections(*tensors, masks=list(image.masks or ()))


def scored(images, *, processes=1, order=None, batch=1, not_finite=(), **knobs):
    """Scores of images, which several processes share out in batches."""
    keepers = [
        ScoreKeeper(RegionTally(4, masks=True, **knobs), num_views=1, expected=len(images)) for _ in range(processes)
    ]
    samples = list(order or range(len(images)))
    for turn, first in enumerate(range(0, len(samples), batch)):
        part = samples[first : first + batch]
        outputs = [None if sample in not_finite else output_of(images[sample]) for sample in part]
        keepers[turn % processes].add(outputs, [view_of(images[sample]) for sample in part], torch.tensor(part))
    first, *others = keepers
    for other in others:
        first.tally.merge(other.tally)
        first._views |= other._views
    return first.gather()


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_scores_are_equal_on_any_number_of_processes_in_any_order_and_batch(processes):
    images = random_set(5)
    whole = scored(images)
    shared = scored(images, processes=processes, order=range(len(images))[::-1], batch=processes - 1)
    np.testing.assert_array_equal(list(whole.metrics().values()), list(shared.metrics().values()))
    assert list(whole.metrics()) == [name for name, *_ in FIGURES] + [f"mask_{name}" for name, *_ in FIGURES]
    assert whole.facts() == shared.facts()
    expected = by_pycocotools(images, 4, "bbox").stats  # which has images in the order of their ids
    np.testing.assert_allclose(
        list(whole.metrics().values())[:12], np.where(expected == -1, np.nan, expected), atol=1e-12
    )


def test_an_image_whose_outputs_are_not_finite_is_missed():
    images = random_set(6)
    lost = next(place for place, image in enumerate(images) if len(image.scores) and len(image.truth))
    undetected = replace(images[lost], corners=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32))
    undetected = replace(undetected, labels=np.zeros(0, np.int64), masks=())
    emptied = [undetected if place == lost else image for place, image in enumerate(images)]
    failed, expected = scored(images, not_finite={lost}), scored(emptied)
    np.testing.assert_array_equal(list(failed.metrics().values()), list(expected.metrics().values()))
    assert failed.facts()["objects"] == expected.facts()["objects"]
    assert "1 failed" in failed.counts("images")
    assert failed.metrics()["map"] < scored(images).metrics()["map"]


@pytest.mark.parametrize("size", [(0, 0), (20, 30)])
def test_an_unreadable_image_has_missed_objects_and_masks_also_if_nobody_knows_its_size(size):
    images, shapes = random_set(8), ShapePacking()
    shapes.add(polygons=[[1, 1, 9, 1, 9, 9]])
    labels, box = np.zeros(1, np.int32), np.array([[1.0, 1, 8, 8]])
    crowd, areas, ids = np.zeros(1, bool), np.array([32.0]), np.ones(1, np.int64)
    objects = ImageObjects("a.png", *size, 5, box, labels, crowd, areas, ids, shapes.shapes())
    keeper = ScoreKeeper(RegionTally(4, masks=True), num_views=1, expected=len(images) + 1)
    for sample, image in enumerate(images):
        keeper.add([output_of(image)], [view_of(image)], torch.tensor([sample]))
    keeper.fail((BadSample(99, "a.png", "damaged", target=Objects(objects, Path("a.png"))),))
    scores, whole = keeper.gather(), scored(images)
    assert scores.facts()["objects"] == whole.facts()["objects"] + 1
    for kind in ("recall_100", "mask_recall_100"):
        assert scores.metrics()[kind] < whole.metrics()[kind]


def test_masks_rank_if_asked_and_need_masks():
    images = random_set(7)
    assert next(iter(scored(images, ranked_by_masks=True).metrics())) == "mask_map"
    unmasked = [replace(image, truth=replace(image.truth, masks=None)) for image in images]
    assert "mask_map" not in scored(unmasked).metrics()
    with pytest.raises(Exception, match="the data have objects without masks; set it to boxes"):
        scored(unmasked, ranked_by_masks=True)


def test_data_without_objects_have_no_score_instead_of_a_low_one():
    keeper = ScoreKeeper(RegionTally(2), num_views=1, expected=1)
    keeper.fail((BadSample(0, "a.jpg", "damaged", target=NoTarget()),))
    scores = keeper.gather()
    assert all(value != value for value in scores.metrics().values())
    assert scores.text_of("map", scores.metrics()["map"]) == "none"
