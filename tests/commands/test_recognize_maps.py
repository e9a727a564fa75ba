"""`mvrec recognize` with a segmenter: shares, overlays and masks of images, videos and streams."""

import csv
import io
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from segmenters import NAMES, save_segmenter, scene, write_scene

import mvrec
from mvrec.data import MaskFolder
from mvrec.data.views.protocol import MaskProtocol
from mvrec.inference.class_maps.drawing import painted
from mvrec.inference.overlay import write_mp4
from mvrec.inference.recogniser import load_recogniser
from mvrec.tasks.segmentation.colours import colours
from mvrec.tasks.segmentation.modes import label_map


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a small segmenter of three classes."""
    folder = tmp_path_factory.mktemp("lauf")
    save_segmenter(folder / "checkpoints/best.ckpt")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two images of different sizes, and a file that is none."""
    folder = tmp_path_factory.mktemp("bilder")
    write_scene(folder / "ä.png", 97, 131)
    write_scene(folder / "below/b.jpg", 130, 120, seed=1)
    (folder / "broken.png").write_text("no image")
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def expected_classes(run: Path, path: Path, protocol: MaskProtocol | None = None) -> np.ndarray:
    """The classes by the network itself, from the pixels of the file on."""
    recogniser = load_recogniser(run, device="cpu")
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
    labels = label_map(recogniser.backbone, recogniser.normalised(pixels), protocol or recogniser.protocol)
    return labels.numpy()


def test_images_give_shares_overlays_and_masks_under_their_own_names(command, run, images, tmp_path):
    folders = ["--overlays", tmp_path / "over", "--masks", tmp_path / "masks"]
    code, out, err = command("recognize", images, "--ckpt", run, "--format=csv", *folders)
    assert code == 1
    assert "unreadable: " in err
    assert "broken.png" in err.splitlines()[-1]
    rows = {Path(row["path"]).name: row for row in rows_of(out)}
    assert set(rows) == {"broken.png", "b.jpg", "ä.png"}
    assert [rows["broken.png"][name] for name in NAMES] == ["", "", ""]
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    names = {f"{folder}/{name}" for folder in ("over", "masks") for name in ("ä.png", "below/b.png")}
    assert written == names | {"masks/classes.txt", "over/legend.png"}
    assert (tmp_path / "masks/classes.txt").read_text().splitlines() == NAMES
    for name in ("ä.png", "below/b.jpg"):
        path = images / name
        classes = expected_classes(run, path)
        with Image.open((tmp_path / "masks" / name).with_suffix(".png")) as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:9] == colours(3).flatten().tolist()
            assert np.array_equal(np.asarray(mask), classes)
        with Image.open((tmp_path / "over" / name).with_suffix(".png")) as overlay:
            pixels = np.array(Image.open(path).convert("RGB"))
            assert np.array_equal(np.asarray(overlay), painted(pixels, classes, colours(3)))
        shares = np.bincount(classes.ravel(), minlength=3) / classes.size
        assert [float(rows[path.name][name]) for name in NAMES] == pytest.approx(shares.tolist(), abs=1e-6)


def test_windows_and_named_protocols_replace_the_checkpoints(command, run, images, tmp_path):
    path = images / "ä.png"
    windows = MaskProtocol.named("slide", size=64, window=64, stride=42)
    several = MaskProtocol.named("whole-ms-flip", size=64)
    cases = (("--slide", windows), ("--protocol=slide", windows), ("--protocol=whole-ms-flip", several))
    for flag, protocol in cases:
        code, _, err = command("recognize", path, "--ckpt", run, "--masks", tmp_path, flag)
        assert code == 0
        assert str(protocol) in err
        classes = expected_classes(run, path, protocol)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "ä.png")), classes)
        assert not np.array_equal(classes, expected_classes(run, path))


@pytest.mark.parametrize("flag", ["--protocol=whole-ms-flip", "--slide"])
def test_images_smaller_than_any_network_takes_are_segmented_too(command, tmp_path, flag):
    save_segmenter(tmp_path / "full.ckpt", kind="all_stages")
    for number, size in enumerate(((1, 1), (5, 7), (3, 90))):
        write_scene(tmp_path / f"in/{number}.png", *size)
    code, out, err = command("recognize", tmp_path / "in", "--ckpt", tmp_path / "full.ckpt", "--format=csv", flag)
    assert code == 0, err
    assert [sum(float(row[name]) for name in NAMES) for row in rows_of(out)] == pytest.approx([1, 1, 1], abs=1e-5)


