"""A small MViT in its form for detection."""

import torch
from zoo_builds import MVIT_V2, lively

from mvrec.models import MViT


def small_form(**changes: object) -> MViT:
    """Three grids of 8, 4 and 2 cells, whose windows have 4, 4, all, 2 and all of these."""
    torch.manual_seed(0)
    arguments = MVIT_V2 | {"num_frames": None, "image_size": 32, "pool_kernel": (1, 3, 3), "cls_token": False}
    form = {"window": 4, "double_last_kv_stride": True, "level_norms": True}
    return lively(MViT(**arguments | form | changes)).eval()
