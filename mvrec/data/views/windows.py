"""Parts of a video or of a stream that follow one another."""

from mvrec.data.views.timeline import ROUNDING


def windows(seconds: float, length: float, stride: float | None, *, begin: float = 0.0) -> list[tuple[float, float]]:
    """Start and end of windows, one every `stride`, until the end is covered; the last one may be shorter.

    Args:
        seconds: Where the video, or the part of it that counts, ends.
        length: Seconds of a window.
        stride: From the start of one window to that of the next; None for windows side by side.
        begin: Where the part starts.
    """
    stride = length if stride is None else stride
    spans = [(begin, min(begin + length, seconds))]
    last = seconds - begin - ROUNDING  # a rest that rounded times leave is no window
    while spans[-1][1] < seconds - ROUNDING and len(spans) * stride < last:
        start = begin + len(spans) * stride
        spans.append((start, min(start + length, seconds)))
    return spans
