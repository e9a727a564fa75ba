"""Small recognisers with random weights, of videos and of images."""

from pathlib import Path

import torch

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, ImageProtocol, Views
from mvrec.inference.recogniser import Recogniser
from mvrec.models import MViT
from mvrec.tasks.classification.outputs import ClassificationOutputs

NETWORK = {"image_size": 32, "embed_dim": 8, "depth": 2, "dim_mults": {1: 2}, "q_strides": {1: 2}}


def video_recogniser(*, clip: ClipSpec | None = None, **views) -> Recogniser:
    torch.manual_seed(0)
    protocol = ClipProtocol(
        clip=clip or ClipSpec(num_frames=4, stride_frames=2, target_fps=None),
        views=Views(**{"num_clips": 3, "num_crops": 3, "short_side": 32} | views),
        size=32,
    )
    model = MViT(num_classes=3, num_frames=4, **NETWORK).eval()
    return Recogniser(model, ClassificationOutputs("abc"), protocol, Path("weights"))


def image_recogniser() -> Recogniser:
    torch.manual_seed(0)
    model = MViT(num_classes=3, num_frames=None, pool_kernel=(1, 3, 3), **NETWORK).eval()
    return Recogniser(model, ClassificationOutputs("abc"), ImageProtocol(short_side=40, size=32), Path("weights"))
