"""Published facts about every network of the zoo. Importing this module costs nothing."""

import fnmatch
from dataclasses import dataclass
from typing import Any

ZOO = "mvrec.models"
CREATE_MODEL = f"{ZOO}.create_model"

SHUNTED = "Ren et al. 2022, arXiv 2111.15193"
SGFORMER = "Ren et al. 2023, arXiv 2308.12216"
CLOFORMER = "Fan et al. 2023, arXiv 2303.17803"
MVIT = "Fan et al. 2021, arXiv 2104.11227"
MVIT_V2 = "Li et al. 2022, arXiv 2112.01526"
IMAGE, VIDEO = "ImageNet-1k", "Kinetics-400"
V1_VIDEO = ("SlowFast", "pytorchvideo", "torchvision")
V1_IMAGE = ("SlowFast", "pytorchvideo")
V2_VIDEO = ("SlowFast", "torchvision")
V2_IMAGE = ("mvit repository", "SlowFast", "timm")


@dataclass(frozen=True)
class Published:
    """One network of the zoo.

    Attributes:
        name: Its name, and that of its function in `mvrec.models`.
        input: `(H, W)` in pixels or `(T, H, W)` in frames and pixels to which the numbers belong.
        parameters: The number of parameters.
        gmacs: Billions of multiply-adds for one image or clip: convolutions, linear layers, attention.
        top1: Published top-1 accuracy in percent, on `data`, with the protocol of the release.
        data: The data set of training and scoring.
        source: The paper.
        layouts: Foreign layouts of checkpoints that load.
    """

    name: str
    input: tuple[int, ...]
    parameters: int
    gmacs: float
    top1: float
    data: str
    source: str
    layouts: tuple[str, ...]


_IMAGE, _16, _32 = (224, 224), (16, 224, 224), (32, 224, 224)
# fmt: off
PUBLISHED: dict[str, Published] = {network.name: network for network in (
    Published("shunted_t", _IMAGE, 11_553_576, 2.147, 79.8, IMAGE, SHUNTED, ("Shunted Transformer",)),
    Published("shunted_s", _IMAGE, 22_401_256, 4.993, 82.9, IMAGE, SHUNTED, ("Shunted Transformer",)),
    Published("shunted_b", _IMAGE, 39_614_376, 8.150, 84.0, IMAGE, SHUNTED, ("Shunted Transformer",)),
    Published("sgformer_s", _IMAGE, 22_545_981, 4.784, 83.2, IMAGE, SGFORMER, ("SG-Former",)),
    Published("sgformer_m", _IMAGE, 38_689_316, 7.427, 84.1, IMAGE, SGFORMER, ("SG-Former",)),
    Published("sgformer_b", _IMAGE, 77_950_293, 15.543, 84.7, IMAGE, SGFORMER, ("SG-Former",)),
    Published("cloformer_xxs", _IMAGE, 4_166_728, 0.661, 77.0, IMAGE, CLOFORMER, ("CloFormer",)),
    Published("cloformer_xs", _IMAGE, 7_172_216, 1.219, 79.8, IMAGE, CLOFORMER, ("CloFormer",)),
    Published("cloformer_s", _IMAGE, 12_345_576, 2.170, 81.6, IMAGE, CLOFORMER, ("CloFormer",)),
    Published("mvit_b_image", _IMAGE, 36_982_600, 7.809, 82.9, IMAGE, MVIT, V1_IMAGE),
    Published("mvit_v2_t", _IMAGE, 24_173_320, 4.677, 82.3, IMAGE, MVIT_V2, V2_IMAGE),
    Published("mvit_v2_s", _IMAGE, 34_870_216, 6.960, 83.6, IMAGE, MVIT_V2, V2_IMAGE),
    Published("mvit_v2_b", _IMAGE, 51_472_744, 10.102, 84.4, IMAGE, MVIT_V2, V2_IMAGE),
    Published("mvit_v2_l", _IMAGE, 217_992_952, 43.711, 85.3, IMAGE, MVIT_V2, V2_IMAGE),
    Published("mvit_b_16x4", _16, 36_610_672, 70.60, 78.4, VIDEO, MVIT, V1_VIDEO),
    Published("mvit_b_32x3", _32, 36_611_440, 169.96, 80.3, VIDEO, MVIT, V1_VIDEO),
    Published("mvit_b24_32x3", _32, 53_115_280, 235.78, 80.4, VIDEO, MVIT, V1_VIDEO),
    Published("mvit_v2_s_16x4", _16, 34_537_744, 64.22, 81.0, VIDEO, MVIT_V2, V2_VIDEO),
    Published("mvit_v2_b_32x3", _32, 51_230_128, 224.47, 82.9, VIDEO, MVIT_V2, V2_VIDEO),
    Published("mvit_v2_l_40x3", (40, 312, 312), 213_390_112, 2823.4, 86.1, VIDEO, MVIT_V2, V2_VIDEO),
)}
# fmt: on


def input_settings(name: str) -> dict[str, Any]:
    """Return how a network's input was prepared for its published accuracy, as arguments of a data module.

    Pixels, normalisation and views are those of the release; a test compares them with the recipes in `configs/`.

    Args:
        name: One of `list_models()`.
    """
    network = PUBLISHED[name]
    size = network.input[-1]
    if network.data == IMAGE:
        fraction = 0.9 if network.source == SGFORMER else 0.875
        return {
            "size": size,
            "crop_fraction": fraction,
            "interpolation": "bicubic",
            "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        }
    large = name == "mvit_v2_l_40x3"  # the only network with ImageNet's normalisation and three crops
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if large else ([0.45] * 3, [0.225] * 3)
    stride = int(name.rpartition("x")[2])
    crops, short_side = (3, size) if large else (1, 256)  # with three crops the short side is the crop
    return {
        "size": size,
        "clip": {"num_frames": network.input[0], "stride_frames": stride, "target_fps": 30.0},
        "normalisation": {"mean": mean, "std": std},
        "val_views": {"num_clips": 1, "num_crops": 1, "short_side": size * 256 // 224, "antialias": False},
        "test_views": {"num_clips": 5, "num_crops": crops, "short_side": short_side, "antialias": False},
    }


def list_models(pattern: str = "*") -> list[str]:
    """Return the networks of the zoo that match a shell pattern such as `mvit_v2_*`, image networks first."""
    return [name for name in PUBLISHED if fnmatch.fnmatchcase(name, pattern)]
