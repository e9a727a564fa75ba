"""Protocols by name: the pixels, crops and frames of the reference implementations, worked out next to them."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.presets import PRESETS, preset
from mvrec.data.views.protocol import ClipProtocol, ImageProtocol, Views, protocol_of
from mvrec.data.views.sampling import ClipTooLongError, Window, uniform_clips
from mvrec.data.views.transforms import views_of
from mvrec.errors import UserError

VIDEO = ClipProtocol(
    ClipSpec(16, 4, target_fps=None), Views(num_clips=2, short_side=300), 224, Normalisation((0.1,) * 3, (0.2,) * 3)
)
FRAMES = [(320, 240), (256, 340), (225, 225), (257, 259), (128, 171)]


def test_every_preset_is_what_its_source_says():
    """Clips x crops, short side and crop for 224 pixels, written down from the papers and releases."""
    written = {
        "slowfast-5x1": "16x4 at 30 fps, 5 clips x 1 crops, short side 256",
        "slowfast-10x3": "16x4 at 30 fps, 10 clips x 3 crops, short side 224",
        "v2l-5x3": "16x4 at 30 fps, 5 clips x 3 crops, short side 224",
        "ssv2-1x3": "16 segments, 1 clips x 3 crops, short side 224",
        "torchvision-mvit": "16x4 at 30 fps, 5 clips x 1 crops, short side 256",
    }
    assert {name for name, preset in PRESETS.items() if preset.kind is ClipProtocol} == written.keys()
    for name, text in written.items():
        applied = PRESETS[name].applied(VIDEO)
        assert str(applied) == f"{text}, crop 224, bilinear without antialias, mean of softmax"
        assert applied.normalisation == VIDEO.normalisation  # belongs to the weights
    images = {
        name.removeprefix("imagenet-"): preset for name, preset in PRESETS.items() if preset.kind is ImageProtocol
    }
    sides = {
        name: preset.applied(ImageProtocol(interpolation="bilinear")).short_side for name, preset in images.items()
    }
    assert sides == {"shunted": 256, "cloformer": 256, "mvit": 256, "sgformer": 248}
    large = ClipProtocol(VIDEO.clip, Views(short_side=312), 312)  # sizes scale with the crop
    assert [preset(name).applied(large).views.short_side for name in ("v2l-5x3", "slowfast-5x1")] == [312, 356]


def test_an_unknown_preset_or_one_for_another_kind_of_data_is_refused():
    for name, protocol, message in (
        ("imagenet-mvit", VIDEO, "this protocol is for images, the network takes videos"),
        ("slowfast-5x1", ImageProtocol(), "this protocol is for videos, the network takes images"),
        ("slowfast-5x2", VIDEO, "there is no protocol 'slowfast-5x2'; did you mean '"),
    ):
        with pytest.raises(UserError, match=message):
            preset(name).applied(protocol)


def test_a_protocol_comes_back_from_a_checkpoint_of_this_or_an_earlier_version():
    for protocol in (VIDEO, PRESETS["ssv2-1x3"].applied(VIDEO), ImageProtocol(upright=True)):
        values = json.loads(json.dumps(protocol.as_dict()))
        assert protocol_of(values) == protocol
        assert values.pop("kind") == protocol.kind  # which earlier versions did not write
        assert protocol_of(values) == protocol


def test_a_protocol_of_another_version_or_with_impossible_views_is_refused():
    for change in ({"clip": {"frames": 3}}, {"normalisation": {}}, {"sides": 3}):
        with pytest.raises(ValueError, match="not written by this version of mvrec"):
            protocol_of({**VIDEO.as_dict(), **change})
    with pytest.raises(ValueError, match="no protocol of kind 'tiles', only clips, images"):
        protocol_of({**VIDEO.as_dict(), "kind": "tiles"})
    with pytest.raises(ValueError, match="num_crops must be 1, got 3"):
        Views(num_crops=3, rounding="torchvision")


def test_pixels_are_those_of_torchvisions_preset():
    from torchvision.models.video import MViT_V1_B_Weights

    protocol = preset("torchvision-mvit").applied(VIDEO)
    for height, width in FRAMES:
        frames = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = MViT_V1_B_Weights.KINETICS400_V1.transforms()(torch.from_numpy(frames).permute(0, 3, 1, 2))
        views = views_of(frames, protocol.geometries(height, width))
        clip = Normalisation()(views.transpose(1, 2))[0]  # the preset's 0.45 and 0.225
        torch.testing.assert_close(clip, expected, atol=1e-6, rtol=0)


def slowfast_crop(frames, *, scale, size, place):
    """SlowFast: bilinear without antialias on floats, the long side cut to an integer, ceil((side - size) / 2)."""
    height, width = frames.shape[1:3]
    if width < height:
        scaled = (math.floor(height / width * scale), scale)
    else:
        scaled = (scale, math.floor(width / height * scale))
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    if min(height, width) != scale:
        clip = F.interpolate(clip, size=scaled, mode="bilinear", align_corners=False)
    y, x = math.ceil((scaled[0] - size) / 2), math.ceil((scaled[1] - size) / 2)
    if scaled[0] > scaled[1]:
        y = (0, y, scaled[0] - size)[place]
    else:
        x = (0, x, scaled[1] - size)[place]
    return clip[:, :, y : y + size, x : x + size]


@pytest.mark.parametrize("name", ["slowfast-5x1", "slowfast-10x3"])
def test_pixels_are_those_of_slowfast_to_half_a_grey_level(name):
    """SlowFast scales floats, here frames stay bytes until they are on the device."""
    protocol = preset(name).applied(VIDEO)
    places = [1] if protocol.views.num_crops == 1 else [0, 1, 2]
    for height, width in FRAMES:
        frames = np.random.default_rng(width).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        for view, place in zip(views_of(frames, protocol.geometries(height, width)), places, strict=True):
            expected = slowfast_crop(frames, scale=protocol.views.short_side, size=224, place=place)
            torch.testing.assert_close(view.float(), expected, atol=0.5 + 1e-3, rtol=0)


@pytest.mark.parametrize("fps", [12.5, 15, 25, 29.97, 30, 60])
def test_clips_are_those_of_torchvisions_references(fps):
    from torchvision.datasets.samplers import UniformClipSampler
    from torchvision.datasets.video_utils import VideoClips

    class Clips(VideoClips):
        def __init__(self, clips):
            self.clips = [clips]

    spec, compared = ClipSpec(16, 4, target_fps=30.0), 0
    for num_frames in (60, 65, 100, 250, 299, 300, 301, 1000):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of videos that it leaves out
            # The "time stamps" are the frame numbers, so that clips show which frames they have.
            clips, _ = VideoClips.compute_clips_for_video(torch.arange(num_frames), 16, 1, fps, 7.5)
        if len(clips):
            expected = torch.stack([clips[number] for number in UniformClipSampler(Clips(clips), 5)])
            for first in (0, 7):
                clip_indices = uniform_clips(Window(first, num_frames), fps, spec, num_clips=5)
                assert torch.equal(clip_indices, expected + first), num_frames
            compared += 1
    assert compared >= 5


def test_a_video_too_short_for_uniform_clips_follows_the_policy():
    clip_indices = uniform_clips(Window(0, 20), 30, ClipSpec(16, 4), num_clips=5)
    assert clip_indices.shape == (5, 16)
    assert (clip_indices[0] == clip_indices).all()
    assert clip_indices.max() == 19
    with pytest.raises(ClipTooLongError):
        uniform_clips(Window(0, 20), 30, ClipSpec(16, 4, short_video="error"), num_clips=5)
