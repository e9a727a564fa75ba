"""pytorchvideo's clip samplers.

pytorchvideo is no longer maintained, so nothing imports it until a configuration asks for one of its samplers.
"""

import warnings


def constant_clip_starts(*, clip_seconds: float, video_seconds: float, num_clips: int) -> list[float]:
    """Return clip starts in seconds as pytorchvideo's `ConstantClipsPerVideoSampler` places them.

    Clip i of n starts at `i * (video - clip) / n`: unlike SlowFast's rule the last clip does not reach the end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import uses deprecated torch.jit and parts of torchvision
        from pytorchvideo.data.clip_sampling import make_clip_sampler
    sampler = make_clip_sampler("constant_clips_per_video", clip_seconds, num_clips)
    starts: list[float] = []
    while True:
        clip = sampler(starts[-1] if starts else 0.0, video_seconds, {})
        starts.append(float(clip.clip_start_sec))
        if clip.is_last_clip:
            return starts
