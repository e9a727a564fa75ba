"""`mvrec explain`: what it prints and draws, and what it says of bad input."""

import dataclasses
import re

import av
import numpy as np
import pytest
import torch
from exported_runs import NAMES
from PIL import Image
from video_files import write_video

from mvrec.cli.lightning import run
from mvrec.commands.explain import main
from mvrec.data.generated.moving_digits_video import ACTIONS, SPLITS, Motion, poses
from mvrec.errors import UserError
from mvrec.inference.explaining import class_number, seen_by
from mvrec.inference.heat import heat_map
from mvrec.inference.recogniser import load_recogniser


@pytest.fixture(scope="module")
def video(digits):
    return digits / "test/orbit_clockwise/00001.mp4"


def explain(source, checkpoint, output, *options):
    main([*map(str, (source, "--ckpt", checkpoint, "-o", output)), *options])


def test_an_image_file_for_a_video_is_a_sheet_of_frames(run_dir, video, tmp_path, capsys):
    out = tmp_path / "new" / "heat ü.png"
    explain(video, run_dir, out, "--class", "grow", "--top", "3")
    first, *classes, last = capsys.readouterr().out.splitlines()
    assert first == f"{video}: clip 0 of 1 (0.50 s to 1.50 s), crop 0 of 1"
    recogniser = load_recogniser(run_dir)
    views = recogniser.views(video)
    probabilities = recogniser.probabilities(views)[0]
    assert classes == [
        f"{100 * value:6.2f} %  {recogniser.class_names[number]}"
        for value, number in zip(*probabilities.topk(3), strict=True)
    ]
    percent = 100 * probabilities[recogniser.class_names.index("grow")]
    assert last == f"{out}: relevance for grow ({percent:.1f} %)"
    with Image.open(out) as image:
        assert image.text["Description"].startswith("relevance for grow")
        sheet = np.array(image)
    caption = len(sheet) - (2 * 256 + 4 + 2 * 4)
    assert 40 < caption < 100
    assert sheet.shape[1:] == (4 * (256 + 4) + 4, 3)
    # The upper row is what the network saw: every pixel four times each way.
    for i, view in enumerate(views[0].permute(1, 2, 3, 0).numpy()):
        left = 4 + i * 260
        assert np.array_equal(sheet[caption + 4 : caption + 260 : 4, left : left + 256 : 4], view)


@pytest.mark.parametrize("method", ["cam", "rollout"])
def test_a_video_file_for_a_video_is_a_heat_video(run_dir, video, tmp_path, capsys, method):
    out = tmp_path / "heat.mp4"
    explain(video, run_dir, out, "--method", method)
    subject = "any class" if method == "rollout" else r"\w+ \(\d+\.\d %\)"
    assert re.fullmatch(f"{out}: {method} for {subject}", capsys.readouterr().out.splitlines()[-1])
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        # 4 frames of the file from one to the next, but for the last, at 16 frames per second.
        assert float(stream.average_rate) == pytest.approx(16 * 3 / 15, rel=1e-3)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape[1:] == (2 * 256 + 4, 3)
    plain, drawn = (np.stack(frames)[:, -256:, part].astype(int) for part in (slice(0, 256), slice(260, None)))
    assert abs(plain - drawn).max() > 60


