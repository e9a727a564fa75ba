"""Videos with a bar of their segments below the picture, and the class that is seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mvrec.data.listing.index import Sample
from mvrec.data.loading.guarded_files import open_video
from mvrec.data.video.video import Decoder
from mvrec.errors import DecodeError, UserError
from mvrec.inference.actions.files import LEAST_PIXELS, NOMINAL_FPS, pictures
from mvrec.inference.objects.box_drawing import BoxLabel, Colour, Pixels, draw_boxes
from mvrec.inference.overlay import Mp4Writer, enlarged
from mvrec.inference.results import writing
from mvrec.inference.timeline.prediction import VideoSegments
from mvrec.inference.timeline.segments import Segment

_ROW, _PAPER, _CURSOR = 1 / 16, (34, 34, 34), (255, 255, 255)  # height of a row of the bar as a share of the picture's


def write_timelines(
    videos: Sequence[VideoSegments],
    folder: Path,
    samples: Mapping[str, tuple[Path, Sample]],
    *,
    truth: Mapping[str, Sequence[Segment]],
    colours: Mapping[str, Colour],
    decoder: Decoder = "auto",
) -> None:
    """Write videos with their segments: those predicted in the last row of the bar, the true ones above.

    Args:
        videos: The segments of each; of damaged ones what comes before the damage is written.
        folder: Where to.
        samples: The name of each source in the folder, without ending, and the video or the part of one.
        truth: The true segments by source, as far as they are known.
        colours: Of each class that is shown.
        decoder: Name of the decoder.

    Raises:
        UserError: A video cannot be opened any more, or a file cannot be written.
    """
    for video in videos:
        if video.error and not video.segments:
            continue
        name, sample = samples[video.source]
        rows = [truth[video.source], video.segments] if video.source in truth else [video.segments]
        path = folder / f"{name}.mp4"
        about = f"{video.source}: segments"
        try:
            with (
                open_video(sample.path, decoder=decoder) as opened,
                writing(path),
                Mp4Writer(path, fps=NOMINAL_FPS, about=about) as writer,
            ):
                begin = sample.start_seconds or 0.0
                end = opened.duration if sample.end_seconds is None else sample.end_seconds
                for seconds, picture in pictures(opened, sample):
                    large = enlarged(picture[None], least=LEAST_PIXELS)[0]
                    writer.write(drawn(large, rows, colours, (begin, end), seconds), seconds=max(seconds - begin, 0.0))
        except DecodeError as error:
            raise UserError(str(error)) from None


def drawn(
    picture: Pixels,
    rows: Sequence[Sequence[Segment]],
    colours: Mapping[str, Colour],
    span: tuple[float, float],
    seconds: float,
) -> Pixels:
    """Draw a bar of segments below a picture, and the present ones of the last row into it.

    Args:
        picture: uint8 (H, W, 3).
        rows: Segments, a row above the other; those of the last one have a confidence.
        colours: Of each class.
        span: Start and end of the bar in seconds.
        seconds: The present time.

    Returns:
        uint8 (H', W, 3).
    """
    height, width = picture.shape[:2]
    row_height = max(round(height * _ROW), 16)
    band = np.full((row_height * len(rows), width, 3), _PAPER, np.uint8)
    labels = []
    for row, segments in enumerate(rows):
        top, bottom = row * row_height + 2, (row + 1) * row_height - 1
        for segment in segments:
            left, right = (_column(time, span, width) for time in (segment.start, segment.end))
            colour = colours[segment.name]
            band[top:bottom, left : max(right, left + 1)] = colour
            if row == len(rows) - 1 and segment.start <= seconds < segment.end:
                corners = np.array([left, height, left, height], np.float32)  # the text is put above the bar
                text = f"{segment.name} {100 * segment.confidence:.0f} %"
                labels.append(BoxLabel(corners, [text], colour))
    now = min(_column(seconds, span, width), width - 2)
    band[:, now : now + 2] = _CURSOR
    whole = np.concatenate([picture, band])
    return draw_boxes(whole, labels) if labels else whole


def _column(seconds: float, span: tuple[float, float], width: int) -> int:
    share = (seconds - span[0]) / max(span[1] - span[0], 1e-9)
    return round(width * min(max(share, 0.0), 1.0))
