"""Heat maps against what is known: exact identities, explicit matrices, and networks whose reason is known."""

import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from zoo_builds import BUILDS, IMAGE, MVIT_V1, MVIT_V2, inputs, lively

from mvrec.errors import UserError
from mvrec.inference.heat import METHODS, _recorded, _without_lattice, default_method, heat_map, on_pixels
from mvrec.models import Framewise, MViT, accelerate, create_model
from mvrec.models.backbone import Backbone
from mvrec.models.fast.accelerate import as_written

STAGES = {"depth": 4, "dim_mults": {1: 2}, "head_mults": {1: 2}, "q_strides": {1: 2, 2: 2}, "image_size": 32}
V1, V2 = MVIT_V1 | STAGES, MVIT_V2 | STAGES
MVITS = {
    "v1_video": V1 | {"num_frames": 4},
    "v1_video_of_space": V1 | {"num_frames": 4, "pool_kernel": None},
    "v1_video_max": V1 | {"num_frames": 6, "pooling": "max", "unpooled_kv_blocks": (1,)},
    "v1_image_last_block_pools": V1 | IMAGE | {"pos_embed": "joint", "q_strides": {0: 2, 3: 2}},
    "v2_video": V2 | {"num_frames": 4},
    "v2_image_of_mean": V2 | IMAGE | {"cls_token": False},
}
PYRAMIDS = ("shunted", "sgformer", "cloformer")


def network(name: str) -> Backbone:
    torch.manual_seed(0)
    return (lively(BUILDS[name]()) if name in BUILDS else accelerate(lively(MViT(**MVITS[name])))).eval()


@pytest.mark.parametrize("name", PYRAMIDS)
def test_grad_cam_of_a_mean_is_the_class_activation_map(name):
    """A head that takes the mean of the last map has this heat in its weights (Zhou et al. 2016)."""
    model, classes = network(name), torch.tensor([3, 0])
    for height in (64, 72):
        x = inputs(model, H=height, W=96)
        last = model.feature_maps(x)[-1].detach()
        expected = torch.einsum("bc,bchw->bhw", model.head.weight[classes], last).relu() / last[0, 0].numel()
        heat = heat_map(model, x, classes, method="cam")
        assert heat.shape == (2, height, 96)
        assert expected.max() > 0
        torch.testing.assert_close(heat[:, ::32, ::32], expected, rtol=1e-4, atol=1e-6)  # 32 pixels from cell to cell


@pytest.mark.parametrize("name", [*PYRAMIDS, *MVITS])
def test_levels_of_a_network_are_its_feature_maps(name):
    model = network(name)
    x = inputs(model)
    maps = model.feature_maps(x)
    levels = model.levels(tuple(x.shape))
    assert len(levels) == len(maps)
    for stage, (level, expected) in enumerate(zip(levels, maps, strict=True)):
        with _recorded(level) as tensors:
            model(x)
        is_before_the_last = stage == len(maps) - 1 and getattr(model, "cls_token", None) is not None
        if not is_before_the_last:
            assert torch.equal(level.to_map(tensors[0]), expected)
            assert level.stride == model.feature_info[stage].stride
        assert heat_map(model, x, torch.tensor([1, 2]), method="layercam", stage=stage).sum() > 0


def test_last_level_of_a_class_token_is_one_with_a_gradient():
    """The grid that `feature_maps` ends with has a gradient of zero; with MViT-B's plan the stage before has one."""
    model = network("v1_video")
    x = inputs(model)
    last = model.feature_maps(x)[-1]
    level = model.levels(tuple(x.shape))[-1]
    assert level.module is model.blocks[-1]
    assert level.to_map(torch.zeros(2, 1 + last[0, 0].numel(), 32)).shape[2:] == last.shape[2:]
    for method in ("cam", "layercam"):
        assert heat_map(model, x, torch.tensor([0, 1]), method=method).amax((1, 2, 3)).min() > 0


