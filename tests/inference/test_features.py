"""Features of files against the network asked directly, and what is written of them."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from recognisers import image_recogniser, video_recogniser
from safetensors.torch import load_file
from video_files import read_numbers, truncate, write_video

from mvrec.data.loading.guarded_files import GuardedVideo
from mvrec.data.video.opening import open_video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import DecodeError, UserError
from mvrec.inference.features import Selection, clips_of, extract, features_of, is_complete, read_record, settings_of
from mvrec.inference.recognising import recognise_files

SETTINGS = {"any": "settings"}
FORMS = ("npy", "safetensors")


def extracted(recogniser, path, stem, *, selection=Selection(), form="npy", settings=SETTINGS, **knobs):  # noqa: B008
    """Return features and record that `extract` has written; their shape is the one that it returned."""
    shape = extract(recogniser, path, stem, selection=selection, form=form, settings=settings, **knobs)
    if form == "npy":
        features = torch.from_numpy(np.load(f"{stem}.npy"))
        record = json.loads(stem.with_name(f"{stem.name}.json").read_text())
    else:
        tensors, record = load_file(f"{stem}.safetensors"), read_record(stem, form)
        features = tensors.pop("features")
        for name, seconds in tensors.items():
            assert seconds.tolist() == record[name]
    assert list(shape) == list(features.shape) == record["shape"]
    assert record["settings"] == settings
    return features, record


def test_features_are_those_of_the_views_whose_vector_the_head_takes(tmp_path):
    recogniser = video_recogniser()
    path = write_video(tmp_path / "läuft gut.mp4", num_frames=37, size=(36, 50), fps=10)
    views = recogniser.views(path)
    x = recogniser.normalised(views)  # what `mvrec test` scores
    with torch.no_grad():
        vectors, maps = recogniser.backbone.forward_features(x), recogniser.backbone.feature_maps(x)
    torch.testing.assert_close(features_of(recogniser, views, Selection()), vectors, rtol=1e-4, atol=1e-5)
    logits = recogniser.backbone.head(vectors).detach()
    torch.testing.assert_close(logits.softmax(1).double(), recogniser.probabilities(views))
    for form, selection, expected in (
        ("npy", Selection(None, "all"), vectors),
        ("safetensors", Selection(0, "none"), maps[0]),
        ("npy", Selection(1, "spatial"), maps[1].mean((3, 4))),
        ("safetensors", Selection(-1, "all"), maps[-1].mean((2, 3, 4))),
    ):
        stem = tmp_path / "out" / "läuft gut.mp4"
        features, record = extracted(recogniser, path, stem, selection=selection, form=form, views_per_forward=2)
        assert (features.shape, features.dtype) == (expected.shape, torch.float32)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        # Three clips of 8 frames in 37: from 0, from floor(29 / 2) and from twice that; the last frame ends a
        # frame later.
        assert record["start_seconds"] == pytest.approx([start for start in (0, 1.4, 2.8) for _ in range(3)])
        assert record["end_seconds"] == pytest.approx([end for end in (0.8, 2.2, 3.6) for _ in range(3)])


def test_features_of_an_image_are_those_of_its_view(tmp_path):
    recogniser = image_recogniser()
    path = tmp_path / "a b.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    expected = recogniser.backbone.feature_maps(recogniser.normalised(recogniser.views(path)))[1].detach()
    for form in FORMS:
        features, record = extracted(recogniser, path, tmp_path / "x/a", selection=Selection(1, "none"), form=form)
        torch.testing.assert_close(features, expected)
        assert "start_seconds" not in record


def test_window_is_read_in_its_middle(tmp_path):
    recogniser = video_recogniser(num_crops=1)
    path = write_video(tmp_path / "a.mp4", num_frames=50, fps=10, size=(64, 80))
    selection = Selection(window_seconds=2, stride_seconds=1)
    with open_video(path) as video:
        clips = clips_of(path, video, recogniser.protocol, selection)
        numbers = [read_numbers(video.frames(row.tolist())) for row in clips.frames[:2]]
    assert numbers == [[6, 8, 10, 13], [16, 18, 20, 23]]  # 20 frames leave 12 next to a clip of 8; 6 come before it
    assert clips.start_seconds == [0, 1, 2, 3]
    assert clips.end_seconds == [2, 3, 4, 5]
    features, record = extracted(recogniser, path, tmp_path / "w", selection=selection)
    assert features.shape == (4, 16)
    assert record["end_seconds"] == [2, 3, 4, 5]
    third = recogniser.views(path, start_seconds=2, end_seconds=4)
    assert len(third) == 3  # of the protocol's three clips, the middle one is the window's
    expected = features_of(recogniser, third[1:2], Selection())
    torch.testing.assert_close(features[2:3], expected)


def test_windows_are_decoded_one_by_one(tmp_path, monkeypatch):
    reads, forwards, decode = [], [], GuardedVideo._decode
    recogniser = video_recogniser()
    network = type(recogniser.backbone)
    monkeypatch.setattr(GuardedVideo, "_decode", lambda self, rows: reads.append(len(rows)) or decode(self, rows))
    monkeypatch.setattr(network, "forward_features", lambda _, x: forwards.append(len(x)) or torch.zeros(len(x), 16))
    path = write_video(tmp_path / "a.mp4", num_frames=60, fps=10)
    extracted(recogniser, path, tmp_path / "w", selection=Selection(window_seconds=1), views_per_forward=4)
    assert (max(reads), sum(reads)) == (4, 4 * 6)
    assert (max(forwards), sum(forwards)) == (4, 3 * 6)
    reads.clear()
    windows = recognise_files(recogniser, [path], window_seconds=1.0)
    for number, window in enumerate(windows, start=1):
        assert window.end_seconds == number
        assert len(reads) <= number + 1  # one window ahead
    assert len(reads) == 6
    assert max(reads) <= 10


def test_video_shorter_than_a_clip_is_repeated_or_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=3, fps=10)
    recogniser = video_recogniser()
    features, record = extracted(recogniser, path, tmp_path / "o")
    assert features.shape == (9, 16)
    assert record["end_seconds"] == pytest.approx([0.3] * 9)
    strict = video_recogniser(clip=ClipSpec(4, 2, None, short_video="error"))
    with pytest.raises(DecodeError, match="a clip of 8 frames does not fit in 3 frames"):
        extracted(strict, path, tmp_path / "e")
    assert not list(tmp_path.glob("e*"))


@pytest.mark.parametrize("form", FORMS)
def test_features_are_complete_until_their_file_settings_or_form_change(tmp_path, form):
    recogniser = video_recogniser()
    path, stem = write_video(tmp_path / "a.mp4"), tmp_path / "out" / "a.mp4"

    def complete(settings=SETTINGS):
        return is_complete(stem, path, settings, form)

    assert not complete()
    extracted(recogniser, path, stem, form=form)
    assert complete()
    assert not complete({"any": "other settings"})
    assert not is_complete(stem, path, SETTINGS, "npy" if form == "safetensors" else "safetensors")
    write_video(path, num_frames=40)
    assert not complete()  # another file under its name
    extracted(recogniser, path, stem, form=form)
    assert complete()
    if form == "npy":
        stem.with_name("a.mp4.npy").unlink()
    else:
        stem.with_name("a.mp4.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0hello")
    assert not complete()
    path.unlink()
    assert not complete()
    with pytest.raises(DecodeError, match="no such file"):
        extracted(recogniser, path, stem, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_interrupted_extraction_and_broken_file_leave_nothing(tmp_path, form, monkeypatch):
    recogniser = video_recogniser()
    path, out = write_video(tmp_path / "a.mp4", num_frames=60), tmp_path / "out"
    out.mkdir()
    extracted(recogniser, path, out / "a", form=form)
    interrupted = Mock(side_effect=[torch.zeros(2, 16), torch.zeros(2, 16), KeyboardInterrupt])
    monkeypatch.setattr("mvrec.inference.features.features_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extracted(recogniser, path, out / "a", form=form, settings={}, views_per_forward=2)
    assert not is_complete(out / "a", path, SETTINGS, form)
    assert not is_complete(out / "a", path, {}, form)
    assert not list(out.glob(".*"))
    monkeypatch.undo()
    with pytest.raises(DecodeError):
        extracted(recogniser, truncate(path, 0.5), out / "b", form=form)
    assert not list(out.glob("*b*"))


def test_settings_differ_wherever_features_do():
    recogniser = video_recogniser()

    def settings(*selection, form="npy", sha256="0123", recogniser=recogniser):
        return settings_of(recogniser, Selection(*selection), form, sha256=sha256)

    base = settings(1, "spatial")
    assert base == json.loads(json.dumps(base))
    assert base["stage"] == 1
    assert base["protocol"]["views"]["num_clips"] == 3
    assert base not in [
        *(settings(*selection) for selection in ((0, "spatial"), (1, "none"), (1, "spatial", 1.0))),
        settings(1, "spatial", form="safetensors"),
        settings(1, "spatial", sha256="4567"),
        settings(1, "spatial", recogniser=video_recogniser(num_clips=2)),
    ]


def test_contradicting_or_unsupported_request_is_one_line():
    for arguments, message in (
        ({"pool": "none"}, "--pool none is for maps"),
        ({"window_seconds": 0.0}, "--window must be above 0, got 0"),
        ({"window_seconds": 1.0, "stride_seconds": -2.0}, "--stride must be above 0, got -2"),
        ({"stride_seconds": 1.0}, "add --window"),
    ):
        with pytest.raises(UserError, match=message):
            Selection(**arguments)
    recogniser = video_recogniser()
    for stage in (2, -3):
        with pytest.raises(UserError, match=f"no stage {stage}: this network has the stages 0..1"):
            Selection(stage).check(recogniser)
    Selection(-2).check(recogniser)
    with pytest.raises(UserError, match="--window is for videos"):
        Selection(window_seconds=1.0).check(image_recogniser())
