"""Classes of pixels under a protocol: equal to the recording, and to plain arithmetic on whole maps."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_segmenter import TinySegmenter, distance, load, normalised, weights
from torch import Tensor

from mvrec.data.views.protocol import MaskProtocol
from mvrec.tasks.segmentation import modes
from mvrec.tasks.segmentation.modes import class_values, label_map

SPEC = load("seg_inference_modes_mmseg_k5")


@dataclass(frozen=True)
class FixedSizes(MaskProtocol):
    """A protocol whose network sizes are those of the recording, by their ratios 1, 2, 3 ..."""

    sizes: tuple[tuple[int, int], ...] = ()

    def network_size(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        return self.sizes[int(ratio) - 1]


def recorded_protocol(mode: str) -> FixedSizes:
    if mode == "multi_scale_flip":
        sizes = tuple(tuple(size) for size in SPEC["input"][mode]["network_sizes"])
        return FixedSizes(sizes=sizes, ratios=(1.0, 2.0, 3.0), flip=True)
    settings = SPEC["input"]["modes"][mode]
    config: dict[str, Any] = settings["test_cfg"]
    window, stride = config.get("crop_size", [512])[0], config.get("stride", [341])[0]
    return FixedSizes(sizes=(tuple(settings["network_size"]),), mode=config["mode"], window=window, stride=stride)


@pytest.mark.golden
@pytest.mark.parametrize("stripe", [modes.STRIPE, 2000])
@pytest.mark.parametrize("mode", [*SPEC["input"]["modes"], "multi_scale_flip"])
def test_values_and_classes_equal_the_recording_also_in_stripes(mode, stripe, monkeypatch):
    monkeypatch.setattr(modes, "STRIPE", stripe)
    network, protocol, recorded = TinySegmenter(weights(SPEC)), recorded_protocol(mode), SPEC["outputs"][mode]
    values = class_values(network, normalised(SPEC), protocol)
    assert distance(values, recorded["values"]) <= 2e-5
    labels = label_map(network, normalised(SPEC), protocol)
    assert labels.dtype == torch.uint8
    assert labels.shape == values.shape[1:]
    counts = torch.bincount(labels.flatten().int(), minlength=len(values))
    assert (counts - torch.tensor(recorded["label_counts"])).abs().max() <= 2


def test_the_recordings_image_and_sizes_are_ours():
    protocol = MaskProtocol.named("mmseg-2048x512", scale=(2048, 128))
    assert protocol.network_size(96, 131) == tuple(SPEC["input"]["modes"]["whole"]["network_size"])
    assert distance(_colours(normalised(SPEC)), SPEC["outputs"]["image"]) <= 1e-6


def _colours(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(SPEC["input"]["normalise"][key])[:, None, None] for key in ("mean", "std"))
    return image[0] * std + mean


def six_classes(pixels: Tensor) -> Tensor:
    """A network of one convolution, in which every pixel depends on its neighbours, padding included."""
    weight = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1)).to(pixels)
    return F.conv2d(pixels, weight, padding=2)


def plain_values(image: Tensor, protocol: MaskProtocol) -> Tensor:
    """The same values on whole maps, window by window and view by view."""
    views = []
    for ratio in protocol.ratios:
        size = protocol.network_size(*image.shape[2:], ratio)
        for flip in (False, True) if protocol.flip else (False,):
            pixels = F.interpolate(image, size, mode="bilinear")
            pixels = pixels.flip(-1) if flip else pixels
            logits = plain_windows(pixels, protocol) if protocol.mode == "slide" else six_classes(pixels)
            views.append(F.interpolate(logits.flip(-1) if flip else logits, image.shape[2:], mode="bilinear")[0])
    return views[0] if len(views) == 1 else torch.stack([view.softmax(0) for view in views]).mean(0)


def plain_windows(pixels: Tensor, protocol: MaskProtocol) -> Tensor:
    total, counts = torch.zeros(1, 6, *pixels.shape[2:]).to(pixels), torch.zeros(pixels.shape[2:]).to(pixels)
    for top, left, height, width in protocol.windows(*pixels.shape[2:]):
        rows, columns = slice(top, top + height), slice(left, left + width)
        total[..., rows, columns] += six_classes(pixels[..., rows, columns])
        counts[rows, columns] += 1
    assert (counts > 0).all()
    return total / counts


SEVERAL: dict[str, Any] = {"ratios": (0.5, 1.0, 1.75), "flip": True}
WINDOWS: dict[str, Any] = {"mode": "slide", "window": 33, "stride": 21}


@pytest.mark.parametrize("stripe", [modes.STRIPE, 3000, 1])
@pytest.mark.parametrize("size", [(97, 131), (30, 140), (20, 17)])
@pytest.mark.parametrize(
    "values",
    [
        {"scale": None},
        {"scale": (200, 64)},
        {"scale": (200, 64), "align": 32},
        {"scale": (1000, 160)},
        {"scale": None, **SEVERAL},
        {"scale": None, **WINDOWS},
        {"scale": (1000, 160), **WINDOWS},
        {"scale": (200, 64), **WINDOWS, **SEVERAL},
    ],
)
def test_stripes_and_windows_give_the_values_of_whole_maps(values, size, stripe, monkeypatch):
    monkeypatch.setattr(modes, "STRIPE", stripe)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    protocol = MaskProtocol(**values)
    expected = plain_values(image, protocol)
    assert (class_values(six_classes, image, protocol) - expected).abs().max() <= 2e-5 * expected.std()
    labels = label_map(six_classes, image, protocol).long()
    largest, decided = expected.max(0).values, expected.gather(0, labels[None])[0]
    assert ((largest - decided) <= 2e-5 * expected.std()).all()


def test_windows_are_read_once_however_many_stripes_there_are(monkeypatch):
    monkeypatch.setattr(modes, "STRIPE", 1)
    sizes: list[torch.Size] = []

    def network(pixels: Tensor) -> Tensor:
        sizes.append(pixels.shape)
        return six_classes(pixels)

    protocol = MaskProtocol(scale=None, **WINDOWS)
    label_map(network, torch.zeros(1, 3, 97, 131), protocol)
    assert sizes == [torch.Size([1, 3, 33, 33])] * len(protocol.windows(97, 131))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("function", [label_map, class_values])
def test_logits_that_are_not_finite_decide_nothing_also_in_one_window(function, number):
    image = torch.zeros(1, 3, 97, 131)
    image[0, :, 88:, 122:] = 1

    def network(pixels: Tensor) -> Tensor:
        return torch.where(pixels == 1, number, pixels)

    assert function(network, image, MaskProtocol(scale=None, **WINDOWS)) is None
    assert function(network, image, MaskProtocol(scale=None, ratios=(0.5, 2.0))) is None
    image[0, :, 88:, 122:] = 0
    assert function(network, image, MaskProtocol(scale=None, **WINDOWS)) is not None


def test_logits_of_half_precision_are_averaged_in_float32():
    image = torch.randn(1, 3, 50, 40, generator=torch.Generator().manual_seed(3))
    protocol = MaskProtocol(scale=None, **WINDOWS)

    def network(pixels: Tensor) -> Tensor:
        return six_classes(pixels).bfloat16()

    values = class_values(network, image, protocol)
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


@pytest.mark.parametrize(("num_classes", "dtype"), [(255, torch.uint8), (256, torch.int16)])
def test_the_mark_of_unlabelled_pixels_is_no_class(num_classes, dtype):
    def network(pixels: Tensor) -> Tensor:
        return torch.arange(num_classes, dtype=torch.float32)[None, :, None, None].expand(1, -1, *pixels.shape[2:])

    labels = label_map(network, torch.zeros(1, 3, 4, 5), MaskProtocol(scale=None))
    assert labels.dtype == dtype
    assert (labels == num_classes - 1).all()


def test_several_views_need_no_more_memory_than_the_smaller_of_views_and_image():
    several = MaskProtocol.named("mmseg-2048x512-ms-flip")
    assert modes._views_exceed_image(several, (512, 683))
    assert not modes._views_exceed_image(several, (6000, 8000))
    assert not modes._views_exceed_image(replace(several, mode="slide"), (512, 683))
