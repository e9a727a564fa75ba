"""Detections that match true objects by COCO's rule, at each of its overlaps, image by image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.tasks.detection.coco_figures import MOST, THRESHOLDS, Kind
from mvrec.tasks.detection.image_regions import Flags, Floats, ImageRegions
from mvrec.tasks.detection.scores import RegionScores
from mvrec.tasks.ranked_claims import RankedClaims, claims_of


def ranked_claims(scores: RegionScores) -> RankedClaims:
    """Return the claims of all detections of an evaluation, of masks if these rank checkpoints."""
    ids = scores.all_ids()
    rows = {sample: row for row, sample in enumerate(ids)}
    kind: Kind = "segm" if scores.ranked_by_masks else "bbox"
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for sample, image in sorted(scores.by_sample(), key=lambda pair: pair[1].truth.image_id):
        for name, values in _image_claims(image, rows[sample], kind):
            parts.setdefault(name, []).append(values)
    return claims_of(parts, num_files=len(ids), num_overlaps=len(THRESHOLDS), at_recalls=True)


def _image_claims(image: ImageRegions, row: int, kind: Kind) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    truth = image.truth
    labels, numbers = np.unique(truth.labels[~truth.crowd], return_counts=True)
    yield "true", np.stack([np.full_like(labels, row), labels, numbers], axis=1)
    for label in np.unique(image.labels).tolist():
        places = np.flatnonzero(image.labels == label)
        places = places[np.argsort(-image.scores[places], kind="stable")][: MOST[-1]]
        objects = np.flatnonzero(truth.labels == label)
        right, ignored = matches(overlaps(image, places, objects, kind), truth.crowd[objects])
        yield "files", np.full(len(places), row)
        yield "labels", np.full(len(places), label)
        yield "scores_of", image.scores[places].astype(np.float64)
        yield "right", right
        yield "ignored", ignored


def overlaps(image: ImageRegions, places: npt.NDArray[np.int64], objects: npt.NDArray[np.int64], kind: Kind) -> Floats:
    """Return the intersection over union of some detections and true objects, (N, M); of crowds over the detection."""
    if not len(places) or not len(objects):
        return np.zeros((len(places), len(objects)))
    from faster_coco_eval.core import mask as rle

    truth = image.truth
    crowd = truth.crowd[objects].astype(int).tolist()
    if kind == "bbox":
        shares = rle.iou(image.boxes[places], truth.boxes[objects], crowd)
    else:
        assert image.masks is not None, "the rank is that of masks"
        assert truth.masks is not None, "the rank is that of masks"
        size = [image.height, image.width]
        detected = [{"size": size, "counts": image.masks[place]} for place in places.tolist()]
        shares = rle.iou(detected, [{"size": size, "counts": truth.masks[place]} for place in objects.tolist()], crowd)
    return np.asarray(shares, np.float64).reshape(len(places), len(objects))


def matches(shares: Floats, crowd: Flags) -> tuple[Flags, Flags]:
    """Return which detections of a class in an image are right, and which are ignored: both bool (N, T).

    Each takes the object that it overlaps most among those that no better detection has, the last one of equals; if
    there is none, a crowd, which many may share.

    Args:
        shares: (N, M), the highest score first.
        crowd: bool (M,).
    """
    right, ignored = (np.zeros((len(shares), len(THRESHOLDS)), bool) for _ in range(2))
    single, crowds = shares[:, ~crowd], shares[:, crowd]
    free = np.ones((len(THRESHOLDS), single.shape[1]), bool)
    lines = np.arange(len(THRESHOLDS))
    least = np.minimum(THRESHOLDS, 1 - 1e-10)
    for place in np.flatnonzero(single.max(axis=1, initial=0) >= least[0]).tolist():
        candidates = np.where(free & (single[place] >= least[:, None]), single[place], -1)
        best = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(axis=1)
        right[place] = candidates[lines, best] >= 0
        free[lines[right[place]], best[right[place]]] = False
    if crowds.shape[1]:
        ignored = ~right & (crowds.max(axis=1)[:, None] >= least)
    return right, ignored
