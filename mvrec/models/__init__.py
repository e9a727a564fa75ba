from mvrec.models.backbone import Backbone
from mvrec.models.baselines.own import OwnNetwork
from mvrec.models.checkpoints import LoadReport, load_weights
from mvrec.models.cloformer import CloFormer, cloformer_s, cloformer_xs, cloformer_xxs
from mvrec.models.fast.accelerate import accelerate
from mvrec.models.framewise import Framewise
from mvrec.models.heads.actions import ActionHead
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.feature_pyramid import FeaturePyramid
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.models.macs import count_macs
from mvrec.models.mvit.mvit import MViT
from mvrec.models.mvit.variants import (
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
from mvrec.models.sgformer import SGFormer, sgformer_b, sgformer_m, sgformer_s
from mvrec.models.shunted import Shunted, shunted_b, shunted_s, shunted_t
from mvrec.models.zoo import create_model, list_models

__all__ = [
    "ActionHead",
    "Backbone",
    "CloFormer",
    "DetectionHead",
    "FeaturePyramid",
    "Framewise",
    "LoadReport",
    "MViT",
    "OwnNetwork",
    "SGFormer",
    "SegmentationHead",
    "Shunted",
    "accelerate",
    "cloformer_s",
    "cloformer_xs",
    "cloformer_xxs",
    "count_macs",
    "create_model",
    "list_models",
    "load_weights",
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
    "sgformer_b",
    "sgformer_m",
    "sgformer_s",
    "shunted_b",
    "shunted_s",
    "shunted_t",
]
