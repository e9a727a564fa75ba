"""The contract of every network, held against a shallow build of each family and kind."""

import copy
import itertools
import pickle
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from zoo_builds import BUILDS, VIDEOS, channels_last, inputs, lively

import mvrec.models as zoo
from mvrec.models.backbone import Backbone
from mvrec.models.layers import StochasticDepth

builds = pytest.mark.parametrize("name", BUILDS)
BLOCK = re.compile(r".*?blocks?\d*\.\d+\.")  # `blocks.3.`, `block2.1.`, `layers.0.blocks.1.`


def test_table_has_a_build_of_every_architecture() -> None:
    networks = {value for value in vars(zoo).values() if isinstance(value, type) and issubclass(value, Backbone)}
    assert {build.network for build in BUILDS.values()} == networks - {Backbone, zoo.Framewise, zoo.OwnNetwork}


@builds
def test_image_gives_features_and_raw_logits_whatever_the_other_images(name: str) -> None:
    model = lively(BUILDS[name]()).double().eval()
    x = inputs(model, 3).double()
    features, logits = model.forward_features(x), model(x)
    assert features.shape == (3, model.num_features)
    assert logits.shape == (3, model.num_classes) == (3, 5)
    assert logits.isfinite().all()
    torch.testing.assert_close(model.head(features), logits)
    torch.testing.assert_close(model(x[1:2]), logits[1:2])
    assert not torch.allclose(logits[0], logits[1], rtol=0.01)  # the input matters
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(model(x), 2 * logits)


@builds
def test_forward_leaves_nothing_on_the_modules_and_copies_are_networks_of_their_own(name: str) -> None:
    model = lively(BUILDS[name]()).eval()
    x, larger = inputs(model), inputs(model, H=96, W=80, **({"T": 7} if name in VIDEOS else {}))

    def kept() -> list[dict[str, object]]:
        return [{**vars(m), **m._buffers, **m._parameters, **m._modules} for m in model.modules()]

    before = kept()
    logits = model(x)
    model.feature_maps(larger)
    for old, new in zip(before, kept(), strict=True):
        assert old.keys() == new.keys()
        assert all(old[key] is new[key] for key in old)
    torch.testing.assert_close(model(x), logits, rtol=0, atol=0)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for other in copies:
        assert not other.training
        torch.testing.assert_close(other(x), logits, rtol=0, atol=0)


@builds
def test_any_size_gives_finite_gradients_and_maps(name: str) -> None:
    model = lively(BUILDS[name]())
    for h, w, frames in ((80, 32, 1), (37, 51, 5), (64, 64, 16)):
        x = inputs(model, H=h, W=w, **({"T": frames} if name in VIDEOS else {}))
        model.train().zero_grad()
        logits = model(x)
        logits.sum().backward()
        assert logits.isfinite().all(), x.shape
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), x.shape
        check_feature_maps(model.eval(), x)


