"""Decoders of segmentation next to recorded outputs of the authors' code: logits, losses, gradients, statistics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense_golden import DENSE, digest_error, labels, load_recording, maps, number_error, weights
from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.decoders import AuxiliaryFCN
from mvrec.models.heads.resizing import resize
from mvrec.models.heads.segmentation import SegmentationHead

pytestmark = pytest.mark.golden
STRIDES = (4, 8, 16, 32)
# Names of transformers, in this order, as names of the authors.
TRANSFORMERS = (
    (".batch_norm.", ".bn."),
    ("linear_fuse.weight", "linear_fuse.conv.weight"),
    ("batch_norm.", "linear_fuse.bn."),
    *((f"linear_projections.{i}.", f"linear_c{i + 1}.") for i in range(4)),
)
PARTS = {"neck.": "neck.", "decode_head.": "decoder.", "auxiliary_head.": "auxiliary."}


@dataclass
class Case:
    """A recording, our module with its weights, and the names of its parameters in the recording."""

    spec: dict[str, Any]
    module: nn.Module
    logits: Callable[[list[Tensor]], Tensor]  # from the four maps
    names: dict[str, str]  # the recording's to ours


def our_name(spec: Mapping[str, Any], name: str) -> str:
    if spec["reference"]["library"] == "mmsegmentation":
        part = next(part for part in PARTS if name.startswith(part))
        return PARTS[part] + name.removeprefix(part)
    classifier = "linear_pred." if "Segformer" in spec["reference"]["class"] else "conv_seg."
    for pattern, replacement in (*TRANSFORMERS, ("classifier.", classifier)):
        name = (
            replacement + name.removeprefix(pattern) if name.startswith(pattern) else name.replace(pattern, replacement)
        )
    return ("auxiliary." if "FCN" in spec["reference"]["class"] else "decoder.") + name


def build(name: str) -> Case:
    spec = load_recording(name)
    channels = [shape[1] for shape in spec["input"]["maps"]["shapes"]]
    levels = [FeatureInfo(width, stride) for width, stride in zip(channels, STRIDES, strict=True)]
    names = {key: our_name(spec, key) for key in spec["state_dict"]}
    width = spec["state_dict"][next(key for key in names if key.endswith(("conv_seg.weight", "classifier.weight")))]
    num_classes, hidden = width["shape"][:2]
    state = {names[key]: tensor for key, tensor in weights(spec).items()}
    if "fcn" in name:
        auxiliary = AuxiliaryFCN(channels[2], hidden, num_classes=num_classes, dropout=0)
        auxiliary.load_state_dict({key.removeprefix("auxiliary."): tensor for key, tensor in state.items()})
        names = {key: renamed.removeprefix("auxiliary.") for key, renamed in names.items()}
        return Case(spec, auxiliary, lambda inputs: auxiliary(inputs[2]), names)
    decoders = {"fpn": "semantic_fpn", "upernet": "upernet", "segformer_nvidia": "segformer"}
    decoder = next((decoder for part, decoder in decoders.items() if part in name), "segformer_mmseg")
    head = SegmentationHead(
        levels, num_classes, decoder=decoder, channels=hidden, neck_channels=hidden, dropout=0, auxiliary=False
    )
    head.load_state_dict(state)
    return Case(spec, head, lambda inputs: head.decoder(head.neck(inputs)), names)


NAMES = sorted(
    path.stem for path in DENSE.glob("seg_*.json") if path.stem.startswith(("seg_fcn", "seg_seg", "seg_sem", "seg_up"))
)


@pytest.mark.parametrize("name", NAMES)
def test_decoders_match_the_recording_in_evaluation(name: str) -> None:
    case = build(name)
    case.module.eval()
    outputs, size = case.spec["outputs"], case.spec["input"]["image_size"]
    with torch.no_grad():
        inputs = maps(case.spec)
        logits = case.logits(inputs)
        resized = case.module(inputs, size) if isinstance(case.module, SegmentationHead) else resize(logits, size)
        if "neck_maps" in outputs:
            errors = [digest_error(*pair) for pair in zip(case.module.neck(inputs), outputs["neck_maps"], strict=True)]
            assert max(errors) < 2e-5
    assert digest_error(logits, outputs["logits_eval"]) < 2e-5
    assert digest_error(resized, outputs["resized_eval"]) < 2e-5
    if "argmax_counts_eval" in outputs:
        counts = torch.bincount(resized.argmax(1).flatten(), minlength=resized.shape[1])
        assert (counts - torch.tensor(outputs["argmax_counts_eval"])).abs().max() <= 2


@pytest.mark.parametrize("name", NAMES)
def test_decoders_match_the_recording_in_training(name: str) -> None:
    case = build(name)
    case.module.train()
    outputs, classes = case.spec["outputs"], labels(case.spec)
    inputs = [level.requires_grad_() for level in maps(case.spec)]
    logits = case.logits(inputs)
    assert digest_error(logits, outputs["logits_train"]) < 2e-5
    sums = F.cross_entropy(resize(logits, classes.shape[-2:]), classes, ignore_index=255, reduction="sum")
    weight = 0.4 if case.spec["reference"]["library"] == "mmsegmentation" and "fcn" in name else 1.0
    of_labelled = weight * sums / (classes != 255).sum()
    assert number_error(of_labelled.item(), outputs["loss_train_divided_by_valid_pixels"]) < 1e-5
    of_all = weight * sums / classes.numel()
    if "loss_train" in outputs:
        assert number_error(of_all.item(), outputs["loss_train"]) < 1e-5
    (of_all if "loss_train" in outputs else of_labelled).backward()
    parameters = dict(case.module.named_parameters())
    for key, norm in outputs["grad_norm"].items():
        assert number_error(parameters[case.names[key]].grad.norm().item(), norm) < 1e-4, key
    for level, norm in zip(inputs, outputs["grad_norm_input"], strict=True):
        assert number_error(0.0 if level.grad is None else level.grad.norm().item(), norm) < 1e-4
    state = case.module.state_dict()
    for key, statistic in outputs.get("running_after_step", {}).items():
        assert digest_error(state[case.names[key]], statistic) < 2e-5, key


def test_every_kind_of_decoder_is_recorded() -> None:
    assert len(NAMES) == 11
