"""Segmentation heads on every kind of network, and what they refuse."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_builds import BUILDS, inputs

from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.baselines.names import create_baseline
from mvrec.models.heads.decoders import POOL_SCALES, AdaptivePool
from mvrec.models.heads.segmentation import CHANNELS, SegmentationHead, head_arguments

LEVELS = tuple(FeatureInfo(channels, stride) for channels, stride in ((64, 4), (128, 8), (256, 16), (512, 32)))
SMALL = tuple(FeatureInfo(channels, stride) for channels, stride in ((8, 4), (12, 8), (16, 16), (20, 32)))
# mmsegmentation's, with 150 classes on maps of 64, 128, 256 and 512 channels.
NUM_PARAMETERS = {"semantic_fpn": 1_643_158, "upernet": 29_678_742, "segformer_mmseg": 549_014}
AUXILIARY_PARAMETERS = 628_886
SIZE = (97, 131)  # pixels, of which no map is an exact fraction
NUM_CLASSES = 5


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def maps(size: tuple[int, int] = SIZE, levels: tuple[FeatureInfo, ...] = SMALL, batch: int = 2) -> list[Tensor]:
    """Maps as networks give them for images of a size: fractions are rounded up."""
    torch.manual_seed(1)
    return [torch.randn(batch, level.channels, *(-(-side // level.stride) for side in size)) for level in levels]


def train_once(model: Backbone, size: tuple[int, int]) -> None:
    """Run one training step's passes on random images, and check shapes and gradients."""
    model.train()
    outputs = model(inputs(model, H=size[0], W=size[1]))
    logits = outputs if isinstance(outputs, tuple) else (outputs,)
    classes = torch.randint(0, NUM_CLASSES, (2, *size))
    assert {tuple(each.shape) for each in logits} == {(2, NUM_CLASSES, *size)}
    sum(F.cross_entropy(each, classes) for each in logits).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in trainable.items() if parameter.grad is None]
    assert not without  # distributed training would refuse them
    assert all(parameter.grad.isfinite().all() for parameter in trainable.values())


def test_parameters_are_as_many_as_in_mmsegmentation() -> None:
    with torch.device("meta"):
        for decoder, expected in NUM_PARAMETERS.items():
            head = SegmentationHead(LEVELS, 150, decoder=decoder, auxiliary=True)
            assert count(head.decoder) == expected
            assert count(head.auxiliary) == AUXILIARY_PARAMETERS


@pytest.mark.parametrize("name", [name for name, build in BUILDS.items() if not build.is_video])
def test_every_image_network_trains_at_any_size(name: str) -> None:
    for decoder in CHANNELS if name == "shunted" else ("semantic_fpn", "upernet"):
        model = BUILDS[name]()
        head = SegmentationHead(model.feature_info, NUM_CLASSES, decoder=decoder, channels=8, level_norm="group")
        model.place_head(head, NUM_CLASSES)
        train_once(model, SIZE)
        model.eval()
        with torch.no_grad():
            assert model(inputs(model, 1, H=40, W=33)).shape == (1, NUM_CLASSES, 40, 33)


@pytest.mark.parametrize(
    ("name", "size", "frozen"),
    [
        ("timm/resnet10t", SIZE, []),
        ("timm/mobilenetv3_small_050", SIZE, ["net.conv_head.weight", "net.conv_head.bias"]),
        ("timm/convnext_atto", SIZE, ["net.head.norm.weight", "net.head.norm.bias"]),
        ("timm/vit_tiny_patch16_224", (64, 64), ["net.norm.weight", "net.norm.bias"]),  # it takes its own size alone
        ("torchvision/resnet18", SIZE, []),
        ("torchvision/mobilenet_v3_small", SIZE, ["net.classifier.0.weight", "net.classifier.0.bias"]),
    ],
)
def test_baselines_train_without_the_layers_that_only_a_classifier_uses(
    name: str, size: tuple[int, int], frozen: list[str]
) -> None:
    model = create_baseline(name, num_classes=NUM_CLASSES, image_size=64)
    model.place_head(SegmentationHead(model.feature_info, NUM_CLASSES, channels=8), NUM_CLASSES)
    assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == frozen
    train_once(model, size)
    model.reset_head(3)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_that_needs_its_own_size_says_so() -> None:
    model = create_baseline("timm/vit_tiny_patch16_224", image_size=64)
    model.place_head(SegmentationHead(model.feature_info, NUM_CLASSES, channels=8), NUM_CLASSES)
    with pytest.raises(ValueError, match=r"is built for \(3, 64, 64\) and cannot take \(3, 97, 131\)"):
        model(torch.zeros(2, 3, *SIZE))


@pytest.mark.parametrize("decoder", CHANNELS)
def test_the_arguments_of_a_head_build_it_again(decoder: str) -> None:
    with torch.device("meta"):
        head = SegmentationHead(SMALL, 3, decoder=decoder, level_norm="layer")
        again = SegmentationHead(SMALL, 3, **head.arguments)
    assert head.arguments == again.arguments == head_arguments(decoder=decoder, level_norm="layer")
    assert head.arguments["channels"] == CHANNELS[decoder]
    shapes, shapes_again = ({key: t.shape for key, t in each.state_dict().items()} for each in (head, again))
    assert shapes == shapes_again


