"""Segmenters from Python: features, the network's input, and the pixels on which a class rests."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from segmenters import NAMES, save_segmenter, scene

import mvrec
from mvrec.data.views.protocol import MaskProtocol
from mvrec.errors import UserError
from mvrec.inference.heat import heat_map, on_pixels

KINDS = ("shunted", "sgformer", "cloformer", "mvit_v2_image")
SCALED = MaskProtocol.named("mmseg-2048x512", scale=(512, 96), size=64)


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    """A segmenter of every family, whose input has a short side of 96 pixels."""
    folder = tmp_path_factory.mktemp("lauf")
    return mvrec.load(save_segmenter(folder / "best.ckpt", kind=request.param, protocol=SCALED), device="cpu")


def scaled(model, pixels: np.ndarray) -> torch.Tensor:
    """The network's input by hand."""
    x = model.protocol.normalisation(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    height, width = pixels.shape[:2]
    return F.interpolate(x, (96, int(width * 96 / height + 0.5)), mode="bilinear")


def test_features_and_input_are_those_of_the_scaled_image(model):
    pixels = scene(70, 110)
    x = scaled(model, pixels)
    assert torch.equal(model.preprocess(pixels), x)
    with torch.no_grad():
        vector, maps = model.backbone.forward_features(x)[0], model.backbone.feature_maps(x)
    features = model.features([pixels, scene(80, 60), scene(80, 60, seed=1)])
    first, second, third = features
    assert np.allclose(first.values, vector, atol=1e-5)
    assert second.values.shape == third.values.shape == first.values.shape
    assert np.allclose(model.features(pixels, stage=0, pool="none").values, maps[0], atol=1e-5)


def test_images_of_different_sizes_make_no_batch(model):
    assert model.preprocess([scene(70, 110), scene(70, 110, seed=1)]).shape[0] == 2
    with pytest.raises(UserError, match="pass them one by one"):
        model.preprocess([scene(70, 110), scene(110, 70)])


@pytest.mark.parametrize("method", ["cam", "layercam"])
def test_heat_is_that_of_the_pixels_of_a_class(model, method):
    backbone, x = model.backbone, scaled(model, scene(70, 110))
    with torch.no_grad():
        maps = [level.requires_grad_() for level in backbone.feature_maps(x)]
    with torch.enable_grad():
        logits = backbone.head(maps, x.shape[2:])
        number = logits.argmax(1).flatten().bincount().argmax()
        score = logits[:, number][logits.argmax(1) == number].sum()
    (gradient,) = torch.autograd.grad(score, maps[-1])
    weight = gradient.relu() if method == "layercam" else gradient.mean((2, 3), keepdim=True)
    stride = backbone.feature_info[-1].stride
    expected = on_pixels((weight * maps[-1]).sum(1).relu().detach(), size=tuple(x.shape[2:]), stride=stride)
    heat = heat_map(backbone, x, number[None], method=method)
    assert expected.max() > 0
    assert (heat - expected).abs().max() <= 1e-4 * expected.max()


def test_explanations_have_the_size_of_the_image(model, tmp_path):
    pixels = scene(70, 110)
    result = model.explain(pixels)
    assert result.heat.shape == (70, 110)
    assert result.class_name == result.label == result.top(1)[0][0]
    assert result.subject == f"{result.label} ({100 * result.top(1)[0][1]:.1f} % of the image)"
    result.save(tmp_path / "heat.png")
    assert np.asarray(Image.open(tmp_path / "heat.png")).shape[1] == 2 * 110 * 3 + 4


def test_what_cannot_be_explained_is_one_line(model):
    pixels = scene(70, 110)
    bias = model.backbone.head.decoder.conv_seg.bias
    with torch.no_grad():
        bias[2] -= 1e6
    with pytest.raises(UserError, match=f"array: no pixel is of class '{NAMES[2]}': choose another"):
        model.explain(pixels, class_name=NAMES[2])
    with torch.no_grad():
        bias[2] += 1e6
    if model.backbone.__class__.__name__ == "MViT":
        with pytest.raises(UserError, match="use cam or layercam"):
            model.explain(pixels, method="relevance")