def test_an_image_its_full_frame_and_another_stage(image_run, tmp_path, capsys):
    picture, out = tmp_path / "my picture.jpg", tmp_path / "heat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (280, 380, 3), dtype=np.uint8)).save(picture)
    explain(picture, image_run, out, "--class", "jump, high")
    *classes, last = capsys.readouterr().out.splitlines()
    assert {line.split(maxsplit=2)[2] for line in classes[1:]} == set(NAMES)
    assert last.startswith(f"{out}: cam for jump, high (")
    with Image.open(out) as image:
        assert image.width == 2 * 256 + 4
        assert 256 + 40 < image.height < 256 + 100  # with its caption
    explain(picture, image_run, out, "--full_frame")
    with Image.open(out) as image:
        assert image.size[1] > 224
        edge = np.array(image)[:, image.width // 2 + 2 :]
        assert (edge == (0, 255, 255)).all(-1).sum() == 224**2 - 210**2  # 32 pixels, drawn seven times as large
    capsys.readouterr()
    explain(picture, image_run, out, "--class", "1", "--method", "layercam", "--stage=0")
    assert ": layercam for jump, high (" in capsys.readouterr().out


@pytest.mark.parametrize("antialias", [True, False])
def test_views_are_those_of_the_protocol(run_dir, tmp_path, antialias):
    recogniser = load_recogniser(run_dir)
    protocol = recogniser.protocol
    views = dataclasses.replace(protocol.views, num_clips=3, num_crops=3, antialias=antialias)
    recogniser = dataclasses.replace(recogniser, protocol=dataclasses.replace(protocol, views=views))
    path = write_video(tmp_path / "wide.mp4", num_frames=70, size=(80, 150))
    all_views = recogniser.views(path)
    for clip in range(3):
        for crop in range(3):
            view = seen_by(recogniser, path, clip=clip, crop=crop)
            assert torch.equal(view.view[0], all_views[3 * clip + crop])
            top, left, height, width = view.crop
            cut = view.frames[:, top : top + height, left : left + width]
            assert np.array_equal(cut, view.view[0].permute(1, 2, 3, 0).numpy())
    assert torch.equal(seen_by(recogniser, path).view[0], all_views[4])
    with pytest.raises(UserError, match=r"there is no clip 3: the protocol has the clips 0\.\.2"):
        seen_by(recogniser, path, clip=3)
    with pytest.raises(UserError, match="there is no crop -1"):
        seen_by(recogniser, path, crop=-1)


def test_a_video_shorter_than_a_clip_gives_a_heat_video(run_dir, tmp_path, capsys):
    path = write_video(tmp_path / "short.mp4", num_frames=2, size=(48, 64))
    explain(path, run_dir, tmp_path / "a.mp4", "--full_frame")
    assert "(0.00 s to 0.07 s)" in capsys.readouterr().out
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


def test_a_class_named_by_a_number_wins_over_its_place():
    assert class_number("3", ("7", "3", "5")) == 1
    assert class_number("2", ("cat", "dog", "cow")) == 2


def digit_boxes(label, index):
    """Return the place of the digit in a test video, a little wider: bool (8, 64, 64)."""
    rng = np.random.default_rng((0, SPLITS.index("test"), ACTIONS.index(label), index))
    x, y, extent, _ = poses(label, Motion.draw(rng), 32)[np.linspace(0, 31, 8).astype(int)].T[..., None, None]
    centres = (np.arange(64) + 0.5) / 64
    right, down = (centres - x + 0.5) % 1 - 0.5, (centres[:, None] - y + 0.5) % 1 - 0.5
    half = extent / 2 + 2 / 64
    return (abs(right) <= half) & (abs(down) <= half)


def concentrations(recogniser, root, method, *, count=10):
    """Per test video, the heat per pixel in its boxes, those of another class, and its own backwards, over the mean."""
    boxes = np.stack([digit_boxes(label, index) for label in ACTIONS for index in range(count)])
    heats = []
    for number, label in enumerate(ACTIONS):
        for index in range(count):
            x = recogniser.normalised(seen_by(recogniser, root / f"test/{label}/{index:05d}.mp4").view)
            heats.append(heat_map(recogniser.backbone, x, torch.tensor([number]), method=method)[0].numpy())
    heat = np.stack(heats)
    heat /= heat.sum((1, 2, 3), keepdims=True)
    others = (boxes, np.roll(boxes, count, 0), boxes[:, ::-1])
    return [(heat * other).sum((1, 2, 3)) / boxes.mean((1, 2, 3)) for other in others]


@pytest.mark.slow
def test_the_heat_of_the_demo_follows_the_digit(tmp_path):
    """A network that tells motions apart looks at what moves: four minutes of training, then 120 test videos."""
    root, limits = tmp_path / "data", {"relevance": 1.7, "rollout": 1.4}
    run(["fit", "--config", "demo", "--run_dir", str(tmp_path / "run"), "--data.root", str(root)])
    recogniser = load_recogniser(tmp_path / "run", device="cpu")
    trained = {method: concentrations(recogniser, root, method) for method in limits}
    torch.manual_seed(0)
    recogniser.backbone._initialise()
    for method, least in limits.items():
        inside, other, backwards = trained[method]
        untrained, *_ = concentrations(recogniser, root, method)
        assert inside.mean() > least, method
        assert (inside > 1).mean() > 0.95, method
        assert inside.mean() > 1.15 * max(other.mean(), backwards.mean(), untrained.mean()), method