def test_the_auxiliary_decoder_works_in_training_only_and_by_default_with_upernet() -> None:
    for decoder, auxiliary in itertools.product(CHANNELS, (None, True, False)):
        head = SegmentationHead(SMALL, 3, decoder=decoder, channels=8, auxiliary=auxiliary)
        expected = decoder == "upernet" if auxiliary is None else auxiliary
        assert isinstance(head(maps(), SIZE), tuple) == expected
        assert isinstance(head.eval()(maps(), SIZE), Tensor)


def test_the_auxiliary_decoder_reads_the_second_coarsest_map() -> None:
    head = SegmentationHead(SMALL, 3, channels=8, auxiliary=True)
    levels = [level.requires_grad_() for level in maps()]
    head(levels, SIZE)[1].sum().backward()
    assert [level.grad is not None for level in levels] == [False, False, True, False]


def test_norms_of_levels_even_out_their_scale() -> None:
    scales = (1, 10, 100, 1000)
    for kind, over in (("layer", (1,)), ("group", (1, 2, 3))):
        head = SegmentationHead(SMALL, 3, channels=8, level_norm=kind)
        for norm, level, scale in zip(head.level_norms, maps(), scales, strict=True):
            expected = (level - level.mean(over, keepdim=True)) / level.std(over, unbiased=False, keepdim=True)
            torch.testing.assert_close(norm(scale * level), expected, atol=1e-3, rtol=1e-3)
    assert not [*SegmentationHead(SMALL, 3, channels=8).level_norms.parameters()]


def test_maps_finer_than_stride_4_stay_unused() -> None:
    head = SegmentationHead((FeatureInfo(4, 2), *SMALL), 3, channels=8)
    expected = SegmentationHead(SMALL, 3, channels=8)
    assert head.state_dict().keys() == expected.state_dict().keys()
    expected.load_state_dict(head.state_dict())
    finest = torch.randn(2, 4, 49, 66)
    torch.testing.assert_close(head.eval()([finest, *maps()], SIZE), expected.eval()(maps(), SIZE))


def test_copies_have_their_own_weights() -> None:
    head = SegmentationHead(SMALL, 3, decoder="upernet", channels=8)
    twin = copy.deepcopy(head)
    assert not {id(parameter) for parameter in head.parameters()} & {id(parameter) for parameter in twin.parameters()}


def test_pooling_for_export_equals_torchs_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for height, width, cells in itertools.product((1, 2, 4, 7, 13, 16), (1, 3, 6, 11), POOL_SCALES):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        pool = AdaptivePool(cells)
        expected = pool(x)
        with monkeypatch.context() as patch:
            patch.setattr("torch.compiler.is_exporting", lambda: True)
            torch.testing.assert_close(pool(x), expected)


class Strided(nn.Module):
    """The smallest network of maps, whose sizes are rounded up."""

    def __init__(self, head: SegmentationHead) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, level.channels, 1, stride=level.stride) for level in SMALL)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head([conv(x) for conv in self.convs], x.shape[-2:])


@pytest.mark.parametrize("decoder", ["semantic_fpn", "upernet"])
def test_exported_heads_take_any_size(decoder: str) -> None:
    """Maps that are exact fractions in the example, and a pooled map of the size of the map, must fix no size."""
    model = Strided(SegmentationHead(SMALL, 3, decoder=decoder, channels=8)).eval()
    sides = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(model, (torch.randn(1, 3, 96, 128),), dynamic_shapes=(sides,)).module()
    for size in (SIZE, (64, 33), (160, 192)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-5)


def test_upernet_refuses_to_train_on_one_image_and_says_why() -> None:
    head = SegmentationHead(SMALL, 3, decoder="upernet", channels=8)
    with pytest.raises(ValueError, match="train with 2 images or more per process"):
        head(maps(batch=1), SIZE)
    assert head.eval()(maps(batch=1), SIZE).shape == (1, 3, *SIZE)


@pytest.mark.parametrize(
    ("levels", "arguments", "message"),
    [
        ((), {}, "needs a network with feature maps"),
        (SMALL, {"num_classes": 0}, "num_classes must be 1 or more, got 0"),
        (SMALL, {"channels": 0}, "channels must be 1 or more, got 0"),
        (SMALL, {"dropout": 1.5}, r"dropout must lie in 0\.\.1, got 1\.5"),
        (SMALL, {"decoder": "deeplab"}, "decoder must be one of semantic_fpn, upernet, segformer, .*, got 'deeplab'"),
        (SMALL, {"level_norm": "batch"}, "level_norm must be one of none, layer, group, got 'batch'"),
    ],
)
def test_wrong_arguments_are_one_line(levels: tuple[FeatureInfo, ...], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationHead(levels, **{"num_classes": 3} | arguments)


def test_maps_of_clips_are_refused() -> None:
    head = SegmentationHead(SMALL, 3, channels=8)
    clips = [level[:, :, None] for level in maps()]
    with pytest.raises(ValueError, match=r"needs maps of images \(B, C, H, W\), got shape \(2, 8, 1, 25, 33\)"):
        head(clips, SIZE)
