"""Detectors as graphs of fixed sizes: raw outputs for a decoding elsewhere, or objects.

Both take a normalised image (1, 3, H, W) of one size, padded with 0 at the bottom and right, and float32 (4,): height
and width in pixels of the part that is image, and its scale along x and y, its sides over those of the file.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from mvrec.export.detectors.fixed_sizes import (
    NO_SCORE,
    best_rows,
    box_cells,
    clipped,
    shortest_sides,
    stays,
)
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.retinanet import CANDIDATES as LEVEL_CANDIDATES
from mvrec.models.heads.detection.retinanet import RetinaNet
from mvrec.models.heads.detection.roi_heads import NARROWEST
from mvrec.models.heads.detection.rpn import SMALLEST

NO_SIDE = -1.0  # pixels that every side exceeds
CANDIDATES = 2000  # pairs of box and class that the graph compares; a hundred of them stay


class Raw(NamedTuple):
    """The outputs of a network for an image, before overlapping boxes are left out.

    Attributes:
        boxes: (N, 4), anchors or proposals in pixels of the view.
        scores: (N, K), 0..1, or less than 0 in rows without a box.
        deltas: (N, K or 1, 4), corrections of the boxes for each class or for all.
    """

    boxes: Tensor
    scores: Tensor
    deltas: Tensor


class RawDetector(nn.Module):
    """A detector up to its raw outputs, see `Raw`.

    Args:
        network: The detector, in evaluation mode.
        sides: (height, width) of the image in pixels, multiples of 32.
    """

    all_anchors: Tensor

    def __init__(self, network: Backbone, sides: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.sides = network, sides
        head = self.head
        self.arguments: dict[str, Any] = dict(head.arguments)
        self.style = self.arguments["style"]
        self.is_retinanet = isinstance(head.detector, RetinaNet)
        self.is_cascade = self.arguments["detector"].startswith("cascade")
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, network.input_shape[0], *sides, device=next(network.parameters()).device))
        generator = head.detector.anchors if self.is_retinanet else head.detector.rpn.anchors
        levels = generator.of_levels(maps, sides)
        self.counts = [len(level) for level in levels]
        self.register_buffer("all_anchors", torch.cat(levels), persistent=False)

    @property
    def head(self) -> Any:
        """The network's head."""
        return self.network.head

    @property
    def levels(self) -> list[int]:
        """Rows of the raw outputs of each map; proposals belong together."""
        if self.is_retinanet:
            return self.counts
        return [min(self.head.detector.rpn.proposals[False], len(self.counts) * self._most)]

    @property
    def _most(self) -> int:
        """The most proposals of a map."""
        return min(self.head.detector.rpn.candidates[False], max(self.counts))

    @property
    def candidates(self) -> int:
        """The most pairs of box and class of a level that are looked at."""
        return LEVEL_CANDIDATES if self.is_retinanet else self.levels[0] * self.network.num_classes

    @property
    def clips_last(self) -> bool:
        """Whether overlapping boxes are left out before boxes are cut to the image."""
        return self.is_retinanet and self.style == "detectron2"

    @property
    def narrowest(self) -> float:
        """Pixels of a side that every box exceeds."""
        if self.style == "torchvision" and not self.is_retinanet:
            return NARROWEST
        return 0.0 if self.style == "mmdetection" and self.is_retinanet else NO_SIDE

    @property
    def weights(self) -> list[float]:
        """Factors of the four corrections."""
        if self.is_retinanet:
            return list(self.head.detector.coder.weights)
        return [1.0] * 4 if self.is_cascade else list(self.head.detector.roi_heads.boxes.box_coder.weights)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the maps of the pyramid, in the order of memory that exporters assume."""
        pairs = zip(self.head.level_norms, self.network.feature_maps(image)[self.head.first_level :], strict=True)
        return [level.contiguous() for level in self.head.neck([norm(level) for norm, level in pairs])]

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores and deltas, see `Raw`."""
        return tuple(self.raw(self.maps(image), size))

    def raw(self, maps: list[Tensor], size: Tensor) -> Raw:
        """Return the raw outputs for maps."""
        if self.is_retinanet:
            detector = self.head.detector
            logits, deltas = detector.classification_head(maps)[0], detector.regression_head(maps)[0]
            return Raw(self.all_anchors, logits.sigmoid(), deltas[:, None])
        heads: Any = self.head.detector.roi_heads
        boxes, exist = self.proposals(maps, size)
        if self.is_cascade:
            boxes, scores, deltas = self._refined(heads, maps, boxes, size)
        else:
            logits, deltas = self._branch(heads.boxes, maps, boxes)
            scores = logits.softmax(1)
            deltas = deltas if heads.boxes.agnostic else deltas[:, 1:]
        scores = torch.where(exist[:, None], scores[:, 1:], torch.full_like(scores[:, 1:], NO_SCORE))
        return Raw(boxes, scores, deltas)

    def proposals(self, maps: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best proposals (P, 4) in pixels of the view, and whether there is one in each row (P,)."""
        rpn = self.head.detector.rpn
        logits, deltas = concat_box_prediction_layers(*rpn.head(maps))
        most = self._most
        all_boxes, all_scores = [], []
        parts = zip(*(each.split(self.counts) for each in (logits.flatten(), deltas, self.all_anchors)), strict=True)
        for level_logits, level_deltas, level_anchors in parts:
            scores, rows = best_rows(level_logits, most)
            boxes = clipped(rpn.box_coder.decode_single(level_deltas[rows], level_anchors[rows]), size[0], size[1])
            exist = shortest_sides(boxes) >= SMALLEST.get(self.style, torch.finfo(torch.float32).tiny)
            scores = torch.where(exist, scores.sigmoid(), torch.full_like(scores, NO_SCORE))
            missing = most - len(rows)
            all_boxes.append(torch.cat([boxes, boxes.new_zeros(missing, 4)]))
            all_scores.append(torch.cat([scores, scores.new_full((missing,), NO_SCORE)]))
        boxes, scores = torch.stack(all_boxes), torch.stack(all_scores)  # (levels, most, 4) and (levels, most)
        staying = stays(boxes, torch.zeros_like(scores), 0.7)
        scores = torch.where(staying, scores, torch.full_like(scores, NO_SCORE))
        best, rows = best_rows(scores.flatten(), rpn.proposals[False])
        return boxes.flatten(0, 1)[rows], best > NO_SCORE

    def _branch(self, branch: Any, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = branch.box_predictor(branch.box_head(box_cells(branch.box_roi_pool, maps, boxes)))
        return logits, deltas.unflatten(1, (-1, 4))

    def _refined(self, heads: Any, maps: list[Tensor], boxes: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes of the last stage of a cascade, mean scores, and corrections of 0."""
        outputs = []
        for branch in heads.boxes:
            logits, deltas = self._branch(branch, maps, boxes)
            outputs.append(logits if self.style == "mmdetection" else logits.softmax(1))
            coder: Any = branch.box_coder
            boxes = clipped(coder.decode_single(deltas[:, 0], boxes), size[0], size[1])
        scores = torch.stack(outputs).mean(0)
        scores = scores.softmax(1) if self.style == "mmdetection" else scores
        return boxes, scores, torch.zeros_like(boxes)[:, None]


class WholeDetector(RawDetector):
    """A detector up to its objects, as many rows for every image.

    The graph compares the best 2,000 pairs of box and class, and applies no least score.
    """

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (D, 4) in pixels of the file, scores (D,), 0 in rows without an object, labels int64 (D,).

        Of a detector with masks also their probabilities (D, 28, 28) over the boxes.
        """
        maps = self.maps(image)
        raw = self.raw(maps, size)
        rows, labels, scores = self._candidates(raw)
        deltas = raw.deltas[rows, labels] if raw.deltas.shape[1] > 1 else raw.deltas[rows, 0]
        boxes = self._corrected(deltas, raw.boxes[rows])
        if not self.clips_last:
            boxes = clipped(boxes, size[0], size[1])
        exist = (scores > NO_SCORE) & (shortest_sides(boxes) > self.narrowest)
        staying = exist & stays(boxes, labels, self.arguments["nms_threshold"])
        scores, rows = best_rows(
            torch.where(staying, scores, torch.zeros_like(scores)), self.arguments["max_detections"]
        )
        boxes, labels = boxes[rows], labels[rows]
        boxes = clipped(boxes, size[0], size[1])
        result = self._in_frame(boxes, size), scores, labels
        return (*result, self._masks(maps, boxes, labels)) if self.head.has_masks else result

    def _candidates(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, labels and scores of the best pairs of box and class."""
        num_classes, firsts, scores = raw.scores.shape[1], [], []
        first = 0
        for level in raw.scores.split(self.levels):
            best, places = best_rows(level.flatten(), self.candidates)
            firsts.append(places + first * num_classes)
            scores.append(best)
            first += len(level)
        best, order = best_rows(torch.cat(scores), CANDIDATES)
        places = torch.cat(firsts)[order]
        return places // num_classes, places % num_classes, best

    def _corrected(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Return the corrected boxes (N, 4); those of a cascade are."""
        if self.is_cascade:
            return boxes
        detector = self.head.detector
        coder: Any = detector.coder if self.is_retinanet else detector.roi_heads.boxes.box_coder
        return coder.decode_single(deltas, boxes)

    def _in_frame(self, boxes: Tensor, size: Tensor) -> Tensor:
        """Return boxes of the view in pixels of the file, as `ImageSize.in_frame` does."""
        y, x = (size[0] / size[3]).round() / size[0], (size[1] / size[2]).round() / size[1]
        return boxes * torch.stack([x, y, x, y])

    def _masks(self, maps: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        masks: Any = self.head.detector.roi_heads.masks
        branches: list[Any] = list(masks) if isinstance(masks, nn.ModuleList) else [masks]
        rows = torch.arange(boxes.shape[0], device=boxes.device)
        probabilities = []
        for branch in branches:
            logits = branch.mask_predictor(branch.mask_head(box_cells(branch.mask_roi_pool, maps, boxes)))
            probabilities.append(logits[rows, labels + 1].sigmoid())
        return torch.stack(probabilities).mean(0)
