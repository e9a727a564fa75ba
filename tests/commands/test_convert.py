"""`mvrec convert`: weights of any known layout as safetensors, with a card."""

import argparse
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mvrec.models import Backbone, SegmentationHead, create_model
from mvrec.models.checkpoints.detector_files import as_detector_file
from mvrec.models.checkpoints.segmenters import as_mmseg
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.tasks.segmentation.colours import colours


def check_same(network: Backbone, path: Path) -> None:
    other = create_model("cloformer_xxs", weights=path).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)


def test_weights_become_the_same_network_with_a_card_and_converting_them_again_changes_nothing(
    command, tmp_path, reads
) -> None:
    torch.manual_seed(0)
    network = create_model("cloformer_xxs", num_classes=3).eval()
    source, out_path = tmp_path / "ckpt.pth", tmp_path / "new folder/w.safetensors"
    torch.save({"model": network.state_dict(), "args": argparse.Namespace(lr=1)}, source)
    code, out, _ = command("convert", source, "-o", out_path)
    assert code == 0
    assert reads[source] == 1
    total = len(network.state_dict())
    assert out.splitlines() == [
        f"{source}[model]: CloFormer layout, {total} of {total} tensors loaded",
        f"cloformer_xxs, {sum(p.numel() for p in network.parameters()):,} parameters: "
        f"{out_path} and {out_path.with_suffix('.json')}",
    ]
    check_same(network, out_path)
    card = json.loads(out_path.with_suffix(".json").read_text())
    with safe_open(out_path, framework="pt") as file:
        assert json.loads(file.metadata()["mvrec"]) == card
    assert (card["name"], card["num_classes"], card["image_size"]) == ("cloformer_xxs", 3, [224, 224])
    assert card["pipeline_tag"] == "image-classification"
    assert card["converted_from"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sorted(path.name for path in out_path.parent.iterdir()) == ["w.json", "w.safetensors"]

    code, out, _ = command("convert", out_path, "-o", tmp_path / "b.safetensors")
    assert (code, "mvrec layout" in out) == (0, True)
    check_same(network, tmp_path / "b.safetensors")


@pytest.mark.slow  # a network of full size
def test_a_rectangular_network_keeps_its_sides_when_converted(command, tmp_path) -> None:
    """A table of positions does not show its sides, the card does."""
    torch.manual_seed(0)
    network = create_model("mvit_b_16x4", num_classes=2, num_frames=4, image_size=(32, 64)).eval()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    arguments = ["convert", tmp_path / "x.pth", "-o", tmp_path / "x.safetensors"]
    code, _, err = command(*arguments)
    assert code == 2
    assert "128 positions are not a square grid" in err
    assert "--image_size" in err
    code, _, err = command(*arguments, "--image_size", "32", "64")
    assert code == 0, err
    other = create_model("mvit_b_16x4", weights=tmp_path / "x.safetensors").eval()
    assert other.input_shape == (3, 4, 32, 64)
    x = torch.randn(1, *network.input_shape)
    torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)


def test_a_segmenter_of_mmsegmentation_is_converted_and_written_back_bit_for_bit(command, tmp_path) -> None:
    torch.manual_seed(0)
    network = create_model("cloformer_xxs")
    head = SegmentationHead(network.feature_info, 3, decoder="upernet", channels=8, level_norm="group")
    network.place_head(head, 3)
    names = ["sky", "road", "tree"]
    content = as_mmseg(network.eval().state_dict(), class_names=names, palette=colours(3).tolist(), facts={})
    del content["meta"]["mvrec"]
    source, converted, back = tmp_path / "mmseg.pth", tmp_path / "ours.safetensors", tmp_path / "back.pth"
    torch.save(content, source)

    code, out, err = command("convert", source, "-o", converted)
    assert code == 0, err
    total = len(network.state_dict())
    assert f"{source}[state_dict]: mmsegmentation layout, {total} of {total} tensors loaded" in out
    card = json.loads(converted.with_suffix(".json").read_text())
    assert (card["name"], card["task"], card["class_names"]) == ("cloformer_xxs", "segmentation", names)
    assert card["protocol"]["name"] == "mmseg-2048x512"
    assert card["head"] == head.arguments
    assert "published_top1" not in card
    check_same(network, converted)

    code, out, err = command("convert", converted, "-o", back)
    assert code == 0, err
    assert f"cloformer_xxs, {card['parameters']:,} parameters, with the names of mmsegmentation: {back}" in out
    written = torch.load(back)
    assert written["state_dict"].keys() == content["state_dict"].keys()
    assert all(torch.equal(tensor, written["state_dict"][name]) for name, tensor in content["state_dict"].items())
    assert written["meta"]["dataset_meta"]["classes"] == tuple(names)
    assert written["meta"]["mvrec"] == {"head": card["head"], "protocol": card["protocol"]}


def test_a_detector_of_mmdetection_is_converted_and_written_back_bit_for_bit(command, tmp_path) -> None:
    torch.manual_seed(0)
    network = create_model("cloformer_xxs")
    network.place_head(DetectionHead(network.feature_info, 3, channels=8, box_width=8, level_norm="group"), 3)
    content = as_detector_file(network.state_dict(), "mmdetection", class_names=["cat", "dog", "bird"], facts={})
    del content["meta"]["mvrec"]
    source, converted, back = tmp_path / "mmdet.pth", tmp_path / "ours.safetensors", tmp_path / "back.pth"
    torch.save(content, source)
    code, out, err = command("convert", source, "-o", converted)
    assert code == 0, err
    total = len(network.state_dict())
    assert f"{source}[state_dict]: mmdetection layout, {total} of {total} tensors loaded" in out
    card = json.loads(converted.with_suffix(".json").read_text())
    assert (card["task"], card["class_names"]) == ("detection", ["cat", "dog", "bird"])
    assert card["protocol"]["name"] == "mmdetection-1333x800"
    code, out, err = command("convert", converted, "-o", back)
    assert code == 0, err
    assert f"with the names of mmdetection: {back}" in out
    written = torch.load(back)
    assert written["state_dict"].keys() == content["state_dict"].keys()
    assert all(torch.equal(tensor, written["state_dict"][name]) for name, tensor in content["state_dict"].items())
    assert written["meta"]["CLASSES"] == ("cat", "dog", "bird")


def test_only_segmenters_and_detectors_are_written_for_other_libraries(command, tmp_path) -> None:
    state = create_model("cloformer_xxs", num_classes=2).state_dict()
    torch.save({"state_dict": state, "mvrec": {"class_names": ["sky", "road"]}}, tmp_path / "a.pth")
    code, _, err = command("convert", tmp_path / "a.pth", "-o", tmp_path / "b.pth")
    assert code == 2
    assert "only segmenters and detectors are written for other libraries, and its task is classification" in err
    assert not (tmp_path / "b.pth").exists()
