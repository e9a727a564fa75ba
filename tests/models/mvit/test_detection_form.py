"""MViTv2 in its form for detection: detectron2's maps and names, and weights for classification."""

import pytest
import torch
from dense_golden import digest_error, load_recording, weights
from mvit_forms import small_form
from torch import Tensor

from mvrec.models import create_model, load_weights
from mvrec.models.mvit.pooling_attention import as_windows, from_windows
from mvrec.models.zoo import name_of, read_weights

RECORDING = "mvit_v2_t_detectron2_224_256x320"


@pytest.fixture(scope="module")
def spec() -> dict:
    return load_recording(RECORDING)


@pytest.fixture(scope="module")
def recorded_weights(spec: dict) -> dict[str, Tensor]:
    return {f"backbone.bottom_up.{name}": tensor for name, tensor in weights(spec).items()}


@pytest.mark.parametrize("plain", ["1", "0"])
def test_maps_are_those_of_detectron2(
    plain: str, spec: dict, recorded_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVREC_PLAIN", plain)
    model = create_model("mvit_v2_t", num_classes=0, detection=True).eval()
    report = load_weights(model, {"model": recorded_weights})
    assert (report.layout, report.complete, report.unexpected) == ("detectron2", True, ())
    blocks = spec["reference"]["blocks"]
    assert [block.attn.q_window * block.q_stride for block in model.blocks] == [block["window"] for block in blocks]
    assert [block.attn.kv_stride for block in model.blocks] == [block["stride_kv"][0] for block in blocks]
    for image in spec["input"]["images"]:
        x = torch.randn(image["shape"], generator=torch.Generator().manual_seed(image["seed"]))
        with torch.no_grad():
            maps = model.feature_maps(x)
        recorded = spec["outputs"][f"{x.shape[2]}x{x.shape[3]}"]
        errors = {name: digest_error(level, recorded[name]) for name, level in zip(recorded, maps, strict=True)}
        assert max(errors.values()) <= 2e-5, errors


def test_the_network_of_a_file_of_detectron2_is_found_by_its_names(recorded_weights: dict[str, Tensor]) -> None:
    content = {"model": recorded_weights}
    assert name_of(read_weights(content)) == "mvit_v2_t"
    model = create_model("mvit_v2_t", weights=content)
    assert model.blocks[0].attn.q_window == 56
    torch.testing.assert_close(
        model.state_dict()["level_norms.0.bias"], recorded_weights["backbone.bottom_up.scale2_norm.bias"]
    )


def test_weights_for_classification_start_a_detector_with_fresh_norms_of_its_maps() -> None:
    classifier, model = small_form(level_norms=False), small_form()
    fresh = model.level_norms[0].weight.clone()
    report = load_weights(model, classifier.state_dict())
    assert set(report.missing) == {f"level_norms.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert torch.equal(model.level_norms[0].weight, fresh)
    assert torch.equal(model.norm.weight, classifier.norm.weight)


def test_every_map_is_normed_and_heads_add_no_norms() -> None:
    model = small_form()
    torch.nn.init.ones_(model.level_norms[0].weight)
    torch.nn.init.zeros_(model.level_norms[0].bias)
    first = model.feature_maps(torch.randn(1, 3, 40, 56))[0]
    torch.testing.assert_close(first.mean(1), torch.zeros_like(first[:, 0]), atol=1e-5, rtol=0)
    assert (model.map_norm, small_form(level_norms=False).map_norm) == ("none", "layer")
    tables = {name for name, _ in model.named_parameters() if ".rel_pos_" in name}
    assert tables
    assert tables <= model.no_weight_decay()


def test_norms_of_maps_that_a_head_does_not_read_have_a_gradient_of_zero() -> None:
    model = small_form()
    model.feature_maps(torch.randn(1, 3, 32, 32))[-1].square().sum().backward()
    gradients = [parameter.grad for parameter in model.level_norms.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_windows_are_filled_with_zeros_and_joined_again() -> None:
    tokens = torch.arange(1.0, 2 * 2 * 5 * 7 * 3 + 1).view(2, 2 * 5 * 7, 3)
    windows = as_windows(tokens, (2, 5, 7), 4)
    assert windows.shape == (2 * 2 * 2, 2 * 4 * 4, 3)
    grid = tokens.unflatten(1, (2, 5, 7))
    second = windows.unflatten(1, (2, 4, 4))[1]  # the upper right one of the first grid
    torch.testing.assert_close(second[:, :, :3], grid[0, :, :4, 4:])
    assert (second[:, :, 3] == 0).all()
    torch.testing.assert_close(from_windows(windows, (2, 5, 7), 4), tokens)
