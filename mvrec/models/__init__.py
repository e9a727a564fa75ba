from mvrec.models.backbone import Backbone
from mvrec.models.cloformer import CloFormer, cloformer_s, cloformer_xs, cloformer_xxs
from mvrec.models.mvit import MViT
from mvrec.models.mvit_variants import (
    mvit_b24_32x3,
    mvit_b_16x4,
    mvit_b_32x3,
    mvit_b_image,
    mvit_v2_b,
    mvit_v2_b_32x3,
    mvit_v2_l,
    mvit_v2_l_40x3,
    mvit_v2_s,
    mvit_v2_s_16x4,
    mvit_v2_t,
)
from mvrec.models.shunted import Shunted, shunted_b, shunted_s, shunted_t

__all__ = [
    "Backbone",
    "CloFormer",
    "MViT",
    "Shunted",
    "cloformer_s",
    "cloformer_xs",
    "cloformer_xxs",
    "mvit_b24_32x3",
    "mvit_b_16x4",
    "mvit_b_32x3",
    "mvit_b_image",
    "mvit_v2_b",
    "mvit_v2_b_32x3",
    "mvit_v2_l",
    "mvit_v2_l_40x3",
    "mvit_v2_s",
    "mvit_v2_s_16x4",
    "mvit_v2_t",
    "shunted_b",
    "shunted_s",
    "shunted_t",
]