def check_feature_maps(model: Backbone, x: Tensor) -> None:
    """Maps are finite and as large as `feature_info` says, give or take a broken cell, and features are of the last."""
    maps = model.feature_maps(x)
    assert [info.stride for info in model.feature_info] == [4 * 2**i for i in range(len(maps))]
    assert model.feature_info[-1].channels == model.num_features
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        assert feature_map.shape[:2] == (len(x), info.channels)
        assert list(feature_map.shape[2:-2]) == [-(-frames // 2) for frames in x.shape[2:-2]]
        for cells, pixels in zip(feature_map.shape[-2:], x.shape[-2:], strict=True):
            assert pixels // info.stride <= cells <= -(-pixels // info.stride)
        assert feature_map.isfinite().all()
    if getattr(model, "cls_token", None) is None:
        torch.testing.assert_close(maps[-1].flatten(2).mean(2), model.forward_features(x))


@builds
def test_network_built_for_a_rectangle_takes_it_and_a_square(name: str) -> None:
    model = lively(BUILDS[name](image_size=(37, 64), in_channels=2)).eval()
    assert (model.input_shape[0], model.input_shape[-2:]) == (2, (37, 64))
    assert model(inputs(model)).isfinite().all()
    assert model(inputs(model, H=64)).isfinite().all()


def from_yaml(network: type[Backbone], text: str) -> Any:
    parser = ArgumentParser()
    parser.add_class_arguments(network, "model")
    return parser.instantiate(parser.parse_string(f"model: {text}")).model


def test_yaml_reaches_every_argument_of_every_network() -> None:
    mvit = from_yaml(
        zoo.MViT,
        "{num_frames: 4, image_size: [32, 48], embed_dim: 16, depth: 3, kv_stride: 2, pool_kernel: null,"
        " dim_mults: {1: 2}, head_mults: {1: 2}, q_strides: {1: 2}, unpooled_kv_blocks: [2], dim_change: attention}",
    )
    assert (mvit.input_shape, mvit.num_features, mvit.blocks[2].attn.pool_k) == ((3, 4, 32, 48), 32, None)
    row = "{dim: 8, depth: 2, heads: 2, sr_ratio: 2, mlp_ratio: 4"
    coarse, size = "{dim: 16, depth: 2, heads: 2, sr_ratio: 1, mlp_ratio: 2}", "image_size: [32, 48], in_channels: 1"
    shunted = from_yaml(zoo.Shunted, f"{{stages: [{row}}}, {coarse}], num_stem_convs: 2, {size}}}")
    assert (shunted.input_shape, len(shunted.block2)) == ((1, 32, 48), 2)
    sgformer = from_yaml(zoo.SGFormer, f"{{stages: [{row}, chunks: [2, 1]}}, {coarse}], {size}}}")
    assert (sgformer.input_shape, sgformer.block1[1].attn.chunks, len(sgformer.block2)) == ((1, 32, 48), (2, 1), 2)
    row = "{depth: 1, heads: 2, local_heads: 1, kernel: 3, kv_pool: 4, dim:"
    cloformer = from_yaml(zoo.CloFormer, f"{{stages: [{row} 8}}, {row} 16}}], branches: global, mlp_ratio: 2, {size}}}")
    assert (cloformer.input_shape, cloformer.num_features) == ((1, 32, 48), 16)
    assert cloformer(torch.randn(2, 1, 32, 48)).shape == (2, 1000)


@builds
def test_reset_head_replaces_nothing_else(name: str) -> None:
    model = lively(BUILDS[name]()).double().eval()
    x = inputs(model).double()
    features = model.forward_features(x)
    names = [n for n, _ in model.named_parameters()]
    model.reset_head(9)
    assert model.num_classes == 9
    assert not any(module.training for module in model.modules())
    assert [n for n, _ in model.named_parameters()] == names
    assert model(x).shape == (2, 9)
    assert model(x).dtype == torch.float64
    torch.testing.assert_close(model.forward_features(x), features, rtol=0, atol=0)

    with pytest.raises(ValueError, match="num_classes must be 0 or more, got -1"):
        model.reset_head(-1)
    assert model.num_classes == 9
    model.reset_head(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(x), features, rtol=0, atol=0)
    headless = BUILDS[name](num_classes=0)
    assert headless.state_dict().keys() == model.state_dict().keys()


@builds
def test_layer_groups_go_block_by_block_from_the_stem_to_the_head(name: str) -> None:
    build = BUILDS[name]
    for num_classes in (5, 0):
        model = build(num_classes=num_classes)
        names = [n for n, _ in model.named_parameters()]
        stem, *blocks, last = model.layer_groups()
        assert Counter([*stem, *itertools.chain(*blocks), *last]) == Counter(names)
        assert [{m[0] for m in map(BLOCK.match, group) if m} for group in blocks] == [
            {block} for block in dict.fromkeys(m[0] for m in map(BLOCK.match, names) if m)
        ]
        assert len(blocks) == build.depth
        assert not any("block" in n for n in (*stem, *last))
        assert any(n.startswith("patch_embed") for n in stem)
        assert {n for n in names if n.startswith(("pos_embed", "cls_token"))} <= set(stem)
        assert {n for n in names if n.startswith("head.")} <= set(last)
        assert model.no_weight_decay() == {n for n, p in model.named_parameters() if p.ndim == 1}


@builds
def test_drop_path_rises_linearly_over_the_blocks_and_leaves_the_shortcut_alone(name: str) -> None:
    depth = BUILDS[name].depth
    model = BUILDS[name](drop_path_rate=0.6)
    drops = [m for m in model.modules() if isinstance(m, StochasticDepth)]
    assert [m.p for m in drops] == pytest.approx([0.6 * i / (depth - 1) for i in range(depth)])
    for drop in drops:
        drop.p = 1.0
    model(inputs(model)).square().sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not {n for n in moved if ".attn." in n or ".mlp." in n}
    assert {n for n in moved if n.startswith(("patch_embed", "cls_token"))}


def test_stochastic_depth_draws_and_drops_like_torchvisions() -> None:
    from torchvision.ops import StochasticDepth as Theirs

    x = torch.randn(64, 3, 5)
    for p in (0.0, 0.3, 1.0):
        actual, expected = StochasticDepth(p), Theirs(p, mode="row")
        for training in (True, False):
            results = []
            for layer in (actual.train(training), expected.train(training)):
                torch.manual_seed(1)
                results.append(layer(x))
            assert torch.equal(*results), (p, training)
    with pytest.raises(ValueError, match=r"must lie in 0..1, got 1.5"):
        StochasticDepth(1.5)


@builds
def test_every_parameter_gets_a_gradient(name: str) -> None:
    build = BUILDS[name]
    model = lively(build()).double()  # in float32, rounding is not much smaller than some gradients
    model(inputs(model, 3).double()).square().sum().backward()
    largest = {}
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        largest[parameter_name] = parameter.grad.abs().max().item()
    assert {n for n, value in largest.items() if value == 0} == {n for n in largest if n.endswith(build.zero or "-")}
    unseen = {n for n, value in largest.items() if value < 1e-9}
    assert unseen == {n for n in largest if n.endswith((*build.zero, *build.inert, "-"))}


@builds
def test_gradients_lie_in_memory_as_their_parameters_do(name: str) -> None:
    """DDP warns of every gradient that does not, even in the strides of axes of one.

    MViT cannot be moved to channels last: its pooling kernels have three axes.
    """
    for network_last in (False, True) if BUILDS[name].network is not zoo.MViT else (False,):
        for images_last in (False, True):
            model = BUILDS[name]()
            if network_last:
                model.to(memory_format=torch.channels_last)
            x = inputs(model, 3)
            model(channels_last(x) if images_last else x).sum().backward()
            for parameter_name, p in model.named_parameters():
                if not network_last or name.startswith("cloformer") or p.shape[2:].numel() > 1:
                    assert p.grad.stride() == p.stride(), (parameter_name, network_last, images_last)


@builds
def test_checkpointing_changes_neither_gradients_nor_statistics(name: str) -> None:
    results, saved = [], []
    for on in (False, True):
        model = lively(BUILDS[name](drop_path_rate=0.3))
        model.set_activation_checkpointing(on)
        torch.manual_seed(3)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = model(inputs(model, 4)).square().sum()
        loss.backward()
        results.append(([p.grad for p in model.parameters()], list(model.buffers())))
        saved.append(sum(sizes))
    torch.testing.assert_close(results[0], results[1])
    assert saved[1] < 0.8 * saved[0]
    counts = [b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    assert all(count == 1 for count in counts)
    assert bool(counts) == BUILDS[name].has_batch_norm


@builds
def test_half_and_double_precision_give_close_logits_and_gradients_of_their_type(name: str) -> None:
    model = lively(BUILDS[name]())
    x = inputs(model, W=80, **({"T": 6} if name in VIDEOS else {}))
    reference = model(x)
    limit = 0.1 * reference.std()
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(x) - reference).abs().max() < limit
    for dtype in (torch.bfloat16, torch.float64):
        other = copy.deepcopy(model).to(dtype)
        logits = other(x.to(dtype))
        assert logits.dtype == dtype
        assert (logits - reference).abs().max() < limit
        logits.square().sum().backward()
        assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in other.parameters()), dtype


# -- compilation and export --------------------------------------------------------------------------------------------


def slow_but(*quick: str) -> pytest.MarkDecorator:
    """Tracing takes seconds, so that kinds which differ little from these wait for the slow tests."""
    names = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in BUILDS]
    return pytest.mark.parametrize("name", names)


