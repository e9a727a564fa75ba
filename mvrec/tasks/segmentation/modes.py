"""From a network and an image to the class of each pixel, under a protocol.

The network reads the image resized as a whole, or windows of it. Its logits are resized to the image's own size, where
classes are decided; over several views their probabilities are averaged. The arithmetic is that of mmsegmentation 1.2
(`EncoderDecoder`, `SegTTAModel`): bilinear without antialias, corners not aligned.

Only the classes are ever as large as a large image. Logits are resized and decided in stripes of rows, and windows give
their finished rows before the network reads the windows below.
"""

from collections.abc import Callable, Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.data.views.protocol import MaskProtocol
from mvrec.data.views.targets import NOT_LABELLED

Network = Callable[[Tensor], Tensor]  # float (1, 3, h, w) to logits (1, K, h, w)
Rows = Callable[[int, int], Tensor]  # the rows from the first to before the last of a map: (1, C, last - first, w)
Size = tuple[int, int]

STRIPE = 2**22  # numbers in a stripe: 16 MiB, so that a few of them stay in a cache


@torch.no_grad()
def label_map(network: Network, image: Tensor, protocol: MaskProtocol) -> Tensor | None:
    """Return the class of each pixel.

    Args:
        network: From a normalised image (1, 3, h, w) of any size to logits (1, K, h, w).
        image: Normalised, float (1, 3, H, W).
        protocol: Size of the network's input, windows and views.

    Returns:
        (H, W) on the image's device: uint8, or int16 where K exceeds 255, the mark of unlabelled pixels. `None` if a
        logit is infinite or NaN, which decides no class.
    """
    size = _size(image)
    if _views_exceed_image(protocol, size):
        mean = class_values(network, image, protocol)
        return None if mean is None else _classes(mean).to(image.device)
    views = [_View(network, image, protocol, *setting) for setting in _settings(protocol)]
    labels: Tensor | None = None
    for first, last in _stripes(views[0].num_classes, *size):
        values = views[0].logits(first, last)
        if len(views) > 1:
            values = torch.stack([view.logits(first, last).softmax(1) for view in views]).mean(0)
        classes = _classes(values[0])
        labels = classes.new_empty(size, device=image.device) if labels is None else labels
        labels[first:last] = classes
    return labels if all(view.is_finite() for view in views) else None


@torch.no_grad()
def class_values(network: Network, image: Tensor, protocol: MaskProtocol) -> Tensor | None:
    """Return the values by which `label_map` decides; they take K times the memory of an image's channel.

    Args:
        network: From a normalised image (1, 3, h, w) of any size to logits (1, K, h, w).
        image: Normalised, float (1, 3, H, W).
        protocol: Size of the network's input, windows and views.

    Returns:
        float32 (K, H, W) on the logits' device: logits of one view, mean probabilities of several. `None` if a logit
        is infinite or NaN.
    """
    settings, size = _settings(protocol), _size(image)
    total: Tensor | None = None
    for setting in settings:
        view = _View(network, image, protocol, *setting)
        for first, last in _stripes(view.num_classes, *size):
            logits = view.logits(first, last)[0]
            values = logits if len(settings) == 1 else logits.softmax(0) / len(settings)
            total = values.new_zeros(len(values), *size) if total is None else total
            total[:, first:last] += values
        if not view.is_finite():
            return None
    return total


class _View:
    """The logits of one view, at the size of the image."""

    def __init__(self, network: Network, image: Tensor, protocol: MaskProtocol, ratio: float, flip: bool) -> None:
        self.image, self.flip = image, flip
        self.size, self.network_size = _size(image), protocol.network_size(*_size(image), ratio)
        self.network = network
        self.extremes: list[Tensor] = []  # of the logits of each input
        self.rows = self._whole() if protocol.mode == "whole" else _Windows(self, protocol).rows
        self.num_classes = self.rows(0, 1).shape[1]

    def logits(self, first: int, last: int) -> Tensor:
        """Return logits (1, K, last - first, W) of rows of the image; `first` never decreases."""
        return _resized(self._unflipped, self.network_size, self.size, first, last)

    def pixels(self, first: int, last: int) -> Tensor:
        """Return rows (1, 3, last - first, w) of the network's input."""
        rows = _resized(lambda top, bottom: self.image[:, :, top:bottom], self.size, self.network_size, first, last)
        return rows.flip(-1) if self.flip else rows

    def network_logits(self, pixels: Tensor) -> Tensor:
        """Return the network's logits in float32, in which they are summed, resized and compared."""
        logits = self.network(pixels.contiguous()).float()
        self.extremes.extend(logits.aminmax())  # infinite or NaN if a logit is; `isfinite` takes 13 times as long
        return logits

    def is_finite(self) -> bool:
        """Return whether all logits until now are finite; this waits for the device, so ask at the end."""
        return bool(torch.stack(self.extremes).isfinite().all())

    def _whole(self) -> Rows:
        logits = self.network_logits(self.pixels(0, self.network_size[0]))
        return lambda first, last: logits[:, :, first:last]

    def _unflipped(self, first: int, last: int) -> Tensor:
        rows = self.rows(first, last)
        return rows.flip(-1) if self.flip else rows


