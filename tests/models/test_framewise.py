"""An image network on clips."""

import pytest
import torch
from zoo_builds import BUILDS, lively

from mvrec.models import Framewise
from mvrec.models.backbone import Backbone
from mvrec.models.baselines.names import create_baseline

CLIPS = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(3))  # (B, C, T, H, W)


def image_network() -> Backbone:
    return lively(BUILDS["shunted"]()).eval()


def test_clip_gives_pooled_features_one_classification_and_maps_with_frames() -> None:
    inner = image_network()
    by_frame = torch.stack([inner.forward_features(CLIPS[:, :, t]) for t in range(3)])
    for pool, expected in (("mean", by_frame.mean(0)), ("max", by_frame.amax(0))):
        model = Framewise(inner, num_frames=3, pool=pool)
        torch.testing.assert_close(model.forward_features(CLIPS), expected)
        torch.testing.assert_close(model(CLIPS), inner.head(expected))
    assert not torch.allclose(by_frame.mean(0), by_frame.amax(0))
    assert model.feature_info == inner.feature_info
    for level, second in zip(model.feature_maps(CLIPS), inner.feature_maps(CLIPS[:, :, 1]), strict=True):
        assert level.shape == (2, second.shape[1], 3, *second.shape[2:])
        torch.testing.assert_close(level[:, :, 1], second)


def test_any_number_of_frames_and_any_size_goes_in_chunks() -> None:
    inner = image_network()
    sizes: list[int] = []
    inner.patch_embed1.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    expected = Framewise(inner, num_frames=3)(CLIPS)
    model = Framewise(inner, num_frames=8, frames_per_chunk=4)
    assert model.input_shape == (3, 8, 64, 64)
    torch.testing.assert_close(model(CLIPS), expected)
    assert sizes == [6, 4, 2]
    assert model.feature_maps(CLIPS)[0].shape[:3] == (2, 16, 3)
    assert model(torch.randn(1, 3, 1, 48, 80)).shape == (1, 5)


def test_head_levels_gradients_and_checkpointing_are_those_of_the_image_network() -> None:
    inner = image_network()
    model = Framewise(inner, num_frames=3, pool="max")
    model.reset_head(7)
    assert model(CLIPS).shape == (2, 7)
    assert (model.num_classes, inner.num_classes, inner.head.out_features) == (7, 7, 7)
    with pytest.raises(ValueError, match="num_classes must be 0 or more"):
        model.reset_head(-1)
    assert model.layer_groups() == [[f"backbone.{name}" for name in group] for group in inner.layer_groups()]
    assert Backbone.layer_groups(model) == model.layer_groups()  # parameter_stages says the same
    assert model.no_weight_decay() == {f"backbone.{name}" for name in inner.no_weight_decay()}
    assert list(model.state_dict()) == [f"backbone.{name}" for name in inner.state_dict()]
    model.set_activation_checkpointing(True)
    assert inner.activation_checkpointing
    model.train()(CLIPS).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_network_of_another_library_runs_on_clips() -> None:
    inner = create_baseline("torchvision/resnet18", num_classes=4, image_size=64)
    model = Framewise(inner, num_frames=3).eval()
    assert model(CLIPS).shape == (2, 4)
    assert model.layer_groups()[-1] == ["backbone.head.weight", "backbone.head.bias"]
    model.reset_head(3)
    assert model(CLIPS).shape == (2, 3)
    assert Backbone.layer_groups(model) == model.layer_groups()


def test_wrong_argument_network_or_input_is_named() -> None:
    for knobs, message in (
        ({"num_frames": 0}, "num_frames and frames_per_chunk must be 1 or more, got 0, None"),
        ({"num_frames": 2, "frames_per_chunk": 0}, "must be 1 or more, got 2, 0"),
        ({"num_frames": 2, "pool": "min"}, r"pool must be one of \('mean', 'max'\), got 'min'"),
    ):
        with pytest.raises(ValueError, match=message):
            Framewise(image_network(), **knobs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs an image network, got one for inputs of shape \(3, 4, 32, 32\)"):
        Framewise(BUILDS["mvit_v1_video"](), num_frames=4)
    model = Framewise(image_network(), num_frames=3)
    with pytest.raises(ValueError, match=r"expected clips \(B, C, T, H, W\), got shape \(2, 3, 64, 64\)"):
        model(CLIPS[:, :, 0])
    with pytest.raises(ValueError, match="got shape"):
        model(CLIPS[:, :, :0])
