"""`mvrec explain`: what it prints and draws, and what it says of bad input."""

import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mvrec.cli.lightning import run
from mvrec.commands.explain import class_number, main, seen_by
from mvrec.data.generated.moving_digits_video import ACTIONS, SPLITS, Motion, poses
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser
from mvrec.models import create_model

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from exported_runs import network_node, save_run

CONFIG = Path(__file__).parents[2] / "configs/demo.yaml"


@pytest.fixture(scope="module")
def run_dir(digits_run):
    """A run of a tiny video network on moving digits, which is only read."""
    return digits_run.folder


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory):
    """Weights of an image network of three classes, and the list of their names."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(create_model("cloformer_xxs", num_classes=3).state_dict(), folder / "weights.pth")
    (folder / "names.txt").write_text("cat\ndog\ngrüne Heide\n")
    return folder / "weights.pth", folder / "names.txt"


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    """A run of the smallest image network."""
    folder = tmp_path_factory.mktemp("image_run")
    save_run(folder / "checkpoints/best.ckpt", network_node("smallest"))
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "my picture.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (280, 380, 3), dtype=np.uint8)).save(path)
    return path


def video(digits):
    return digits / "test" / "orbit_clockwise" / "00001.mp4"


def test_a_sheet_for_a_video(run_dir, digits, tmp_path, capsys):
    out = tmp_path / "new" / "heat ü.png"
    main([str(video(digits)), "--ckpt", str(run_dir), "-o", str(out), "--class", "grow", "--top", "3"])
    first, *classes, last = capsys.readouterr().out.splitlines()
    assert first == f"{video(digits)}: clip 0 of 1 (0.50 s to 1.50 s), crop 0 of 1"
    recogniser = load_recogniser(run_dir)
    probabilities = recogniser.probabilities(recogniser.views(video(digits)))[0]
    best = probabilities.topk(3)
    assert classes == [
        f"{100 * value:6.2f} %  {recogniser.class_names[number]}"
        for value, number in zip(best.values, best.indices, strict=True)
    ]
    chosen = 100 * probabilities[recogniser.class_names.index("grow")]
    assert last == f"{out}: relevance for grow ({chosen:.1f} %)"
    with Image.open(out) as image:
        assert image.size == (4 * (256 + 4) + 4, 2 * 256 + 4 + 2 * 4)
        assert image.text["Description"].startswith("relevance for grow")
        sheet = np.array(image)
    # The upper row is what the network saw: every pixel four times each way.
    seen = recogniser.views(video(digits))[0].permute(1, 2, 3, 0).numpy()
    for i in range(4):
        left = 4 + i * 260
        assert np.array_equal(sheet[4:260:4, left : left + 256 : 4], seen[i])


@pytest.mark.parametrize("method", ["cam", "layercam", "rollout", "relevance"])
def test_a_video_of_a_video(run_dir, digits, tmp_path, capsys, method):
    out = tmp_path / "heat.mp4"
    main([str(video(digits)), "--ckpt", str(run_dir), "-o", str(out), "--method", method])
    subject = "any class" if method == "rollout" else r"\w+ \(\d+\.\d %\)"
    assert re.fullmatch(f"{out}: {method} for {subject}", capsys.readouterr().out.splitlines()[-1])
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        # 4 frames of the file from one to the next, but for the last, at 16 frames per second.
        assert float(stream.average_rate) == pytest.approx(16 * 3 / 15, rel=1e-3)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (256, 2 * 256 + 4, 3)
    plain, drawn = (np.stack(frames)[:, :, part].astype(int) for part in (slice(0, 256), slice(260, None)))
    assert abs(plain - drawn).max() > 60


def test_an_image_and_its_full_frame(image_weights, image_run, picture, tmp_path, capsys):
    weights, names = image_weights
    out = tmp_path / "heat.png"
    main([str(picture), "--ckpt", str(weights), "--classes", str(names), "-o", str(out), "--class", "grüne Heide"])
    text = capsys.readouterr().out.splitlines()
    assert len(text) == 1 + 3 + 1
    assert text[-1].startswith(f"{out}: cam for grüne Heide (")
    with Image.open(out) as image:
        assert image.size == (2 * 224 + 4, 224)
    main([str(picture), "--ckpt", str(image_run), "-o", str(out), "--full_frame"])
    with Image.open(out) as image:
        assert image.size[1] > 32
        edge = np.array(image)[:, image.width // 2 + 2 :]
        assert (edge == (0, 255, 255)).all(-1).sum() == 224**2 - 210**2  # 32 pixels, drawn seven times as large
    capsys.readouterr()
    main([str(picture), "--ckpt", str(image_run), "-o", str(out), "--class", "1", "--method", "layercam", "--stage=0"])
    assert ": layercam for jump, high (" in capsys.readouterr().out


@pytest.mark.parametrize("antialias", [True, False])
def test_views_are_those_of_the_protocol(run_dir, tmp_path, antialias):
    import dataclasses

    from video_files import write_video

    recogniser = load_recogniser(run_dir)
    protocol = recogniser.protocol
    views = dataclasses.replace(protocol.views, num_clips=3, num_crops=3, antialias=antialias)
    recogniser = dataclasses.replace(recogniser, protocol=dataclasses.replace(protocol, views=views))
    path = write_video(tmp_path / "wide.mp4", num_frames=70, size=(80, 150))
    all_views = recogniser.views(path)
    for clip in range(3):
        for crop in range(3):
            seen = seen_by(recogniser, path, clip=clip, crop=crop)
            assert torch.equal(seen.view[0], all_views[3 * clip + crop])
            top, left, height, width = seen.crop
            cut = seen.frames[:, top : top + height, left : left + width]
            assert np.array_equal(cut, seen.view[0].permute(1, 2, 3, 0).numpy())
    assert torch.equal(seen_by(recogniser, path).view[0], all_views[4])
    with pytest.raises(UserError, match=r"--clip: there is no clip 3: the protocol has the clips 0\.\.2"):
        seen_by(recogniser, path, clip=3)
    with pytest.raises(UserError, match="--crop: there is no crop -1"):
        seen_by(recogniser, path, crop=-1)


def test_a_video_shorter_than_a_clip(run_dir, tmp_path, capsys):
    from video_files import write_video

    path = write_video(tmp_path / "short.mp4", num_frames=2, size=(48, 64))
    main([str(path), "--ckpt", str(run_dir), "-o", str(tmp_path / "a.mp4"), "--full_frame"])
    assert "(0.00 s to 0.07 s)" in capsys.readouterr().out
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--class", "orbit_clokwise"],
            "'orbit_clokwise' is not one of the 12 classes; did you mean 'orbit_clockwise'",
        ),
        (["--class", "12"], "'12' is not one of the 12 classes"),
        (["--stage", "2"], "no stage 2: this network has the stages 0..1"),
        (["--method", "rollout", "--stage", "0"], "a stage is for cam and layercam"),
        (["--clip", "1"], "no clip 1: the protocol has the clips 0..0"),
        (["--ckpt", "no_such_run"], "there is no checkpoint 'no_such_run'"),
        (["--top", "0"], "--top must be at least 1, got 0"),
    ],
)
def test_bad_options(run_dir, digits, tmp_path, options, message):
    out = tmp_path / "a.png"
    with pytest.raises(UserError, match=re.escape(message)):
        main([str(video(digits)), "--ckpt", str(run_dir), "-o", str(out), *options])
    assert not out.exists()


def test_bad_files(run_dir, digits, image_run, picture, tmp_path):
    cases = [
        ([tmp_path / "nothing.mp4", "-o", tmp_path / "a.png"], "no such file"),
        ([tmp_path, "-o", tmp_path / "a.png"], "is a directory"),
        ([picture, "-o", picture], "--output must end in .mp4 or .png"),
        ([video(digits), "-o", video(digits)], "--output is the source itself"),
        ([video(digits), "-o", tmp_path / "a.gif"], "--output must end in .mp4 or .png, got"),
    ]
    (tmp_path / "no video.mp4").write_bytes(b"nothing of the kind" * 100)
    cases.append(([tmp_path / "no video.mp4", "-o", tmp_path / "a.png"], "no video, damaged or cut short"))
    (tmp_path / "file").write_text("")
    cases.append(([video(digits), "-o", tmp_path / "file" / "a.png"], "cannot write .*: "))
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            main([*map(str, arguments), "--ckpt", str(run_dir)])
    image = ["--ckpt", str(image_run)]
    with pytest.raises(UserError, match=r"of which no video comes: --output must end in \.png"):
        main([str(picture), *image, "-o", str(tmp_path / "a.mp4")])
    with pytest.raises(UserError, match="rollout and relevance follow the attention of MViT"):
        main([str(picture), *image, "-o", str(tmp_path / "a.png"), "--method", "rollout"])
    assert not list(tmp_path.glob("a.*"))


def test_names_that_are_numbers():
    assert class_number("3", ("7", "3", "5")) == 1
    assert class_number("2", ("cat", "dog", "cow")) == 2


# -- the real measure -------------------------------------------------------------------------------------------------


def digit_boxes(label, index, *, frames, size=64, margin=2):
    """Where the digit of a test video is, a little wider: bool (T, H, W). The generator draws it round the edges."""
    rng = np.random.default_rng((0, SPLITS.index("test"), ACTIONS.index(label), index))
    x, y, extent, _ = poses(label, Motion.draw(rng), 32)[frames].T[..., None, None]
    centres = (np.arange(size) + 0.5) / size
    right, down = (centres - x + 0.5) % 1 - 0.5, (centres[:, None] - y + 0.5) % 1 - 0.5
    half = extent / 2 + margin / size
    return (abs(right) <= half) & (abs(down) <= half)


@pytest.mark.slow
def test_the_heat_of_the_demo_follows_the_digit(tmp_path):
    """A network that tells motions apart looks at what moves: four minutes of training, then 120 test videos."""
    from mvrec.inference.heat import heat_map

    root = tmp_path / "data"
    run(["fit", "--config", str(CONFIG), "--run_dir", str(tmp_path / "run"), "--data.root", str(root)])
    recogniser = load_recogniser(tmp_path / "run", device="cpu")
    shares = {}
    for name in ("trained", "untrained"):
        if name == "untrained":
            torch.manual_seed(0)
            recogniser.backbone._initialise()
        for method in ("relevance", "rollout"):
            heats, boxes = [], []
            for number, label in enumerate(ACTIONS):
                for index in range(10):
                    seen = seen_by(recogniser, root / "test" / label / f"{index:05d}.mp4")
                    x, classes = recogniser.normalised(seen.view), torch.tensor([number])
                    heats.append(heat_map(recogniser.backbone, x, classes, method=method)[0].numpy())
                    boxes.append(digit_boxes(label, index, frames=np.linspace(0, 31, 8).astype(int)))
            heat, box = np.stack(heats), np.stack(boxes)
            heat = heat / heat.sum((1, 2, 3), keepdims=True)
            backwards = (heat * box[:, ::-1]).sum((1, 2, 3)) / box.mean((1, 2, 3))
            other = (heat * np.roll(box, 10, 0)).sum((1, 2, 3)) / box.mean((1, 2, 3))
            own = (heat * box).sum((1, 2, 3)) / box.mean((1, 2, 3))
            shares[name, method] = own.mean(), other.mean(), backwards.mean(), (own > 1).mean()
    for method, least in (("relevance", 1.7), ("rollout", 1.4)):
        own, other, backwards, above = shares["trained", method]
        assert own > least, shares
        assert above > 0.95, shares
        assert own > 1.15 * max(other, backwards, shares["untrained", method][0]), shares