def test_masks_are_those_of_a_data_set(command, run, tmp_path):
    for number in range(4):
        write_scene(tmp_path / f"images/{number}.jpg", 60, 80, seed=number)
    masks = tmp_path / "masks"
    code, _, err = command("recognize", tmp_path / "images", "--ckpt", run, "--masks", masks)
    assert code == 0, err
    data = MaskFolder(str(tmp_path), classes=str(masks / "classes.txt"), val_fraction=0.25, size=64, num_workers=0)
    data.setup("fit")
    assert data.class_names == tuple(NAMES)
    index = data.index("train")
    assert len(index) == 3
    for row in range(3):
        path = masks / f"{Path(index[row].path).stem}.png"
        assert np.array_equal(index.target(row).classes, np.asarray(Image.open(path)))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A video of 12 frames, 10 a second, whose sides are odd."""
    frames = np.stack([np.roll(scene(75, 97), 6 * number, axis=1) for number in range(12)])
    write_mp4(path := tmp_path_factory.mktemp("video") / "v.mp4", frames, fps=10)
    return path


@pytest.mark.parametrize("address", [False, True])
def test_videos_and_streams_go_frame_by_frame(command, run, video, tmp_path, address):
    source, name = (f"file://{video}", "stream") if address else (video, "v")
    folders = ["--overlays", tmp_path / "over", "--masks", tmp_path / "masks"]
    code, out, err = command("recognize", source, "--ckpt", run, "--format=csv", *folders)
    assert code == 0, err
    rows = rows_of(out)
    assert [float(row["start_seconds"]) for row in rows] == pytest.approx([0.1 * number for number in range(12)])
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    masks = sorted((tmp_path / "masks" / name).iterdir())
    assert [mask.name for mask in masks] == [f"{number:06d}.png" for number in range(12)]
    recogniser = load_recogniser(run, device="cpu")
    predictions = mvrec.load(run, device="cpu").predict(frames)
    for mask, row, prediction in zip(masks, rows, predictions, strict=True):
        assert np.array_equal(np.asarray(Image.open(mask)), prediction.output.classes)
        shares = [float(row[name]) for name in NAMES]
        assert shares == pytest.approx(list(prediction.output.shares.values()), abs=1e-6)
    if not address:
        results = list(mvrec.load(run, device="cpu").predict(video))
        assert all(np.array_equal(x.pixels, frame) for x, frame in zip(results, frames, strict=True))
    with av.open(str(tmp_path / "over" / f"{name}.mp4")) as container:
        drawn = list(container.decode(video=0))
    assert [float(frame.pts * frame.time_base) for frame in drawn] == pytest.approx([0.1 * n for n in range(12)])
    overlay = painted(frames[5], np.asarray(Image.open(masks[5])), colours(recogniser.backbone.num_classes))
    assert np.abs(drawn[5].to_ndarray(format="rgb24")[:75, :97].astype(int) - overlay[:75, :97]).mean() < 8


def test_names_of_files_need_not_be_utf8(command, run, images, video, tmp_path):
    out = tmp_path / "overlays"
    for source in (images / "below/b.jpg", video):
        name = tmp_path / f"\udcff{source.suffix}"
        os.link(source, name)
        code, _, err = command("recognize", name, "--ckpt", run, "--overlays", out, "--masks", tmp_path / "masks")
        assert code == 0, err
    assert {path.name for path in out.iterdir()} == {"legend.png", "\udcff.png", "\udcff.mp4"}


def test_spans_of_a_list_are_segmented_alone(command, run, video, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("path,start,end\nv.mp4,0.3,0.6\n")
    shutil.copy(video, tmp_path)
    code, out, err = command("recognize", listed, "--ckpt", run, "--format=csv", "--masks", tmp_path / "masks")
    assert code == 0, err
    assert [row["start_seconds"] for row in rows_of(out)] == ["0.300", "0.400", "0.500"]
    assert len(list((tmp_path / "masks" / "v").iterdir())) == 3


def test_an_image_whose_outputs_are_not_finite_is_named_and_the_others_are_done(command, images, tmp_path, run):
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("conv_seg.weight"))
    weight = checkpoint["state_dict"][name]
    weight *= 3e38 / weight.abs().max()  # finite, unlike its products
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    arguments = ["recognize", images / "ä.png", "--ckpt", tmp_path / "nan.ckpt", "--masks", tmp_path / "masks"]
    code, out, err = command(*arguments, "--format=csv")
    assert code == 1, err
    (row,) = rows_of(out)
    assert "not finite" in row["error"]
    assert f"{images / 'ä.png'}: the network's outputs are not finite" in err
    assert not (tmp_path / "masks").exists()


def test_images_of_different_sizes_are_one_call_from_python(run, images):
    model = mvrec.load(run, device="cpu")
    pixels = [scene(40, 50), scene(50, 40), scene(50, 40, seed=2)]
    for at_once in (None, 3):
        predictions = list(model.predict(pixels, views_per_forward=at_once))
        assert [prediction.output.classes.shape for prediction in predictions] == [(40, 50), (50, 40), (50, 40)]
        assert np.array_equal(predictions[2].pixels, pixels[2])
    single = model.predict(images / "ä.png")
    assert sum(share for _, share in single.top(3)) == pytest.approx(1)
    assert np.array_equal(single.overlay(0), single.pixels)
    assert {tuple(colour) for colour in single.overlay(1).reshape(-1, 3)} <= {tuple(row) for row in colours(3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masks", "x", "--overlays", "x"], "--overlays and --masks are the same folder"),
        (["--protocol", "slid"], "--protocol: there is no protocol 'slid', only .*; did you mean 'slide'?"),
        (["--window", "2"], "--window is for videos"),
    ],
)
def test_a_wrong_request_is_one_line(command, run, images, arguments, message):
    code, _, err = command("recognize", images / "ä.png", "--ckpt", run, *arguments)
    assert code == 2
    assert re.search(message, err.splitlines()[-1])


def test_two_images_of_one_name_are_refused_before_anything_is_written(command, run, tmp_path):
    for name in ("a.png", "a.jpg"):
        write_scene(tmp_path / "in" / name, 40, 40)
    code, _, err = command("recognize", tmp_path / "in", "--ckpt", run, "--masks", tmp_path / "masks")
    assert code == 2
    assert "would both be written as a: recognize them apart" in err
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("flags", [["--slide"], ["--overlays", "x"], ["--masks", "x"]])
def test_maps_of_a_classifier_are_refused(command, image_run, images, flags):
    code, _, err = command("recognize", images, "--ckpt", image_run, *flags)
    assert code == 2
    assert f"{flags[0]} is for segmenters" in err.splitlines()[-1]
    assert "is for classification" in err
