"""Files of detectors: those of mmdetection, detectron2 and torchvision, read and written back, and what they refuse."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_golden import load_recording, weights
from mvit_forms import small_form
from torch import Tensor, nn
from zoo_builds import lively, small

from mvrec.errors import UserError
from mvrec.models import create_model, load_weights
from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.baselines.names import create_baseline
from mvrec.models.checkpoints import start_from
from mvrec.models.checkpoints.coco_classes import NAMES_BY_ID
from mvrec.models.checkpoints.detector_files import as_detector_file
from mvrec.models.checkpoints.detectors import CLASS_ROWS, detector_arguments, head_of_detector, with_our_rows
from mvrec.models.checkpoints.files import read_weights
from mvrec.models.heads.detection.head import DetectionHead

NAMES = ("cat", "dog", "bird")
NARROW = {"channels": 8, "box_width": 12, "mask_convs": 2}
CASES: dict[str, dict[str, Any]] = {
    "mask": {"detector": "mask_rcnn", "mask_convs": 3, "neck_norm": True},
    "faster": {"detector": "faster_rcnn", "rpn_convs": 2, "level_norm": "group"},
    "convolutions": {"detector": "mask_rcnn", "box_convs": 2, "head_norm": True},
    "retina": {"detector": "retinanet"},
    "groups": {"detector": "retinanet", "head_norm": True, "channels": 32},
    "cascade": {"detector": "cascade_mask_rcnn", "box_convs": 2, "head_norm": True},
}
PAIRS = [(library, case) for library in ("mmdetection", "detectron2", "torchvision") for case in CASES]
PAIRS.remove(("torchvision", "cascade"))  # which it has not


def detector(network: Backbone | str = "shunted", *, seed: int = 0, **arguments: Any) -> Backbone:
    """A small network with a small detector for three classes, with weights of ordinary size."""
    model = small(network, seed=seed) if isinstance(network, str) else network
    torch.manual_seed(seed)
    model.place_head(DetectionHead(model.feature_info, len(NAMES), **NARROW | arguments), len(NAMES))
    lively(model.head, seed=seed)
    return model.eval()


def written(model: Backbone, library: str, path: Path, *, names: tuple[str, ...] = NAMES) -> Path:
    """The detector as a file of a library, with facts of ours."""
    facts = {"head": model.head.arguments}
    torch.save(as_detector_file(model.state_dict(), library, class_names=names, facts=facts), path)
    return path


def content_of(path: Path) -> dict[str, Tensor]:
    content = torch.load(path)
    return content.get("state_dict") or content["model"]


def check_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(("library", "case"), PAIRS)
def test_a_detector_goes_to_a_library_and_back_bit_for_bit(library: str, case: str, tmp_path: Path) -> None:
    arguments = CASES[case] | {"style": library}
    model = detector(**arguments)
    path = written(model, library, tmp_path / "a.pth")
    details = read_weights(path).details
    assert (details["layout"], details["task"], details["class_names"]) == (library, "detection", list(NAMES))
    assert details["head"] == model.head.arguments
    other = detector(seed=1, **arguments)
    report = load_weights(other, path)
    assert (report.layout, report.complete) == (library, True)
    assert (*report.unexpected, *report.ignored) == ()
    check_same(content_of(written(other, library, tmp_path / "b.pth")), content_of(path))
    state, loaded = model.state_dict(), other.state_dict()
    unread = [name for name in state if not torch.equal(state[name], loaded[name])]
    assert all(CLASS_ROWS.search(name) for name in unread), "more than rows of the background"


@pytest.mark.parametrize(
    ("name", "detector_name"),
    [
        ("det_mask_rcnn_mmdet_k6_128x160", "mask_rcnn"),
        ("det_retinanet_mmdet_k6_128x160", "retinanet"),
        ("det_cascade_mask_rcnn_mmdet_k5_97x203_150x90", "cascade_mask_rcnn"),
    ],
)
def test_names_of_mmdetections_own_heads_are_known(name: str, detector_name: str) -> None:
    """The names are those of recorded state dicts; ours and peer could agree on wrong ones otherwise."""
    spec = load_recording(name)
    state = weights(spec)
    names = head_of_detector(state)
    assert names.keys() == state.keys()
    head = {own_name: with_our_rows(own_name, state[name], "mmdetection") for name, own_name in names.items()}
    arguments = detector_arguments(head, "mmdetection")
    assert arguments is not None
    assert arguments["detector"] == detector_name
    levels = [FeatureInfo(channels, stride) for channels, stride in zip((16, 32, 64, 128), (4, 8, 16, 32), strict=True)]
    classes = spec["input"]["num_classes"] if "num_classes" in spec["input"] else int(name.split("_k")[1].split("_")[0])
    expected = {name: tuple(tensor.shape) for name, tensor in head.items()}
    network = DetectionHead(levels, classes, **arguments).state_dict()
    actual = {f"head.{name}": tuple(tensor.shape) for name, tensor in network.items()}
    assert expected.keys() == actual.keys()
    assert {name for name in actual if actual[name] != expected[name]} == set()


def as_detectron2_pickles(model: Backbone, path: Path) -> Path:
    """The detector as detectron2 publishes it: a pickle of arrays, with buffers that we have no need of."""
    state = as_detector_file(model.state_dict(), "detectron2", class_names=NAMES, facts={})["model"]
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Somebody", "matching_heuristics": True}))
    return path


def test_a_pickle_of_detectron2_is_read_with_its_windows_and_none_of_its_code(tmp_path: Path) -> None:
    arguments = {"detector": "cascade_mask_rcnn", "style": "detectron2", "box_convs": 2, "rpn_convs": 2}
    model, other = detector(small_form(), **arguments), detector(small_form(), seed=1, **arguments)
    path = as_detectron2_pickles(model, tmp_path / "model.pkl")
    stored = read_weights(path)
    names = stored.tensors.keys()
    assert {"backbone.bottom_up.scale2_norm.weight", "backbone.bottom_up.scale4_norm.weight"} <= names
    assert {"backbone.fpn_lateral4.bias", "proposal_generator.rpn_head.conv.conv1.weight"} <= names
    assert {"roi_heads.box_head.2.conv2.weight", "roi_heads.box_head.0.fc1.bias"} <= names
    assert {"roi_heads.box_predictor.1.bbox_pred.bias", "roi_heads.mask_head.mask_fcn2.bias"} <= names
    assert stored.tensors["backbone.bottom_up.blocks.0.attn.pool_q.weight"].ndim == 4
    assert stored.details["head"].items() <= model.head.arguments.items()
    report = load_weights(other, path)
    assert report.complete
    assert report.ignored == ("proposal_generator.anchor_generator.cell_anchors.0",)
    x = torch.randn(1, 3, 64, 96)
    for level, expected in zip(other.feature_maps(x), model.feature_maps(x), strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=0)
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(1)}, "code": print}))
    with pytest.raises(UserError, match=r"model\.pkl: not a pickle of arrays: it names builtins\.print"):
        read_weights(path)


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"CLASSES": NAMES, "mmdet_version": "2.28.2"}, list(NAMES)),
        ({"dataset_meta": {"classes": NAMES}, "mmdet_version": "3.3.0"}, list(NAMES)),
        ({"dataset_meta": {"CLASSES": NAMES}}, list(NAMES)),
        ({"CLASSES": ("cat",)}, ["class 0", "class 1", "class 2"]),  # not those of this head
        (None, ["class 0", "class 1", "class 2"]),
    ],
)
def test_class_names_of_every_version_of_mmdetection_are_read(meta: Any, names: list[str], tmp_path: Path) -> None:
    model = detector(style="mmdetection")
    state = as_detector_file(model.state_dict(), "mmdetection", class_names=NAMES, facts={})["state_dict"]
    for prefix in ("", "module."):
        content = {"meta": meta, "state_dict": {prefix + name: tensor for name, tensor in state.items()}}
        torch.save(content, tmp_path / "a.pth")
        details = read_weights(tmp_path / "a.pth").details
        assert details["class_names"] == names
        assert details["head"].items() <= model.head.arguments.items()
        assert load_weights(detector(seed=1), tmp_path / "a.pth").complete


@pytest.mark.parametrize(
    ("rows", "first", "third"), [(80, "person", "car"), (90, "person", "car"), (91, "unused 0", "bicycle")]
)
def test_files_with_cocos_classes_get_their_names_and_numbers(rows: int, first: str, third: str) -> None:
    model = small("shunted")
    model.place_head(DetectionHead(model.feature_info, rows, detector="retinanet", channels=8), rows)
    details = read_weights(as_detector_file(model.state_dict(), "torchvision", class_names=(), facts={})).details
    assert (details["class_names"][0], details["class_names"][2]) == (first, third)
    assert (details["class_ids"][0], details["class_ids"][-1]) == (0 if rows == 91 else 1, 90)
    assert len(set(details["class_names"])) == rows
    named = dict(zip(details["class_ids"], details["class_names"], strict=True))
    assert NAMES_BY_ID.items() <= named.items()


def test_torchvisions_own_detectors_are_loaded_under_their_present_and_earlier_names() -> None:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    peer = MaskRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=4).eval()
    state = dict(peer.state_dict())
    earlier = {}
    for name, tensor in state.items():
        renamed = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if ".fpn." in name:
            renamed = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for i in range(4):
            renamed = renamed.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        earlier[renamed] = tensor
    assert len(earlier.keys() - state.keys()) == 16 + 2 + 8
    x = torch.randn(1, 3, 64, 96)
    expected = peer.backbone(x)
    for named in (state, earlier):
        network = create_baseline("torchvision/resnet18", num_classes=2, image_size=64)
        arguments = read_weights({"model": named}).details["head"]
        network.place_head(DetectionHead(network.feature_info, 3, **arguments), 3)
        assert load_weights(network, {"model": named}).complete
        levels = network.head.neck(network.eval().feature_maps(x)[network.head.first_level :])
        for level, other in zip(levels, expected.values(), strict=True):
            torch.testing.assert_close(level, other, rtol=1e-5, atol=1e-5)
        for name in ("box_predictor.cls_score.weight", "box_head.fc6.weight"):
            place = network.state_dict()[f"head.detector.roi_heads.boxes.{name}"]
            assert torch.equal(place, state[f"roi_heads.{name}"])


def test_a_network_by_name_is_built_as_the_detector_of_a_file(tmp_path: Path) -> None:
    model = create_model("cloformer_xxs", num_classes=2)
    detector(model, detector="faster_rcnn", level_norm="group")
    path = written(model, "mmdetection", tmp_path / "a.pth")
    other = create_model("cloformer_xxs", weights=path)
    assert other.head.arguments == model.head.arguments
    assert other.num_classes == 3
    assert create_model("cloformer_xxs", weights=path, num_classes=7).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_a_detector_and_a_classifier_start_each_other_with_a_new_head(tmp_path: Path) -> None:
    path = written(detector(), "mmdetection", tmp_path / "a.pth")
    classifier = small("shunted", seed=1)
    details = start_from(classifier, path)
    assert details["class_names"] == list(NAMES)
    assert isinstance(classifier.head, nn.Identity)
    model = detector(seed=2)
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    report = load_weights(model, small("shunted", seed=3).state_dict())
    assert report.ignored == ("head.weight", "head.bias")
    check_same(model.head.state_dict(), head)


def test_other_classes_or_another_detector_are_one_line(tmp_path: Path) -> None:
    path = written(detector(), "mmdetection", tmp_path / "a.pth")
    model = small("shunted")
    model.place_head(DetectionHead(model.feature_info, 4, **NARROW), 4)
    with pytest.raises(UserError, match="its head knows 3 classes, the network 4"):
        load_weights(model, path)
    with pytest.raises(UserError, match=r"have no place in the network|tensors are missing"):
        load_weights(detector(detector="retinanet"), path)
    with pytest.raises(UserError, match=r"have another shape, file -> network \(head\.neck"):
        load_weights(detector(channels=16), path)
