"""From the raw outputs of an exported detector to objects. Needs numpy only: copy this file and use it anywhere.

rule = json.loads(session.get_modelmeta().custom_metadata_map["mvrec"])["decode"]
boxes, scores, labels = decode(*session.run(None, {"image": image, "size": size}), size, rule)
"""

from typing import Any

import numpy as np


def decode(boxes: Any, scores: Any, deltas: Any, size: Any, rule: Any) -> Any:
    """Return boxes float32 (D, 4) in pixels of the file, left, top, right, bottom; scores (D,); labels (D,).

    Args:
        boxes: (N, 4), anchors or proposals in pixels of the input.
        scores: (N, K).
        deltas: (N, K or 1, 4), corrections of the boxes.
        size: Height and width of the image in the input, and its scale along x and y.
        rule: `levels` (rows of each map), `candidates` of each, `weights` of corrections, limits of the `logarithms` of
            corrected sides, `narrowest` side in pixels, whether boxes are cut to the image last, thresholds.
    """
    height, width, scale_x, scale_y = size
    rows: Any = []
    labels: Any = []
    first = 0
    for count in rule["levels"]:
        row, label = np.nonzero(scores[first : first + count] > rule["score_threshold"])
        best = np.argsort(-scores[first + row, label], kind="stable")[: rule["candidates"]]
        rows, labels, first = [*rows, first + row[best]], [*labels, label[best]], first + count
    rows, labels = np.concatenate(rows), np.concatenate(labels)
    scores = scores[rows, labels]
    x, y, w, h = (deltas[rows, labels if deltas.shape[1] > 1 else 0] / np.float32(rule["weights"])).T
    left, top, right, bottom = boxes[rows].T
    w, h = (np.exp(np.clip(side, *rule["logarithms"])) for side in (w, h))
    x, y = left + (right - left) * (x + 0.5), top + (bottom - top) * (y + 0.5)
    w, h = w * (right - left) / 2, h * (bottom - top) / 2
    boxes, limits = np.stack([x - w, y - h, x + w, y + h], 1), np.array([width, height] * 2, np.float32)
    boxes = boxes if rule["clips_last"] else boxes.clip(0, limits)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, waiting = sides.prod(1), np.argsort(-scores, kind="stable")
    winners: list[Any] = []
    waiting = waiting[sides[waiting].min(1) > rule["narrowest"]]
    while len(waiting) and len(winners) < rule["max_detections"]:
        best, waiting = waiting[0], waiting[1:]
        winners.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[waiting, :2]), np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        doubles = common > rule["nms_threshold"] * (areas[best] + areas[waiting] - common)
        waiting = waiting[~doubles | (labels[waiting] != labels[best])]
    ratio = np.array([np.round(width / scale_x) / width, np.round(height / scale_y) / height] * 2, np.float32)
    return boxes[winners].clip(0, limits) * ratio, scores[winners], labels[winners]
