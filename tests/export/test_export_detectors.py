"""Export of detectors: graphs of fixed sizes, the decoder in numpy, weights, and the Hub's card."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from detectors import NAMES, save_detector
from segmenters import scene, write_scene
from torchvision.ops import batched_nms

from mvrec.data.views.protocol import DetectionProtocol
from mvrec.errors import UserError
from mvrec.export.detectors import fixed_sizes
from mvrec.export.detectors.decode import decode
from mvrec.export.detectors.fixed_sizes import stays
from mvrec.export.detectors.graphs import RawDetector, WholeDetector
from mvrec.export.detectors.writing import graph_rule
from mvrec.export.exporting import export
from mvrec.export.hub import from_pretrained, save_pretrained
from mvrec.inference.objects.detecting import objects_in
from mvrec.inference.objects.knobs import ObjectKnobs
from mvrec.inference.recogniser import load_recogniser
from mvrec.models.heads.detection.results import ImageSize

DOCS = Path(__file__).parents[2] / "docs/export.md"
SIDES = (96, 128)
PROPOSALS = {"test_proposals": 60, "max_detections": 20}


def detector(folder, **arguments):
    return load_recogniser(save_detector(folder / "best.ckpt", **arguments), device="cpu")


def image_and_size(recogniser):
    """A scene of 80 x 120 pixels, a quarter of its file's, as the graph takes it, and what the network finds in it."""
    pixels = torch.from_numpy(scene(80, 120)).permute(2, 0, 1)
    image = F.pad(recogniser.normalised(pixels[None]), (0, SIDES[1] - 120, 0, SIDES[0] - 80))
    size = ImageSize(80, 120, 0.5, 0.25)
    with torch.no_grad():
        return image, torch.tensor(size), recogniser.backbone(image, [size])[0]


def assert_same(detections, boxes, scores, labels):
    assert len(detections.scores) > 3
    assert np.allclose(detections.scores, scores, atol=1e-4)
    assert np.array_equal(detections.labels, labels)
    assert np.allclose(detections.boxes, boxes, atol=1e-2)


@pytest.mark.parametrize(
    ("detector_name", "style"),
    [
        ("mask_rcnn", "mmdetection"),
        ("mask_rcnn", "torchvision"),
        ("faster_rcnn", "detectron2"),
        ("cascade_mask_rcnn", "mmdetection"),
        ("cascade_mask_rcnn", "detectron2"),
        ("retinanet", "mmdetection"),
        ("retinanet", "torchvision"),
        ("retinanet", "detectron2"),
    ],
)
def test_graphs_give_the_detections_of_the_network(detector_name, style, tmp_path):
    recogniser = detector(tmp_path, detector=detector_name, style=style, **PROPOSALS)
    image, size, detections = image_and_size(recogniser)
    with torch.no_grad():
        whole, raw = (kind(recogniser.backbone, SIDES)(image, size) for kind in (WholeDetector, RawDetector))
    count = int((whole[1] > 0.05).sum())
    assert_same(detections, *(each[:count] for each in whole[:3]))
    if detections.mask_probabilities is not None:
        assert torch.allclose(detections.mask_probabilities, whole[3][:count], atol=1e-4)
    rule = graph_rule(RawDetector(recogniser.backbone, SIDES), 0.05)
    assert_same(detections, *decode(*(each.numpy() for each in raw), size.numpy(), rule))


