"""Decoders of segmentation next to transformers' where it is installed, at random weights: outputs and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.decoders import AuxiliaryFCN, SegFormer, UPerNet

pytest.importorskip("transformers", reason="transformers is not installed")

CHANNELS = [16, 24, 40, 64]
SHAPES = [(25, 35), (13, 18), (7, 9), (4, 5)]
LEVELS = [FeatureInfo(width, stride) for width, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)]
NUM_CLASSES = 5
NAMES = (
    (".batch_norm.", ".bn."),
    ("linear_fuse.weight", "linear_fuse.conv.weight"),
    ("linear_projections.0", "linear_c1"),
    ("linear_projections.1", "linear_c2"),
    ("linear_projections.2", "linear_c3"),
    ("linear_projections.3", "linear_c4"),
)


def renamed(name: str, classifier: str) -> str:
    for pattern, replacement in (*NAMES, ("classifier", classifier)):
        name = name.replace(pattern, replacement)
    return f"linear_fuse.bn.{name.removeprefix('batch_norm.')}" if name.startswith("batch_norm.") else name


def check(peer: nn.Module, decoder: nn.Module, classifier: str, *, one_map: bool = False) -> None:
    """Outputs, running statistics and gradients are close in evaluation and in training."""
    torch.manual_seed(0)
    peer, decoder = peer.double(), decoder.double()
    for tensor in peer.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor), alpha=0.2)
    decoder.load_state_dict({renamed(name, classifier): tensor for name, tensor in peer.state_dict().items()})
    maps = [torch.randn(2, *shape, dtype=torch.float64) for shape in map(_shape, CHANNELS, SHAPES)]
    for training in (False, True):
        peer.train(training)
        decoder.train(training)
        peer_maps, our_maps = ([level.clone().requires_grad_() for level in maps] for _ in range(2))
        expected, logits = peer(peer_maps), decoder(our_maps[2] if one_map else our_maps)
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
        expected.square().sum().backward()
        logits.square().sum().backward()
        for level, peer_level in zip(our_maps, peer_maps, strict=True):
            _check_gradient(level.grad, peer_level.grad)
        parameters = dict(decoder.named_parameters())
        for name, parameter in peer.named_parameters():
            _check_gradient(parameters[renamed(name, classifier)].grad, parameter.grad)
        state = decoder.state_dict()
        for name, tensor in peer.state_dict().items():
            torch.testing.assert_close(state[renamed(name, classifier)], tensor)


def _shape(channels: int, size: tuple[int, int]) -> tuple[int, int, int]:
    return (channels, *size)


def _check_gradient(gradient: Tensor | None, expected: Tensor | None) -> None:
    assert (gradient is None) == (expected is None)
    if expected is not None:
        limit = 1e-9 * (1 + float(expected.abs().max()))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=limit)


def upernet_settings() -> Any:
    from transformers import UperNetConfig

    return UperNetConfig(hidden_size=12, auxiliary_channels=12, num_labels=NUM_CLASSES, pool_scales=[1, 2, 3, 6])


def test_upernet_equals_transformers() -> None:
    from transformers.models.upernet.modeling_upernet import UperNetHead

    decoder = UPerNet(LEVELS, 12, num_classes=NUM_CLASSES, dropout=0)
    check(UperNetHead(upernet_settings(), in_channels=CHANNELS), decoder, "conv_seg")


def test_auxiliary_decoder_equals_transformers() -> None:
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead

    settings = upernet_settings()
    settings.auxiliary_in_channels = None
    decoder = AuxiliaryFCN(CHANNELS[2], 12, num_classes=NUM_CLASSES, dropout=0)
    check(UperNetFCNHead(settings, in_channels=CHANNELS), decoder, "conv_seg", one_map=True)


def test_segformer_equals_transformers() -> None:
    from transformers import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    settings = SegformerConfig(
        hidden_sizes=CHANNELS, decoder_hidden_size=12, num_labels=NUM_CLASSES, classifier_dropout_prob=0
    )
    decoder = SegFormer(LEVELS, 12, num_classes=NUM_CLASSES, dropout=0)
    check(SegformerDecodeHead(settings), decoder, "linear_pred")
