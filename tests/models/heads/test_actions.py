"""The head of boxes next to recordings of SlowFast's, and what it reads of a clip."""

import pytest
import torch
import torch.nn.functional as F
from dense_golden import digest_error, load_recording, maps, number_error, weights

from mvrec.models import mvit_v2_s_16x4
from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.actions import ActionHead, numbered


@pytest.mark.golden
@pytest.mark.parametrize("name", ["ava_roi_head_slowfast_c32_t4_7x7", "ava_roi_head_slowfast_two_pathways"])
def test_logits_loss_and_gradients_are_those_of_slowfast(name):
    spec = load_recording(name)
    (stride, *_) = spec["reference"]["config"]["scale_factor"]
    # Two pathways are one after their means over time, since boxes are read from each alike.
    pathways = [recorded.requires_grad_() for recorded in maps(spec)]
    (last,) = pathways if len(pathways) == 1 else [torch.cat([path.mean(2, keepdim=True) for path in pathways], 1)]
    num_classes = spec["reference"]["config"]["num_classes"]
    head = ActionHead([FeatureInfo(last.shape[1], stride)], num_classes, dropout=0.0)
    head.load_state_dict(weights(spec))
    boxes = torch.tensor(spec["input"]["boxes_batchindex_x1_y1_x2_y2"])
    logits = head([last], spec["input"]["image_size"], boxes)
    loss = F.binary_cross_entropy_with_logits(logits, torch.tensor(spec["input"]["targets_multi_hot"]).float())
    loss.backward()
    outputs = spec["outputs"]
    assert digest_error(logits, outputs["logits"]) < 2e-5
    assert number_error(loss.item(), outputs["loss_bce_mean"]) < 1e-5
    for pathway, norm in zip(pathways, outputs["grad_norm_input"], strict=True):
        assert pathway.grad is not None
        assert number_error(pathway.grad.norm().item(), norm) < 1e-4
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert number_error(parameter.grad.norm().item(), outputs["grad_norm"][key]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_box_reads_its_own_clip_and_place(dtype):
    level = torch.zeros(2, 1, 3, 7, 7, dtype=dtype)
    level[1, 0, 1, 4:, 4:] = 3.0  # the lower right of the second clip, in one of three frames
    boxes = numbered(
        [torch.tensor([[130.0, 130.0, 220.0, 220.0]]), torch.tensor([[0.0, 0, 60, 60], [130, 130, 220, 220]])]
    )
    assert boxes[:, 0].tolist() == [0, 1, 1]
    for pooling, value in (("mean", 1.0), ("max", 3.0)):
        head = ActionHead([FeatureInfo(1, 32)], 1, pooling=pooling, dropout=0.0).to(dtype)
        torch.nn.init.ones_(head.projection.weight)
        assert head([level], (224, 224), boxes).flatten().tolist() == pytest.approx([0.0, 0.0, value])
    head = ActionHead([FeatureInfo(1, 32)], 1, context=True, dropout=0.0).to(dtype)
    torch.nn.init.ones_(head.projection.weight)
    everywhere = 9 / 49
    expected = torch.tensor([0, everywhere, 1 + everywhere])
    torch.testing.assert_close(head([level], (224, 224), boxes).flatten().float(), expected, rtol=1e-2, atol=1e-3)


def test_the_stride_is_the_networks_own_and_any_size_works():
    network = mvit_v2_s_16x4(num_frames=4, image_size=64).eval()
    network.place_head(ActionHead(network.feature_info, 5), 5)
    assert network.head.stride == 32
    clips, boxes = torch.randn(2, 3, 4, 70, 131), torch.tensor([[1.0, 3, 4, 130, 60], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        logits = network(clips, boxes)
        alone = network(clips[1:], boxes[:1] * torch.tensor([0.0, 1, 1, 1, 1]))
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits[:1], alone, rtol=1e-4, atol=1e-5)
    assert network(clips, torch.empty(0, 5)).shape == (0, 5)
