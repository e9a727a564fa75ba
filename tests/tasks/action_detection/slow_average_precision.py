"""Average precision of boxes by plain loops, in the variants of the recordings; shares no code with mvrec.

A row is (frame, (left, top, right, bottom), class) and, of a detection, its score as a fourth element.
"""

from typing import Any

Row = tuple[Any, ...]


def overlap(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def slow_average_precision(
    detections: list[Row], truth: list[Row], number: Any, *, rank_rows: bool = True, later_first: bool = False
) -> float | None:
    """Average precision of one class; None without true boxes.

    Args:
        detections: In the order of rows.
        truth: The true boxes.
        number: The class.
        rank_rows: Whether the claims of a frame are made by score; else in the order of rows.
        later_first: Whether the later of two rows with one score ranks first.
    """
    of_class = [row for row in truth if row[2] == number]
    claims = [row for row in detections if row[2] == number]
    if not of_class:
        return None
    judged = []  # score, right
    for frame in dict.fromkeys(row[0] for row in detections):
        rows = [row for row in claims if row[0] == frame]
        if rank_rows:
            rows = sorted(rows, key=lambda row: -row[3])
        judged += judge(rows, [row[1] for row in of_class if row[0] == frame])
    order = list(enumerate(judged))
    order.sort(key=lambda pair: (-pair[1][0], -pair[0] if later_first else pair[0]))
    points, hits = [], 0  # recall, precision
    for rank, (_, (_, right)) in enumerate(order, 1):
        hits += right
        points.append((hits / len(of_class), hits / rank))
    return area_under(points)


def judge(rows: list[Row], boxes: list[Any]) -> list[tuple[float, bool]]:
    """Score of each row of a frame, and whether it hits a true box that no earlier row has hit."""
    hit_boxes, judged = set(), []
    for row in rows:
        best, share = None, -1.0
        for place, box in enumerate(boxes):
            if overlap(row[1], box) > share:
                best, share = place, overlap(row[1], box)
        right = share >= 0.5 and best not in hit_boxes
        if right:
            hit_boxes.add(best)
        judged.append((row[3], right))
    return judged


def area_under(points: list[tuple[float, float]]) -> float:
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return area
