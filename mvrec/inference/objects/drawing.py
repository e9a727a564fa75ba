"""Objects over an image: their masks in colours, their boxes, and what they are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mvrec.inference.objects.box_drawing import BoxLabel, Colour, Pixels, colour_of, draw_boxes
from mvrec.inference.overlay import enlarged
from mvrec.tasks.regions import Mask, Regions

LEAST_PIXELS = 360  # of the short side: text of a readable size would hide smaller pictures


def drawn_objects(pixels: Pixels, regions: Regions, tracks: Sequence[str] = (), *, opacity: float) -> Pixels:
    """Draw objects over an image, in a colour per class, or per track if there are tracks.

    Args:
        pixels: uint8 (H, W, 3).
        regions: The objects.
        tracks: The name of each object's track.
        opacity: Share of the colours of masks, from 0 to 1.

    Returns:
        uint8 (H', W', 3): a small image is enlarged by a whole number, so that text is readable.
    """
    colours = [colour_of(_number(track)) for track in tracks] or [colour_of(label) for label in regions.labels.tolist()]
    painted = painted_masks(pixels, regions.masks or (), colours, opacity=opacity)
    large = enlarged(painted[None], least=LEAST_PIXELS)[0]
    factor = np.float32(large.shape[0] / pixels.shape[0])
    pairs = zip(tracks or regions.names, regions.scores.tolist(), strict=True)
    texts = [f"{name} {score:.2f}" for name, score in pairs]
    labels = zip(regions.boxes * factor, texts, colours, strict=True)
    return draw_boxes(large, [BoxLabel(corners, (text,), colour) for corners, text, colour in labels])


def painted_masks(pixels: Pixels, masks: Sequence[Mask], colours: Sequence[Colour], *, opacity: float) -> Pixels:
    """Return an image under masks, that of the first object on top.

    Raises:
        ValueError: `opacity` is out of range.
    """
    from faster_coco_eval.core import mask as rle  # compiled, which only masks need

    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie between 0 and 1, got {opacity}")
    painted = pixels.copy()
    for mask, colour in reversed(list(zip(masks, colours, strict=False))):  # none of a network without masks
        left, top, width, height = (int(side) for side in rle.toBbox(mask))
        place = slice(top, top + height), slice(left, left + width)
        covered: npt.NDArray[np.bool_] = rle.decode(mask)[place].astype(bool)
        under = pixels[place][covered].astype(np.float32)
        mixed = under * (1 - opacity) + np.array(colour, np.float32) * opacity
        painted[place][covered] = np.rint(mixed).astype(np.uint8)
    return painted


def _number(track: str) -> int:
    return int(track.rpartition(" ")[2])
