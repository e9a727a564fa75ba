import random

import pytest
import torch
import torch.nn.functional as F

from mvrec.tasks.classification.mixing import Mixing, cutmix, soft_targets

SHAPE = (4, 3, 5, 20, 30)  # B, C, T, H, W


def counted_clips(shape=SHAPE):
    """Sample b is b everywhere, so that a mixed pixel says where it is from."""
    return torch.arange(shape[0], dtype=torch.float32).view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()


@pytest.mark.parametrize("shape", [SHAPE, (4, 3, 20, 30)])
def test_cutmix_cuts_height_and_width_but_not_time(shape):
    clips = counted_clips(shape)
    before = clips.clone()
    for seed in range(10):
        mixed, share = cutmix(clips, 0.6, random.Random(seed))
        assert torch.equal(clips, before)
        foreign = mixed != clips
        mask = foreign.flatten(0, -3)[0]
        assert torch.equal(foreign, mask.expand_as(foreign))
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)  # one rectangle
        assert rows.int().diff().abs().sum() <= 2
        assert columns.int().diff().abs().sum() <= 2
        assert torch.equal(mixed[foreign], clips.flip(0)[foreign])
        assert share == pytest.approx(1 - mask.float().mean().item())
        assert 0.59 < share < 1  # cut off at the border, never larger than asked for


def test_cutmix_rectangles_have_the_shape_of_the_frame_and_lie_everywhere():
    clips = counted_clips((2, 1, 1, 40, 80))
    heights, widths, touched = [], [], torch.zeros(40, 80)
    for seed in range(300):
        mask = (cutmix(clips, 0.75, random.Random(seed))[0] != clips)[0, 0, 0]
        touched += mask
        heights.append(int(mask.any(1).sum()))
        widths.append(int(mask.any(0).sum()))
    assert (max(heights), max(widths)) == (20, 40)  # sqrt(1 - 0.75) of each side
    assert touched.min() > 0


def test_mixup_is_a_blend_with_the_mirrored_batch():
    clips, targets = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    mixed, mixed_targets = Mixing(cutmix_alpha=0)(clips, targets, seed=0)
    keep = mixed_targets[0, 0]
    torch.testing.assert_close(mixed, keep * clips + (1 - keep) * clips.flip(0))


@pytest.mark.parametrize("options", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_a_mixed_clip_has_the_classes_of_both_each_with_its_share(options):
    """Also where a clip has several classes: targets need not add up to 1."""
    clips = counted_clips((3, 1, 2, 16, 16))
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    for seed in range(5):
        mixed, mixed_targets = Mixing(**options)(clips, targets, seed=seed)
        foreign = float((mixed[0] / 2).mean())  # the share of clip 2, which is 2 everywhere
        expected = (1 - foreign) * targets[0] + foreign * targets[2]
        torch.testing.assert_close(mixed_targets[0], expected, atol=1e-5, rtol=0)
        assert torch.equal(mixed_targets[1], targets[1])  # mirrored onto itself


def test_mixup_shares_follow_the_beta_distribution():
    clips, targets = torch.zeros(2, 1, 1, 2, 2), torch.eye(2)
    mixing = Mixing(mixup_alpha=0.8, cutmix_alpha=0)
    keeps = torch.stack([mixing(clips, targets, seed=seed)[1][0, 0] for seed in range(2000)])
    assert keeps.mean().item() == pytest.approx(0.5, abs=0.03)
    assert keeps.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)


def test_same_seed_same_batch_and_no_global_random_numbers():
    clips, targets = counted_clips(), torch.eye(4)
    states = random.getstate(), torch.get_rng_state()
    first, second = (Mixing()(clips, targets, seed=3) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], Mixing()(clips, targets, seed=4)[1])
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_probabilities_of_mixing_at_all_and_of_cutmix():
    clips, targets = counted_clips((4, 1, 2, 6, 6)), torch.eye(4)
    unmixed = Mixing(probability=0.0)(clips, targets, seed=0)
    assert unmixed[0] is clips
    assert unmixed[1] is targets

    def share(kind, **options):
        kinds = []
        for seed in range(300):
            mixed, mixed_targets = Mixing(**options)(clips, targets, seed=seed)
            whole_pixels = set(mixed.unique().tolist()) <= {0, 1, 2, 3}
            kinds.append("none" if torch.equal(mixed_targets, targets) else "cutmix" if whole_pixels else "mixup")
        return kinds.count(kind) / 300

    assert share("cutmix", switch_probability=0.0) == 0
    assert share("mixup", switch_probability=1.0) == 0
    assert share("mixup", switch_probability=0.7) == pytest.approx(0.3, abs=0.09)
    assert share("none", probability=0.4, cutmix_alpha=0) == pytest.approx(0.6, abs=0.09)


@pytest.mark.parametrize("alphas", [(0, 0), (-0.1, 1), (1, -0.1)])
def test_alphas_that_mix_nothing_or_are_negative_are_refused(alphas):
    with pytest.raises(ValueError, match=r"(mixup|cutmix)_alpha.*, got .*"):
        Mixing(*alphas)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_are_label_smoothing(smoothing):
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 2, 1, 3])
    targets = soft_targets(labels, 5, smoothing=smoothing)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(F.cross_entropy(logits, targets), expected, rtol=1e-6, atol=0)