@pytest.mark.parametrize(("detector_name", "form"), [("mask_rcnn", "whole"), ("retinanet", "raw")])
def test_onnx_files_give_the_detections_of_the_network(detector_name, form, tmp_path, monkeypatch):
    monkeypatch.setattr(fixed_sizes, "ROUNDS", 8)  # of which exporters take seconds
    whole = DetectionProtocol.named("whole")
    recogniser = detector(tmp_path, kind="two_stages", detector=detector_name, protocol=whole, **PROPOSALS)
    image, size, detections = image_and_size(recogniser)
    result = export(recogniser, tmp_path / "parts.onnx", form=form, sides=SIDES)
    assert result.equal >= 0.95 * result.compared > 0
    assert f"{result.equal} of {result.compared} detections are the network's in onnxruntime" in str(result)
    session = onnxruntime.InferenceSession(result.path)
    card = json.loads(session.get_modelmeta().custom_metadata_map["mvrec"])
    assert card == result.card
    assert card["class_names"] == NAMES
    assert [list(each.shape) for each in session.get_outputs()] == [each["shape"] for each in card["outputs"]]
    outputs = session.run(None, {"image": image.numpy(), "size": size.numpy()})
    if form == "raw":
        outputs = runpy.run_path(str(tmp_path / "parts_decode.py"))["decode"](*outputs, size.numpy(), card["decode"])
        write_scene(tmp_path / "x.png", 80, 120)
        (script,) = re.findall(r"```python\n(import sys, json.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
        command = [sys.executable, "-c", script, str(result.path), str(tmp_path / "x.png")]
        text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        names = [NAMES[label] for label in outputs[2].tolist()]
        firsts = [f"{name} {score:.2f} " for name, score in zip(names, outputs[1].tolist(), strict=True)]
        assert all(map(str.startswith, text.splitlines(), firsts))
        assert len(text.splitlines()) == len(firsts)
    count = int((outputs[1] > 0.05).sum())
    assert_same(detections, *(each[:count] for each in outputs[:3]))
    if form == "whole":
        assert np.allclose(detections.mask_probabilities, outputs[3][:count], atol=1e-3)


def test_a_torch_export_takes_the_default_size_and_a_wrong_graph_is_not_kept(tmp_path, monkeypatch):
    recogniser = detector(tmp_path, kind="two_stages", detector="retinanet", **PROPOSALS)
    result = export(recogniser, tmp_path / "x.pt2")
    assert result.card["input"]["shape"] == [1, 3, 128, 192]
    assert result.equal > 0
    program = torch.export.load(tmp_path / "x.pt2").module()
    boxes = program(torch.zeros(1, 3, 128, 192), torch.tensor([100.0, 150, 1, 1]))[0]
    assert boxes.shape == (20, 4)
    monkeypatch.setattr(fixed_sizes, "ROUNDS", 0)  # no box is left out
    with pytest.raises(UserError, match=r"y\.pt2 is not written: \d+ of \d+ detections are the network's in torch"):
        export(recogniser, tmp_path / "y.pt2")
    assert not (tmp_path / "y.pt2").exists()


def test_fixed_rounds_leave_out_what_a_loop_does():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 10 + 20 * torch.rand(300, 2, generator=generator)], 1)
    groups = torch.randint(0, 3, (300,), generator=generator)
    scores = torch.linspace(1, 0, 300)
    for threshold in (0.3, 0.7):
        expected = batched_nms(boxes, scores, groups, threshold).sort().values
        assert torch.equal(torch.where(stays(boxes, groups, threshold))[0], expected)


def test_weights_and_a_folder_for_the_hub_detect_as_the_checkpoint_does(tmp_path):
    recogniser = detector(tmp_path, **PROPOSALS)
    result = export(recogniser, tmp_path / "x.safetensors")
    assert result.equal == result.compared > 0
    folder = save_pretrained(recogniser, tmp_path / "scenes")
    pixels = torch.from_numpy(scene(75, 93)).permute(2, 0, 1)
    knobs = ObjectKnobs(min_score=0)
    expected = objects_in(recogniser, pixels, knobs)
    for again in (load_recogniser(result.path, device="cpu"), from_pretrained(folder, device="cpu")):
        assert again.outputs.facts() == recogniser.outputs.facts()
        assert again.protocol == recogniser.protocol
        detections = objects_in(again, pixels, knobs)
        assert np.array_equal(detections.boxes, expected.boxes)
        assert detections.masks == expected.masks
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert 'pipeline_tag: "object-detection"' in text
    assert "A network for object detection: CloFormer" in text
    assert "| output | boxes, scores, classes and masks |" in text
    assert ", ".join(NAMES) in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"form": "raw"}, "--form is for .onnx and .pt2, --output is "),
        ({"sides": (8, 64)}, "--sides must lie in 32..16384"),
    ],
)
def test_a_wrong_form_of_a_detector_is_one_line(values, message, tmp_path):
    suffix = ".safetensors" if "form" in values else ".pt2"
    with pytest.raises(UserError, match=message):
        export(detector(tmp_path), tmp_path / f"x{suffix}", **values)
