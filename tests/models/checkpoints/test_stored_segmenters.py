"""Files of segmenters: mmsegmentation's and ours, read and written back, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dense_golden import DENSE, weights
from dense_golden import load_recording as load_dense
from torch import Tensor, nn
from zoo_builds import inputs, lively, small

from mvrec.data.views.protocol import MaskProtocol, protocol_of
from mvrec.errors import UserError
from mvrec.models import SegmentationHead, create_model, load_weights
from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.baselines.names import create_baseline
from mvrec.models.checkpoints import start_from
from mvrec.models.checkpoints.files import read_weights
from mvrec.models.checkpoints.segmenters import OUTPUTS, PROTOCOL, as_mmseg, head_arguments, head_of_mmseg
from mvrec.tasks.outputs import identity
from mvrec.tasks.segmentation.outputs import SegmentationOutputs

NAMES = ("sky", "road", "tree")
PALETTE = ((0, 0, 1), (0, 2, 0), (3, 0, 0))
DECODERS = ("semantic_fpn", "upernet", "segformer", "segformer_mmseg")
OTHERS = ("fcn", "inference", "iou")  # recordings that are no head's of their own
FAMILIES = ("shunted", "sgformer", "cloformer", "mvit_v2_image")


def segmenter(name: str, *, seed: int = 0, **arguments: Any) -> Backbone:
    model = small(name, seed=seed)
    torch.manual_seed(seed)
    model.place_head(SegmentationHead(model.feature_info, len(NAMES), **{"channels": 8} | arguments), len(NAMES))
    lively(model.head, seed=seed)
    return model.eval()


def written(model: Backbone, path: Path) -> Path:
    """The network as a file of mmsegmentation."""
    facts = {"head": model.head.arguments}
    torch.save(as_mmseg(model.state_dict(), class_names=NAMES, palette=PALETTE, facts=facts), path)
    return path


def check_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_segmenter_goes_to_mmsegmentation_and_back_bit_for_bit(name: str, decoder: str, tmp_path: Path) -> None:
    model = segmenter(name, decoder=decoder, auxiliary=True, level_norm="layer", auxiliary_channels=4)
    path = written(model, tmp_path / "a.pth")
    stored = read_weights(path)
    assert stored.details["head"] == model.head.arguments
    assert stored.details["class_names"] == list(NAMES)
    other = segmenter(name, seed=1, **stored.details["head"])
    report = load_weights(other, path)
    assert (report.layout, report.entry, report.complete) == ("mmsegmentation", "state_dict", True)
    assert set(report.loaded) == set(model.state_dict())
    assert (*report.unexpected, *report.ignored) == ()
    check_same(other.state_dict(), model.state_dict())
    again = written(other, tmp_path / "b.pth")
    check_same(torch.load(again)["state_dict"], torch.load(path)["state_dict"])
    torch.testing.assert_close(other(inputs(model)), model(inputs(model)), rtol=0, atol=0)


OWN_NAMES = sorted(path.stem for path in DENSE.glob("seg_*_mmseg_k*.json") if path.stem.split("_")[1] not in OTHERS)


@pytest.mark.parametrize("name", OWN_NAMES)
def test_names_of_mmsegmentations_own_heads_are_known(name: str) -> None:
    """The names are those of recorded state dicts; ours and theirs could agree on wrong ones otherwise."""
    spec = load_dense(name)
    auxiliary = load_dense("seg_fcn_aux_" + name[name.index("mmseg") :])
    state = weights(spec) | weights(auxiliary)
    names = head_of_mmseg({"backbone.stem.weight": torch.zeros(1), **state}, "backbone.")
    assert names.keys() == state.keys()
    renamed = {names[key].removeprefix("head."): tensor for key, tensor in state.items()}
    arguments = head_arguments({f"head.{key}": tensor for key, tensor in renamed.items()})
    channels = [shape[1] for shape in spec["input"]["maps"]["shapes"]]
    levels = [FeatureInfo(width, stride) for width, stride in zip(channels, (4, 8, 16, 32), strict=True)]
    assert arguments is not None
    SegmentationHead(levels, spec["input"]["num_classes"], **arguments).load_state_dict(renamed)


def mmseg_file(model: Backbone, meta: dict[str, Any] | None, path: Path, *, prefix: str = "") -> Path:
    """A file as mmsegmentation writes it, without facts of ours."""
    state = as_mmseg(model.state_dict(), class_names=NAMES, palette=PALETTE, facts={})["state_dict"]
    content = {"state_dict": {prefix + name: tensor for name, tensor in state.items()}}
    torch.save(content if meta is None else {"meta": meta, **content}, path)
    return path


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"CLASSES": NAMES, "PALETTE": PALETTE, "mmseg_version": "0.30.0"}, NAMES),
        ({"dataset_meta": {"classes": list(NAMES), "palette": PALETTE}, "mmseg_version": "1.2.2"}, NAMES),
        ({"dataset_meta": None, "epoch": 3}, ("class 0", "class 1", "class 2")),
        (None, ("class 0", "class 1", "class 2")),
        ({"CLASSES": ("sky",)}, ("class 0", "class 1", "class 2")),  # not those of this head
    ],
)
def test_class_names_of_either_version_are_read(meta: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    model = segmenter("shunted", decoder="upernet")
    for prefix in ("", "module."):
        path = mmseg_file(model, meta, tmp_path / f"{prefix}a.pth", prefix=prefix)
        details = read_weights(path).details
        assert details["class_names"] == list(names)
        assert details["head"] == model.head.arguments | {"auxiliary_channels": 256}
        other = segmenter("shunted", seed=1, decoder="upernet")
        assert load_weights(other, path).complete
        check_same(other.state_dict(), model.state_dict())


def test_facts_of_these_files_are_those_of_the_task() -> None:
    kind = identity(SegmentationOutputs)
    assert (kind["task"], kind["outputs"]) == ("segmentation", OUTPUTS)
    assert protocol_of(PROTOCOL) == MaskProtocol.named("mmseg-2048x512")


def test_the_unused_classifier_of_the_authors_segformer_is_ignored(tmp_path: Path) -> None:
    model = segmenter("shunted", decoder="segformer")
    path = mmseg_file(model, None, tmp_path / "a.pth")
    content = torch.load(path)
    content["state_dict"] |= {
        "decode_head.conv_seg.weight": torch.zeros(3, 128, 1, 1),
        "decode_head.conv_seg.bias": torch.zeros(3),
    }
    torch.save(content, path)
    other = segmenter("shunted", seed=1, decoder="segformer")
    report = load_weights(other, path)
    assert report.complete
    assert report.ignored == ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
    check_same(other.state_dict(), model.state_dict())


def test_a_decoder_that_we_lack_leaves_the_backbone(tmp_path: Path) -> None:
    model = small("shunted")
    state = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    path = tmp_path / "a.pth"
    extra = {
        "decode_head.aspp_modules.0.conv.weight": torch.zeros(1),
        "decode_head.conv_seg.weight": torch.ones(2, 3, 1, 1),
    }
    torch.save({"state_dict": state | extra}, path)
    assert read_weights(path).details == {}
    other = small("shunted", seed=1)
    report = load_weights(other, path)
    assert report.ignored == tuple(extra)
    assert report.missing == ("head.weight", "head.bias")
    torch.testing.assert_close(
        other.forward_features(inputs(model)), model.forward_features(inputs(model)), rtol=0, atol=0
    )


def test_a_segmenter_starts_a_classifier_with_a_new_head(tmp_path: Path) -> None:
    path = written(segmenter("shunted", decoder="segformer"), tmp_path / "a.pth")
    model = small("shunted", seed=1)
    details = start_from(model, path)
    assert details["class_names"] == list(NAMES)
    assert model.num_classes == 0  # so the task makes a head
    assert isinstance(model.head, nn.Identity)
    expected = segmenter("shunted").forward_features(inputs(model))
    torch.testing.assert_close(model.forward_features(inputs(model)), expected, rtol=0, atol=0)


def test_a_classifier_starts_a_segmenter_and_the_report_says_so(tmp_path: Path) -> None:
    classifier, model = small("shunted", seed=2), segmenter("shunted")
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    report = load_weights(model, classifier.state_dict())
    assert set(report.missing) == {f"head.{name}" for name in head if not name.endswith("num_batches_tracked")}
    assert report.ignored == ("head.weight", "head.bias")
    check_same(model.head.state_dict(), head)


def test_a_segmenter_of_a_baseline_is_loaded_by_the_names_of_its_library(tmp_path: Path) -> None:
    model, other = (create_baseline("torchvision/resnet18", num_classes=2, image_size=64) for _ in range(2))
    for network in (model, other):
        network.place_head(SegmentationHead(network.feature_info, 3, channels=8), 3)
    library = {f"backbone.{name}": tensor for name, tensor in model.net.state_dict().items()}
    head = as_mmseg(
        {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")},
        class_names=NAMES,
        palette=PALETTE,
        facts={},
    )
    torch.save({"state_dict": library | head["state_dict"]}, tmp_path / "a.pth")
    report = load_weights(other, tmp_path / "a.pth")
    assert report.complete
    check_same(other.state_dict(), model.state_dict())


def test_another_decoder_or_class_count_is_one_line(tmp_path: Path) -> None:
    path = written(segmenter("shunted"), tmp_path / "a.pth")
    model = small("shunted")
    model.place_head(SegmentationHead(model.feature_info, 4, channels=8), 4)
    with pytest.raises(UserError, match="its head knows 3 classes, the network 4"):
        load_weights(model, path)
    with pytest.raises(UserError, match=r"have another shape, file -> network \(head\.neck\.lateral_convs"):
        load_weights(segmenter("shunted", channels=16), path)
    with pytest.raises(UserError, match="have no place in the network"):
        load_weights(segmenter("shunted", decoder="upernet"), path)


def test_a_network_by_name_is_built_as_the_segmenter_of_a_file(tmp_path: Path) -> None:
    model = create_model("cloformer_xxs", num_classes=2)
    head = SegmentationHead(model.feature_info, len(NAMES), decoder="segformer", channels=8, level_norm="layer")
    model.place_head(head, len(NAMES))
    path = written(model.eval(), tmp_path / "a.pth")
    other = create_model("cloformer_xxs", weights=path).eval()
    assert other.head.arguments == head.arguments
    x = torch.randn(1, 3, 64, 75)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    assert create_model("cloformer_xxs", weights=path, num_classes=7).eval()(x).shape == (1, 7)
