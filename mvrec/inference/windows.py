"""Parts of a video or of a stream that follow one another."""


def windows(seconds: float, length: float, stride: float | None) -> list[tuple[float, float]]:
    """Start and end of windows, one every `stride`, until the end is covered; the last one may be shorter.

    Args:
        seconds: Length of the video.
        length: Seconds of a window.
        stride: From the start of one window to that of the next; None for windows side by side.
    """
    stride = length if stride is None else stride
    spans = [(0.0, min(length, seconds))]
    while spans[-1][1] < seconds - 1e-6 and len(spans) * stride < seconds - 1e-6:
        start = len(spans) * stride
        spans.append((start, min(start + length, seconds)))
    return spans
