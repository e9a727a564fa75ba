"""Kinds of protocols: back from checkpoints as they were, and the views of key frames."""

import json

import pytest

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import Box
from mvrec.data.views.protocol import (
    KINDS,
    ClipProtocol,
    DetectionProtocol,
    ImageProtocol,
    KeyFrameProtocol,
    MaskProtocol,
    Views,
    kind_of,
    normalisation_of,
    protocol_of,
)

EXAMPLES = {
    "clips": ClipProtocol(ClipSpec(8, 2, target_fps=None), Views(num_clips=2, num_crops=3, short_side=300), 128),
    "images": ImageProtocol(split="test", short_side=64, size=32, upright=True),
    "masks": MaskProtocol.named("slide-ms-flip", window=64, stride=48),
    "key frames": KeyFrameProtocol.named(
        "ava-gt-frames", clip=ClipSpec(32, 3), size=312, pixels="full", boxes="detected", min_score=0.8, antialias=False
    ),
    "objects": DetectionProtocol.named("detectron2-640x480", split="test", upright=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_protocol_back(kind):
    protocol = EXAMPLES[kind]
    assert protocol_of(json.loads(json.dumps(protocol.as_dict()))) == protocol
    assert kind_of(protocol.as_dict()) is type(protocol)


def test_arguments_of_data_modules_tell_the_kind():
    shared = {"size": 224, "normalisation": {"mean": [0.45] * 3, "std": [0.225] * 3}}
    clip = {"num_frames": 32, "stride_frames": 3}
    settings = {**shared, "clip": clip, "protocol": "ava-gt-frames", "pixels": "full"}
    protocol = kind_of(settings).of_settings({**settings, "normalisation": shared["normalisation"]})
    assert protocol == KeyFrameProtocol.named("ava-gt-frames", clip=ClipSpec(32, 3), pixels="full")
    assert kind_of({**shared, "clip": clip}) is ClipProtocol
    assert kind_of({**shared, "protocol": "whole"}) is MaskProtocol
    assert kind_of(shared) is ImageProtocol
    objects = {"protocol": "torchvision-640x480", "normalisation": shared["normalisation"]}
    assert kind_of(objects).of_settings(objects) == DetectionProtocol.named(
        "torchvision-640x480", normalisation=normalisation_of(shared["normalisation"])
    )
    with pytest.raises(ValueError, match="there is no protocol 'avb', only ava, ava-gt-frames"):
        KeyFrameProtocol.named("avb")


def test_key_frames_are_seen_in_full_or_in_the_centre():
    full = KeyFrameProtocol(size=224, pixels="full")
    ((way,), (centre,)) = (full.geometries(480, 640), KeyFrameProtocol(size=224).geometries(480, 640))
    assert (way.box, way.view_size) == (Box(0, 0, 480, 640), (224, 298))
    assert (centre.size, centre.crop) == ((224, 298), Box(0, 37, 224, 224))


def test_a_score_line_tells_all_that_changes_a_score():
    assert str(KeyFrameProtocol()) == "ava, 16x4 at 30 fps, short side 224, crop, bilinear, true boxes"
    assert str(EXAMPLES["key frames"]) == (
        "ava-gt-frames, 32x3 at 30 fps, short side 312, full frames, bilinear without antialias, detected boxes of "
        "score 0.8 or more, only frames with true boxes"
    )
    assert str(KeyFrameProtocol(frame_order="shuffled")).endswith("true boxes, frames shuffled")
