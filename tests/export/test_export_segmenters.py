"""Export of segmenters: files that take images of many sizes, and those with one size; their use elsewhere."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from segmenters import NAMES, save_segmenter, scene

from mvrec.export import free_sides
from mvrec.export.exporting import export
from mvrec.export.hub import from_pretrained, save_pretrained
from mvrec.inference.recogniser import load_recogniser
from mvrec.tasks.segmentation.modes import label_map


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    path = save_segmenter(tmp_path_factory.mktemp("lauf") / "best.ckpt", kind="two_stages")
    return load_recogniser(path, device="cpu")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_segmenter_takes_images_of_many_sizes(recogniser, tmp_path, suffix):
    result = export(recogniser, tmp_path / f"x{suffix}")
    takes, gives = result.card["input"], result.card["output"]
    assert takes["shape"] == ["batch", 3, "height", "width"]
    assert gives["shape"] == ["batch", 3, "height", "width"]
    assert takes["sides_multiple_of"] == 32
    assert result.card["class_names"] == NAMES
    assert "for 1 x 128 x 96 pixels and " in str(result)
    assert "sides are multiples of 32" in str(result)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(result.path)
        assert json.loads(session.get_modelmeta().custom_metadata_map["mvrec"]) == result.card

        def network(pixels: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["logits"], {"input": pixels.numpy()})[0])
    else:
        network = torch.export.load(result.path).module()
    for size in ((160, 64), (96, 256)):
        pixels = recogniser.normalised(torch.from_numpy(scene(*size)).permute(2, 0, 1)[None])
        with torch.no_grad():
            assert (network(pixels) - recogniser.backbone(pixels)).abs().max() <= result.differences.limit
        labels = label_map(network, pixels, recogniser.protocol)
        agreement = (labels == label_map(recogniser.backbone, pixels, recogniser.protocol)).float().mean()
        assert agreement > 0.999


def test_a_network_that_is_traced_at_one_size_only_says_so(recogniser, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(free_sides, "CHECKED_CELLS", ((2.5, 2), *free_sides.CHECKED_CELLS))  # no whole number of pixels
    result = export(recogniser, tmp_path / "x.pt2")
    assert result.card["input"]["shape"] == result.card["output"]["shape"] == ["batch", 3, 64, 64]
    assert "sides_multiple_of" not in result.card["input"]
    assert "CloFormer takes another way at other sizes" in caplog.text
    assert "its size is fixed" in caplog.text


def test_exported_weights_segment_as_the_checkpoint_does(recogniser, tmp_path):
    result = export(recogniser, tmp_path / "x.safetensors")
    again = load_recogniser(result.path, device="cpu")
    assert again.class_names == tuple(NAMES)
    assert again.protocol == recogniser.protocol
    views = torch.from_numpy(scene(75, 93)).permute(2, 0, 1)[None]
    (labels,), (expected,) = again.raw(views), recogniser.raw(views)
    assert np.array_equal(labels.numpy(), expected.numpy())


def test_a_segmenter_on_the_hub_is_described_and_loads(recogniser, tmp_path):
    folder = save_pretrained(recogniser, tmp_path / "scenes")
    again = from_pretrained(folder, device="cpu")
    assert again.outputs.facts() == recogniser.outputs.facts()
    assert again.protocol == recogniser.protocol
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert 'pipeline_tag: "image-segmentation"' in text
    assert "A network for image segmentation: CloFormer" in text
    assert "| input | BCHW (3, height, width) after the batch" in text
    assert "softmax over the classes of each pixel" in text
    assert ", ".join(NAMES) in text