def test_layercam_is_zero_where_the_head_does_not_look():
    model = network("shunted")
    model.forward_features = lambda x: model._run_stages(x)[-1][:, 2:, 2:].mean((1, 2))
    heat = heat_map(model, inputs(model, H=128, W=128), torch.tensor([0, 1]), method="layercam")
    assert heat[:, 64:, 64:].max() > 0.01
    assert heat[:, :33].abs().max() == 0  # cells are 32 pixels apart
    assert heat[:, :, :33].abs().max() == 0


@functools.cache
def windows(thw, kernel, stride, num_cls):
    """(num_cls + N', num_cls + N): which tokens a pooled cell is drawn from, in equal shares, found one by one."""
    kernel = kernel or (1, 1, 1)
    steps = (1, stride, stride)
    pooled = [(n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(thw, kernel, steps, strict=True)]
    matrix = torch.zeros(num_cls + math.prod(pooled), num_cls + math.prod(thw), dtype=torch.float64)
    matrix[:num_cls, :num_cls] = torch.eye(num_cls)
    for row, cell in enumerate(itertools.product(*map(range, pooled))):
        for column, token in enumerate(itertools.product(*map(range, thw))):
            offsets = [t - (c * s - k // 2) for t, c, s, k in zip(token, cell, steps, kernel, strict=True)]
            if all(0 <= offset < k for offset, k in zip(offsets, kernel, strict=True)):
                matrix[num_cls + row, num_cls + column] = 1
    return matrix / matrix.sum(1, keepdim=True)


def explicit_attention(monkeypatch, model, x, classes):
    """All probabilities with their gradients, by a network that forms them: its logits must be the same."""
    maps = []

    def attend(q, k, v, attn_mask, scale):
        scores = q @ k.mT * q.shape[-1] ** -0.5
        weights = (scores if attn_mask is None else scores + attn_mask).softmax(-1)
        weights.retain_grad()
        maps.append(weights)
        return weights @ v

    fast = model(x)
    with monkeypatch.context() as patch, as_written(model):
        patch.setattr(F, "scaled_dot_product_attention", attend)
        slow = model(x)
    torch.testing.assert_close(fast, slow)
    slow.gather(1, classes[:, None]).sum().backward()
    return maps


def expected_flow(model, x, probabilities, *, of_class):
    """The product of all blocks' matrices, and of them what the head reads: (B, t, h, w)."""
    num_cls = int(model.cls_token is not None)
    grids = model.token_grids(tuple(x.shape))
    rows = []
    for sample in range(len(x)):
        flow = unattended = torch.eye(num_cls + math.prod(grids[0]), dtype=torch.float64)
        for block, weights, thw in zip(model.blocks, probabilities, grids[:-1], strict=True):
            attention = block.attn
            values = windows(thw, attention.kv_kernel, attention.kv_stride, num_cls)
            stride = block.q_stride
            shortcut = windows(thw, (1, stride + 1, stride + 1) if stride > 1 else None, stride, num_cls)
            weight = weights[sample].detach().double()
            if of_class:
                attended = (weight * weights.grad[sample].double()).relu().mean(0) @ values
                matrix = shortcut + attended
            else:
                attended = weight.mean(0) @ values
                if attention.residual_pooling:
                    queries = windows(thw, attention.q_kernel, attention.q_stride, num_cls)
                    attended[num_cls:] = (attended[num_cls:] + queries[num_cls:]) / 2
                matrix = (shortcut + attended) / 2
                torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
            flow, unattended = matrix @ flow, shortcut @ unattended
        whole = flow - unattended if of_class else flow
        rows.append(whole[0, 1:] if num_cls else whole.mean(0))
    return torch.stack(rows).unflatten(1, grids[0])


@pytest.mark.parametrize("name", MVITS)
def test_attention_heat_is_the_product_of_all_matrices_in_both_forms(monkeypatch, name):
    model = network(name)
    x, classes = inputs(model, H=36, W=44), torch.tensor([4, 1])  # grids of 9 x 11, which no stride divides
    probabilities = explicit_attention(monkeypatch, model, x, classes)
    for method in ("rollout", "relevance"):
        expected = expected_flow(model, x, probabilities, of_class=method == "relevance")
        quick = heat_map(model, x, classes, method=method)
        with as_written(model):
            torch.testing.assert_close(heat_map(model, x, classes, method=method), quick, rtol=1e-4, atol=1e-6)
        with monkeypatch.context() as patch:  # what is smoothed away is another test's
            patch.setattr("mvrec.inference.heat._without_lattice", lambda heat, period: heat)
            patch.setattr("mvrec.inference.heat._QUERIES_AT_ONCE", 7)
            heat = heat_map(model, x, classes, method=method)
        assert heat.shape == (2, *x.shape[2:])
        cells = heat[:, ::2, ::4, ::4] if x.ndim == 5 else heat[:, None, ::4, ::4]
        assert expected.max() > 0
        torch.testing.assert_close(cells.double(), expected, rtol=1e-4, atol=1e-7)


def test_regular_lattice_is_smoothed_to_ones():
    for period in (2, 3, 4, 8):
        lattice = torch.zeros(1, 2, 24, 24)
        lattice[..., ::period, ::period] = period**2
        smooth = _without_lattice(lattice, period=period)[..., period:-period, period:-period]
        torch.testing.assert_close(smooth, torch.ones_like(smooth))
    assert torch.equal(_without_lattice(lattice, period=1), lattice)


@pytest.mark.parametrize("method", METHODS)
def test_network_stays_as_it_was_and_another_class_gives_another_map(method):
    model = network("v2_video").requires_grad_(False)  # frozen weights too
    x, classes = inputs(model, size=3), torch.tensor([0, 1, 2])
    before = model(x)
    together = heat_map(model, x, classes, method=method)
    assert torch.equal(model(x), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not together.requires_grad
    for i in range(3):
        alone = heat_map(model, x[i : i + 1], classes[i : i + 1], method=method)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-6)
    first, other = (heat_map(model, x[:1], torch.tensor([number]), method=method) for number in (0, 1))
    assert torch.allclose(first / first.sum(), other / other.sum(), rtol=0.01, atol=1e-6) == (method == "rollout")


def test_heat_of_a_framewise_network_is_that_of_its_frames():
    classes, images = torch.tensor([0, 1]), network("cloformer")
    for pool in ("max", "mean"):
        model = Framewise(images, num_frames=3, pool=pool, frames_per_chunk=2).eval()
        x = inputs(model)
        heat = heat_map(model, x, classes, method="cam")
        assert heat.shape == (2, 3, 64, 64)
    frames = [heat_map(images, x[:, :, t], classes, method="cam") for t in range(3)]  # a mean weighs them alike
    torch.testing.assert_close(heat, torch.stack(frames, 1) / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["shunted", "sgformer", "cloformer_local", "v2_image_of_mean"])
def test_centre_of_what_a_cell_sees_is_at_its_index_times_the_stride(name):
    """To a quarter of a cell, and not in the middle of a tile."""
    model = network(name)
    x = inputs(model, size=4, H=96, W=96).requires_grad_()
    stage, stride = 1, 8
    level = model.feature_maps(x)[stage]
    (gradient,) = torch.autograd.grad(level[:, :, 6, 6].square().sum(), x)
    power = gradient.square().sum((0, 1))[20:77, 20:77]  # what comes from afar would outweigh by its distance
    place = torch.arange(20, 77)
    centre = [float((power.sum(axis) * place).sum() / power.sum()) for axis in (0, 1)]
    assert all(abs(value - 6 * stride) < stride / 4 for value in centre), centre


def test_cells_are_interpolated_to_pixels_and_frames():
    drawn = on_pixels(torch.tensor([[0.0, 4.0], [8.0, 12.0]])[None], size=(5, 7), stride=4)
    assert drawn.shape == (1, 5, 7)
    assert drawn[0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4]
    assert drawn[0, :, 0].tolist() == [0, 2, 4, 6, 8]
    clips = on_pixels(torch.tensor([0.0, 2.0, 4.0]).view(1, 3, 1, 1), size=(5, 2, 2), stride=4)
    assert clips[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_unsupported_method_stage_or_network_is_one_line_and_the_default_is_supported():
    resnet = create_model("torchvision/resnet18", num_classes=3, image_size=64).eval()
    mvit, shunted_network = network("v1_video"), network("shunted")
    for model, arguments, message in (
        (shunted_network, {"method": "rollout"}, "rollout and relevance .* MViT; for Shunted use cam or layercam"),
        (shunted_network, {"method": "cam", "stage": 4}, "no stage 4: this network has the stages 0..3"),
        (mvit, {"method": "rollout", "stage": 0}, "stage is for cam and layercam; rollout"),
        (mvit, {"method": "grad"}, "one of cam, layercam, rollout, relevance, got 'grad'"),
        (resnet, {"method": "cam"}, "needs `levels`, which Baseline does not define"),
    ):
        with pytest.raises(UserError, match=message):
            heat_map(model, inputs(model), torch.tensor([0, 0]), **arguments)
    assert [default_method(mvit), default_method(mvit, stage=0)] == ["relevance", "layercam"]
    assert default_method(shunted_network) == "cam"


def striped(number, seed, *, size=48):
    """Noise with 12 x 12 pixels of stripes somewhere, of one of four directions: inputs, classes, masks.

    Four classes, so that each needs a reason of its own: of two, one can be what the other is not.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.3, (number, size, size)).astype(np.float32)
    masks = np.zeros(x.shape, bool)
    labels = rng.integers(0, 4, number)
    down, right = np.mgrid[:12, :12]
    waves = [np.where(lines // 2 % 2, 2, -2) for lines in (down, right, right + down, right - down)]
    for i in range(number):
        top, left = rng.integers(0, size - 12, 2)
        x[i, top : top + 12, left : left + 12] += waves[labels[i]]
        masks[i, max(top - 4, 0) : top + 16, max(left - 4, 0) : left + 16] = True
    return torch.from_numpy(x)[:, None].repeat(1, 3, 1, 1), torch.from_numpy(labels), torch.from_numpy(masks)


def concentration(model, x, labels, masks, **options):
    """Heat per pixel within the masks over heat per pixel at large, and the same with the masks of other samples."""
    heat = heat_map(model, x, labels, **options)
    heat = heat / heat.sum((1, 2), keepdim=True).clamp_min(1e-12)
    inside, other = (((heat * m).sum((1, 2)) / m.float().mean((1, 2))).mean() for m in (masks, masks.roll(1, 0)))
    return float(inside), float(other)


def test_heat_of_a_trained_mvit_lies_on_the_pixels_of_the_class():
    torch.manual_seed(0)
    plan = {"depth": 3, "dim_mults": {1: 2}, "head_mults": {1: 2}, "q_strides": {1: 2}}
    untrained = MViT(**(MVIT_V1 | plan | IMAGE | {"num_classes": 4, "image_size": 48})).eval()
    model, steps = copy.deepcopy(untrained).train(), 100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for step in range(steps):
        x, labels, _ = striped(24, (1, step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    x, labels, masks = striped(100, 99)
    assert (model(x).argmax(1) == labels).float().mean() > 0.45
    for method, stage, least in (("relevance", None, 1.6), ("rollout", None, 1.15), ("layercam", 0, 1.5)):
        inside, other = concentration(model, x, labels, masks, method=method, stage=stage)
        control, _ = concentration(untrained, x, labels, masks, method=method, stage=stage)
        assert inside > least, (method, inside)
        assert inside > 1.1 * max(other, control), (method, inside, other, control)