def results_of(network: Callable[..., Tensor], model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the gradients of the model that `network` runs."""
    model.zero_grad()
    torch.manual_seed(3)
    logits = network(x)
    logits.square().sum().backward()
    return logits, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@slow_but("mvit_v2_video")
def test_compiled_network_is_one_graph_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No graph has oneDNN's products, whose sums are in another order.
    monkeypatch.setattr("mvrec.models.fast.products._HAS_ONEDNN", False)
    torch._dynamo.reset()
    build = BUILDS[name]
    model = lively(build(**build.shallower, drop_path_rate=0.2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for is_second in (False, True):
        x = inputs(model, 3) + is_second
        with torch._dynamo.config.patch(error_on_recompile=is_second):
            torch.testing.assert_close(results_of(compiled, model, x), results_of(model, model, x))


@slow_but()  # quick for a Shunted Transformer in export/test_exporting.py
def test_exported_program_takes_any_batch_size(name: str) -> None:
    build = BUILDS[name]
    model = lively(build(**build.shallower)).eval()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(model, (inputs(model, 3),), dynamic_shapes=({0: batch},))
        for size in (1, 5):
            x = inputs(model, size)
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shunted", "sgformer", "cloformer", "mvit_v2_video"])
def test_inductor_gives_the_logits_and_gradients_of_eager(name: str) -> None:
    torch._dynamo.reset()
    build = BUILDS[name]
    model = lively(build(**build.shallower)).eval()
    compiled, x = torch.compile(model, fullgraph=True), inputs(model, 3, W=80)
    torch.testing.assert_close(results_of(compiled, model, x), results_of(model, model, x), rtol=1e-3, atol=1e-3)
