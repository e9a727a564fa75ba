"""The published files of weights of every network in the zoo. Importing this module costs nothing.

Every fact is from the page that the entry names, or from the source of the library that fetches the file. None stands
for what the publisher does not say.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mvrec.errors import UserError, nearest
from mvrec.published import IMAGE, PUBLISHED, VIDEO

MIB = 1024**2 / 1e6  # torchvision gives sizes in MiB


@dataclass(frozen=True)
class WeightsFile:
    """One published file.

    Attributes:
        name: `NETWORK.PUBLISHER`, by which mvrec knows it.
        page: Where the publisher describes it.
        address: Of the file itself; None if only a browser can fetch it from `page` or `shelf`.
        layout: The layout in which it names its tensors, one that mvrec loads.
        licence: Of the weights, as far as the publisher states one.
        data: The data set of its training and score.
        top1: Published top-1 accuracy in percent on `data`; None if the publisher gives none for this file.
        megabytes: Size in 10^6 bytes; None if not published.
        sha256: SHA-256 or its first digits; None if not published.
        shelf: The page to fetch it from by hand, where there is no address.
        note: What else to know.
    """

    name: str
    page: str
    address: str | None
    layout: str
    licence: str
    data: str
    top1: float | None
    megabytes: float | None = None
    sha256: str | None = None
    shelf: str | None = None
    note: str = ""

    @property
    def network(self) -> str:
        """The network of the zoo."""
        return self.name.partition(".")[0]

    @property
    def suffix(self) -> str:
        """The ending of the file, with its dot."""
        return "." + self.address.rpartition(".")[2] if self.address else ".pth"


SSV2 = "SSv2"  # Something-Something V2
_SLOWFAST_ZOO = "https://github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md"
_SLOWFAST_V2 = "https://github.com/facebookresearch/SlowFast/blob/main/projects/mvitv2/README.md"
_SLOWFAST_FILES = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo"
_V2_VIDEO = f"{_SLOWFAST_FILES}/mvitv2/pysf_video_models"
_MVIT = "https://github.com/facebookresearch/mvit"
_MVIT_FILES = "https://dl.fbaipublicfiles.com/mvit/mvitv2_models"
_HUB = "https://github.com/facebookresearch/pytorchvideo/blob/main/pytorchvideo/models/hub/vision_transformers.py"
_HUB_FILES = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"
_TORCHVISION = "https://docs.pytorch.org/vision/stable/models/video_mvit.html"
_TORCHVISION_FILES = "https://download.pytorch.org/models"
_TIMM = "https://huggingface.co/timm"
_SHUNTED = "https://github.com/OliverRensu/Shunted-Transformer"
_SHUNTED_SHELF = "https://drive.google.com/drive/folders/15iZKXFT7apjUSoN2WUMAbb0tvJgyh3YP"
_SGFORMER = "https://github.com/OliverRensu/SG-Former"
_SGFORMER_SHELF = "https://drive.google.com/drive/folders/1ZJDEwxDffqqqzBC2SzhOkpWpGRweDsE4"
_DRIVE = "https://drive.google.com/file/d"

APACHE_CODE = "Apache-2.0, stated for the repository"
APACHE_CARD = "Apache-2.0"
BSD_CODE = "BSD-3-Clause, stated for the library; the data set may add terms"
UNSTATED = "not stated"
_BY_DRIVE = "on Google Drive, which a browser must fetch"


def _shunted(letter: str, top1: float) -> WeightsFile:
    name = f"shunted_{letter}.authors"
    layout = "Shunted Transformer"
    return WeightsFile(
        name, _SHUNTED, None, layout, UNSTATED, IMAGE, top1, shelf=_SHUNTED_SHELF, note=f"a folder {_BY_DRIVE}"
    )


def _sgformer(letter: str, top1: float) -> WeightsFile:
    name = f"sgformer_{letter}.authors"
    note = f"a folder {_BY_DRIVE}; which sizes it holds is not stated"
    return WeightsFile(name, _SGFORMER, None, "SG-Former", UNSTATED, IMAGE, top1, shelf=_SGFORMER_SHELF, note=note)


def _mvit_image(letter: str, top1: float) -> WeightsFile:
    address = f"{_MVIT_FILES}/MViTv2_{letter.upper()}_in1k.pyth"
    return WeightsFile(f"mvit_v2_{letter}.authors", _MVIT, address, "mvit repository", APACHE_CODE, IMAGE, top1)


def _timm(letter: str, size: str, top1: float, megabytes: float, sha256: str | None = None) -> WeightsFile:
    page = f"{_TIMM}/mvitv2_{size}.fb_in1k"
    address = f"{page}/resolve/main/model.safetensors"
    note = "the authors' weights, converted by timm; score of the authors"
    return WeightsFile(
        f"mvit_v2_{letter}.timm", page, address, "timm", APACHE_CARD, IMAGE, top1, megabytes, sha256, note=note
    )


def _slowfast(network: str, file: str, data: str, top1: float) -> WeightsFile:
    publisher = "slowfast_ssv2" if data == SSV2 else "slowfast"
    address = f"{_V2_VIDEO}/{file}.pyth"
    note = "started from Kinetics-400's" if data == SSV2 else ""
    return WeightsFile(f"{network}.{publisher}", _SLOWFAST_V2, address, "SlowFast", APACHE_CODE, data, top1, note=note)


# Of a network the first file is the one that its name alone means: the best checked one that needs no browser.
_FILES = (
    _shunted("t", 79.8),
    _shunted("s", 82.9),
    _shunted("b", 84.0),
    _sgformer("s", 83.2),
    _sgformer("m", 84.1),
    _sgformer("b", 84.7),
    WeightsFile(
        "mvit_b_image.pytorchvideo",
        _HUB,
        f"{_HUB_FILES}/imagenet/MVIT_B_16_f292487636.pyth",
        *("pytorchvideo", APACHE_CODE, IMAGE, 83.0),
    ),
    WeightsFile(
        "mvit_b_image.slowfast",
        *(_SLOWFAST_ZOO, None, "SlowFast", APACHE_CODE, IMAGE, 82.9),
        shelf=f"{_DRIVE}/1dYYqUB-3DSgBVc9d6o-rW8ojtVsrFLgp/view",
        note=_BY_DRIVE,
    ),
    _mvit_image("t", 82.3),
    _timm("s", "small", 83.6, 140),
    _mvit_image("s", 83.6),
    _timm("b", "base", 84.4, 206),
    _mvit_image("b", 84.4),
    _timm("l", "large", 85.3, 872, "8d03f6cda53cf65782832312a4d4fb8af5217b33e4ae335e2545664f24bd31ad"),
    _mvit_image("l", 85.3),
    WeightsFile(
        "mvit_b_16x4.torchvision",
        *(_TORCHVISION, f"{_TORCHVISION_FILES}/mvit_v1_b-dbeb1030.pth", "torchvision", BSD_CODE, VIDEO, 78.477),
        *(139.764 * MIB, "dbeb1030"),
        note="converted from pytorchvideo's",
    ),
    WeightsFile(
        "mvit_b_16x4.pytorchvideo",
        *(_HUB, f"{_HUB_FILES}/kinetics/MVIT_B_16x4.pyth", "pytorchvideo", APACHE_CODE, VIDEO, 78.9),
    ),
    WeightsFile(
        "mvit_b_16x4.slowfast",
        *(_SLOWFAST_ZOO, None, "SlowFast", APACHE_CODE, VIDEO, 78.4),
        shelf=f"{_DRIVE}/194gJinVejq6A1FmySNKQ8vAN5-FOY-QL/view",
        note=f"{_BY_DRIVE}; reported as gone since 2022",
    ),
    WeightsFile(
        "mvit_b_32x3.pytorchvideo",
        *(_HUB, f"{_HUB_FILES}/kinetics/MVIT_B_32x3_f294077834.pyth", "pytorchvideo", APACHE_CODE, VIDEO, 80.3),
    ),
    WeightsFile(
        "mvit_b24_32x3.slowfast",
        *(_SLOWFAST_ZOO, f"{_SLOWFAST_FILES}/mvit/k400.pyth", "SlowFast", APACHE_CODE, VIDEO, 80.4),
        note="24 blocks by its configuration; the file's shapes decide",
    ),
    WeightsFile(
        "mvit_v2_s_16x4.torchvision",
        *(_TORCHVISION, f"{_TORCHVISION_FILES}/mvit_v2_s-ae3be167.pth", "torchvision", BSD_CODE, VIDEO, 80.757),
        *(131.884 * MIB, "ae3be167"),
        note="converted from SlowFast's",
    ),
    _slowfast("mvit_v2_s_16x4", "MViTv2_S_16x4_k400_f302660347", VIDEO, 81.0),
    _slowfast("mvit_v2_s_16x4", "MViTv2_S_16x4_ssv2_f308341823", SSV2, 68.2),
    _slowfast("mvit_v2_b_32x3", "MViTv2_B_32x3_k400_f304025456", VIDEO, 82.9),
    _slowfast("mvit_v2_b_32x3", "MViTv2_B_32x3_ssv2_f305803282", SSV2, 70.5),
    _slowfast("mvit_v2_l_40x3", "MViTv2_L_40x3_k400_f306903192", VIDEO, 86.1),
    _slowfast("mvit_v2_l_40x3", "MViTv2_L_40x3_ssv2_f309603968", SSV2, 73.3),
)
FILES: Mapping[str, WeightsFile] = MappingProxyType({file.name: file for file in _FILES})
# Networks without any published file, and where the authors say so.
UNPUBLISHED = MappingProxyType(
    {name: "https://github.com/qhfan/CloFormer" for name in PUBLISHED if name.startswith("cloformer")}
)


def files_like(pattern: str) -> tuple[list[WeightsFile], list[str]]:
    """Return the files, and the networks without one, whose name or network matches a pattern.

    Args:
        pattern: A name of a file or network, or a shell pattern such as `mvit_v2_*`.

    Raises:
        UserError: There are none.
    """
    files = [file for file in FILES.values() if _matches(file.name, pattern) or _matches(file.network, pattern)]
    networks = [name for name in UNPUBLISHED if _matches(name, pattern)]
    if not files and not networks:
        raise UserError(f"no weights match {pattern!r}{nearest(pattern, [*FILES, *PUBLISHED])} (mvrec weights)")
    return files, networks


def published_file(name: str) -> WeightsFile | None:
    """Return the file of a name, or the first one of a network's name; None for every other text."""
    return FILES.get(name) or next((file for file in FILES.values() if file.network == name), None)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)
