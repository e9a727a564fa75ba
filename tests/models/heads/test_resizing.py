"""Convolutions of resized maps next to the same written plainly."""

import itertools

import pytest
import torch
from zoo_builds import small

from mvrec.models import SegmentationHead, count_macs
from mvrec.models.heads.resizing import convolved, convolved_plainly, resize

SIZES = ((1, 1), (2, 3), (5, 7), (9, 4), (16, 17))


def test_convolutions_of_resized_maps_equal_plain_ones_with_their_gradients() -> None:
    """Also of maps that shrink, that are no exact fraction, and that have the size already."""
    torch.manual_seed(0)
    for target, side, batch in itertools.product(((16, 17), (5, 7), (1, 3)), (1, 3, 5), (1, 2)):
        maps = [torch.randn(batch, 2 + i, *size, dtype=torch.float64) for i, size in enumerate(SIZES)]
        kernel = torch.randn(4, sum(level.shape[1] for level in maps), side, side, dtype=torch.float64)
        results = []
        for form in (convolved, convolved_plainly):
            leaves = [tensor.clone().requires_grad_() for tensor in (*maps, kernel)]
            output = form(leaves[:-1], leaves[-1], target)
            output.square().sum().backward()
            results.append([output, *(leaf.grad for leaf in leaves)])
        assert results[0][0].shape == (batch, 4, *target)
        for fast, plain in zip(*results, strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


def test_convolutions_of_resized_maps_take_maps_with_channels_last_and_half_precision() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, *size).contiguous(memory_format=torch.channels_last) for size in SIZES]
    kernel = torch.randn(4, 8 * len(SIZES), 3, 3)
    expected = convolved_plainly(maps, kernel, (16, 17))
    torch.testing.assert_close(convolved(maps, kernel, (16, 17)), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = convolved(maps, kernel, (16, 17))
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("decoder", ["upernet", "segformer"])
def test_multiply_adds_are_counted_as_in_papers(decoder: str) -> None:
    model = small("shunted")
    head = SegmentationHead(model.feature_info, 5, decoder=decoder, channels=8)
    backbone, size = count_macs(model, (3, 64, 64)) - 64 * 5, 64
    model.place_head(head, 5)
    channels, cells = (
        [info.channels for info in model.feature_info],
        [(size // info.stride) ** 2 for info in model.feature_info],
    )
    if decoder == "segformer":
        expected = sum(8 * count * width for count, width in zip(cells, channels, strict=True)) + cells[0] * 8 * 4 * 8
    else:
        pooled = (1 + 4 + 9 + 36) * channels[3] * 8 + 9 * cells[3] * (channels[3] + 4 * 8) * 8
        finer = sum(count * (8 * width + 9 * 8 * 8) for count, width in zip(cells[:3], channels, strict=False))
        expected = pooled + finer + cells[0] * 9 * 4 * 8 * 8
    assert count_macs(model, (3, size, size)) == backbone + expected + cells[0] * 8 * 5


def test_a_map_of_the_size_stays_as_it_is() -> None:
    x = torch.randn(1, 2, 5, 7)
    assert resize(x, (5, 7)) is x
    assert resize(x, (10, 7)).shape == (1, 2, 10, 7)
