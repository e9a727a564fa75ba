"""Export of action detectors: boxes are a second input of the file; cards and the Hub's folder."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision  # noqa: F401 - whose operator a .pt2 needs
from walkers import ACTIONS, boxes_at, framewise_node, save_detector, walking

import mvrec
from mvrec.export import exporting
from mvrec.export.exporting import export
from mvrec.export.hub import save_pretrained
from mvrec.inference.actions.knobs import ActionKnobs
from mvrec.inference.recogniser import load_recogniser


@pytest.fixture(scope="module", params=["mvit", "with context", "framewise"])
def recogniser(request, tmp_path_factory):
    """A small detector of each kind."""
    node = framewise_node() if request.param == "framewise" else None
    path = tmp_path_factory.mktemp("lauf") / "best.ckpt"
    save_detector(path, context=request.param == "with context", node=node)
    return load_recogniser(path, device="cpu")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_detector_takes_any_number_of_clips_and_boxes(recogniser, tmp_path, suffix):
    result = export(recogniser, tmp_path / f"x{suffix}")
    assert result.card["input"]["shape"] == ["batch", 3, 4, 64, 64]
    assert result.card["boxes"]["shape"] == ["boxes", 5]
    assert result.card["output"] == {
        **{"name": "logits", "dtype": "float32", "shape": ["boxes", 3], "activation": "sigmoid"},
    }
    assert "(batch, 3, 4, 64, 64) and boxes (boxes, 5) to logits (boxes, 3)" in str(result)
    assert "in batches of 1 and " in str(result)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(result.path)
        assert json.loads(session.get_modelmeta().custom_metadata_map["mvrec"]) == result.card

        def network(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["logits"], {"input": x.numpy(), "boxes": boxes.numpy()})[0])
    else:
        network = torch.export.load(result.path).module()
    generator = torch.Generator().manual_seed(3)
    for batch, count in ((1, 1), (2, 7), (3, 2)):
        x = torch.randn(batch, 3, 4, 64, 64, generator=generator)
        corners = (torch.rand(count, 2, 2, generator=generator) * 80 - 8).sort(1).values.flatten(1)
        boxes = torch.cat([torch.randint(batch, (count, 1), generator=generator).float(), corners], 1)
        with torch.no_grad():
            assert (network(x, boxes) - recogniser.backbone(x, boxes)).abs().max() <= result.differences.limit


def test_a_file_that_computes_something_else_is_not_kept(recogniser, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(mvrec.UserError, match="is not written: its logits"):
        export(recogniser, tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_weights_and_the_folder_of_the_hub_recognise_alike(recogniser, tmp_path):
    export(recogniser, tmp_path / "x.safetensors")
    save_pretrained(recogniser, tmp_path / "hub")
    boxes = {1.0: boxes_at(10)}
    results = [
        next(mvrec.load(source, device="cpu").predict(walking(), fps=10, boxes=boxes, actions=ActionKnobs()))
        for source in (recogniser.source, tmp_path / "x.safetensors", tmp_path / "hub")
    ]
    scores = [np.stack([person.probabilities for person in result.people]) for result in results]
    assert (scores[0] == scores[1]).all()
    assert (scores[0] == scores[2]).all()
    text = (tmp_path / "hub/README.md").read_text()
    assert "model.predict(PATH_OF_VIDEO, boxes=LIST_OF_BOXES)" in text
    assert "number of the clip in the batch, left, top, right, bottom" in text
    assert ", ".join(ACTIONS) in text