class _Windows:
    """The mean logits of windows, given from the upper to the lower rows."""

    def __init__(self, view: _View, protocol: MaskProtocol) -> None:
        height, width = view.network_size
        boxes = protocol.windows(height, width)
        self.view, self.window = view, boxes[0]
        self.lefts = [box.left for box in boxes if box.top == boxes[0].top]
        self.tops = [top for top, _ in groupby(box.top for box in boxes)]
        self.row_counts = _counts(self.tops, self.window.height, height)
        self.column_counts = _counts(self.lefts, self.window.width, width)
        self.sums: Tensor | None = None  # (1, K, rows of a window, w) from the next window's top on
        self.ready: Tensor | None = None  # finished rows from `start` on
        self.start, self.end, self.next = 0, 0, 0

    def rows(self, first: int, last: int) -> Tensor:
        """Return finished rows and forget those above `first`."""
        while self.end < last:
            self._finish(self._summed(self.tops[self.next]))
        assert self.ready is not None, "the image has rows"
        assert first >= self.start, "rows are given from top to bottom"
        self.ready, self.start = self.ready[:, :, first - self.start :], first
        return self.ready[:, :, : last - first]

    def _summed(self, top: int) -> Tensor:
        """Add the windows of a row to the sums."""
        band = self.view.pixels(top, top + self.window.height)
        for left in self.lefts:
            columns = slice(left, left + self.window.width)
            logits = self.view.network_logits(band[..., columns])
            if self.sums is None:
                self.sums = logits.new_zeros(*logits.shape[:3], band.shape[3])
            self.sums[..., columns] += logits
        assert self.sums is not None, "a row has one window at least"
        return self.sums

    def _finish(self, sums: Tensor) -> None:
        """Move the rows above the next windows from the sums to the finished ones."""
        self.next += 1
        end = self.tops[self.next] if self.next < len(self.tops) else self.view.network_size[0]
        done = end - self.end
        counts = self.row_counts[self.end : end, None] * self.column_counts
        finished = sums[:, :, :done] / counts.to(sums)
        self.sums = torch.cat([sums[:, :, done:], torch.zeros_like(sums[:, :, :done])], dim=2)
        self.ready = finished if self.ready is None else torch.cat([self.ready, finished], dim=2)
        self.end = end


def _settings(protocol: MaskProtocol) -> list[tuple[float, bool]]:
    """Return ratio and flip of each view."""
    return [(ratio, flip) for ratio in protocol.ratios for flip in ((False, True) if protocol.flip else (False,))]


def _views_exceed_image(protocol: MaskProtocol, size: Size) -> bool:
    """Return whether logits of several whole views together take more memory than one map of the image's size."""
    sizes = [protocol.network_size(*size, ratio) for ratio, _ in _settings(protocol)]
    return protocol.mode == "whole" and len(sizes) > 1 and sum(h * w for h, w in sizes) > size[0] * size[1]


def _classes(values: Tensor) -> Tensor:
    """Return the class (H, W) of the largest of the values (K, H, W); of equal ones, the first."""
    return values.argmax(0).to(torch.uint8 if len(values) <= NOT_LABELLED else torch.int16)


def _stripes(channels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Divide the rows of a map (channels, height, width) into stripes of at most `STRIPE` numbers, or one row."""
    rows = max(STRIPE // (channels * width), 1)
    return ((first, min(first + rows, height)) for first in range(0, height, rows))


def _resized(rows: Rows, size: Size, new_size: Size, first: int, last: int) -> Tensor:
    """Return the rows from `first` to before `last` of `F.interpolate(map, new_size, mode="bilinear")`.

    Args:
        rows: Gives rows of the map.
        size: (height, width) of the map.
        new_size: (height, width) after resizing.
        first: The first row after resizing.
        last: The row after the last one.
    """
    if size == new_size:
        return rows(first, last)
    if (first, last) == (0, new_size[0]):
        return F.interpolate(rows(0, size[0]), new_size, mode="bilinear")
    upper, lower, weight = _neighbours(size[0], new_size[0], first, last)
    top, bottom = int(upper[0]), int(lower[-1]) + 1
    wide = F.interpolate(rows(top, bottom), (bottom - top, new_size[1]), mode="bilinear")
    above, below = (wide.index_select(2, (index - top).to(wide.device)) for index in (upper, lower))
    return torch.lerp(above, below, weight[:, None].to(wide))


def _neighbours(length: int, new_length: int, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row above, the row below, and the weight of the one below; in float32, as torch computes them."""
    place = (torch.arange(first, last, dtype=torch.float32) + 0.5) * (length / new_length) - 0.5
    place = place.clamp(min=0)
    upper = place.to(torch.int64).clamp(max=length - 1)
    return upper, (upper + 1).clamp(max=length - 1), place - upper


def _counts(starts: list[int], length: int, total: int) -> Tensor:
    """Return how many of the intervals of a length cover each of `total` places, float32 (total,)."""
    counts = torch.zeros(total)
    for start in starts:
        counts[start : start + length] += 1
    return counts


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]
