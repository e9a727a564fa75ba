"""`mvrec recognize` and `mvrec explain` with a detector: boxes, masks, tracks, tiles, and files of them."""

import csv
import io
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from detectors import IDS, NAMES, save_detector
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as rle
from PIL import Image
from segmenters import scene, write_scene

import mvrec
from mvrec.data.listing.objects.coco import read_coco
from mvrec.data.listing.objects.own import read_own
from mvrec.inference.overlay import write_mp4
from mvrec.inference.recogniser import load_recogniser
from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.results import ImageSize


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a small Mask R-CNN of three classes."""
    folder = tmp_path_factory.mktemp("lauf")
    save_detector(folder / "checkpoints/best.ckpt")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two images of different sizes, and a file that is none."""
    folder = tmp_path_factory.mktemp("bilder")
    write_scene(folder / "ä.png", 97, 131)
    write_scene(folder / "below/b.jpg", 130, 120, seed=1)
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A video of 5 frames, 10 a second, whose sides are odd."""
    frames = np.stack([np.roll(scene(75, 97), 2 * number, axis=1) for number in range(5)])
    write_mp4(path := tmp_path_factory.mktemp("video") / "v.mp4", frames, fps=10)
    return path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def expected(run: Path, path: Path):
    """Detections with a score of 0.5 or more by the network itself, from the pixels of the file on."""
    recogniser = load_recogniser(run, device="cpu")
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    height, width = pixels.shape[:2]
    factor = min(192 / max(height, width), 128 / min(height, width))
    rows, columns = int(height * factor + 0.5), int(width * factor + 0.5)
    floats = pixels.permute(2, 0, 1)[None].float()
    scaled = torch.nn.functional.interpolate(floats, (rows, columns), mode="bilinear").round().to(torch.uint8)
    x = recogniser.normalised(scaled)
    x = torch.nn.functional.pad(x, (0, -columns % 32, 0, -rows % 32))
    with torch.no_grad():
        answer = recogniser.backbone(x, [ImageSize(rows, columns, columns / width, rows / height)])[0]
    keep = answer.scores >= 0.5
    masks = paste_masks(answer.mask_probabilities[keep], answer.boxes[keep], height, width)
    return answer.boxes[keep].numpy(), answer.scores[keep].numpy(), answer.labels[keep].numpy(), masks.numpy()


def test_images_give_rows_lines_and_pictures_under_their_own_names(command, run, images, tmp_path):
    code, out, err = command("recognize", images, "--ckpt", run, "--format=csv", "--overlays", tmp_path / "over")
    assert code == 1
    assert "broken.png" in err.splitlines()[-1]
    rows = rows_of(out)
    assert {Path(row["path"]).name for row in rows} == {"b.jpg", "ä.png"}
    code, out, _ = command("recognize", images, "--ckpt", run, "--format=jsonl")
    lines = {Path(line["path"]).name: line for line in map(json.loads, out.splitlines())}
    assert lines["broken.png"]["objects"] == []
    for name in ("ä.png", "below/b.jpg"):
        boxes, scores, labels, masks = expected(run, images / name)
        assert len(boxes) > 1
        rows_of_image = [row for row in rows if row["path"] == str(images / name)]
        assert [row["label"] for row in rows_of_image] == [NAMES[label] for label in labels]
        assert [float(row["score"]) for row in rows_of_image] == pytest.approx(scores.tolist(), abs=1e-5)
        corners = [[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows_of_image]
        assert np.abs(np.array(corners) - boxes).max() < 0.01
        objects = lines[Path(name).name]["objects"]
        decoded = np.stack([rle.decode(entry["mask"]) for entry in objects])
        assert np.array_equal(decoded.astype(bool), masks)
        with Image.open((tmp_path / "over" / name).with_suffix(".png")) as overlay:
            factor = 360 // min(masks.shape[1:])
            assert overlay.size == (factor * masks.shape[2], factor * masks.shape[1])
    assert not (tmp_path / "over/legend.png").exists()


def test_coco_s_form_and_rows_are_data_of_the_same_objects(command, run, images, tmp_path):
    output = images / "found.json"
    sources = [images / "ä.png", images / "below"]
    code, _, err = command("recognize", *sources, "--ckpt", run, "-o", output)
    assert code == 0, err
    tables = [read_coco(output)]
    code, _, err = command("recognize", *sources, "--ckpt", run, "-o", tmp_path / "found.csv")
    tables.append(read_own(tmp_path / "found.csv"))
    answer = COCO(str(output), print_function=lambda *_: None)
    assert [entry["name"] for entry in answer.loadCats(IDS)] == NAMES
    names = {entry["file_name"]: entry for entry in answer.loadImgs(answer.getImgIds())}
    assert set(names) == {"ä.png", "below/b.jpg"}
    for name, entry in names.items():
        boxes, scores, labels, masks = expected(run, images / name)
        assert (entry["height"], entry["width"]) == masks.shape[1:]
        annotations = answer.loadAnns(answer.getAnnIds(imgIds=[entry["id"]]))
        assert [IDS.index(each["category_id"]) for each in annotations] == labels.tolist()
        assert [each["area"] for each in annotations] == masks.sum((1, 2)).tolist()
        assert np.array_equal(np.stack([answer.annToMask(each) for each in annotations]), masks)
        corners = np.array([each["bbox"] for each in annotations])
        corners[:, 2:] += corners[:, :2]
        assert np.abs(corners - boxes).max() < 1e-3
        assert [each["score"] for each in annotations] == pytest.approx(scores.tolist(), abs=1e-5)
        for table in tables:
            (row,) = (row for row in range(2) if table.objects(row).path.endswith(name))
            assert np.abs(table.objects(row).boxes - np.array([each["bbox"] for each in annotations])).max() < 0.02
    first = tables[0].objects(0)
    assert rle.area(first.rle(0, first.height, first.width)) == first.areas[0]
    output.unlink()


@pytest.mark.parametrize("address", [False, True])
def test_videos_and_streams_go_frame_by_frame_and_have_tracks(command, run, video, tmp_path, address):
    source, name = (f"file://{video}", "stream") if address else (video, "v")
    over = ["--overlays", tmp_path / "over"]
    code, out, err = command("recognize", source, "--ckpt", run, "--format=csv", "--min_score=0.3", *over)
    assert code == 0, err
    rows = rows_of(out)
    assert sorted({float(row["time"]) for row in rows}) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert all(row["track"].startswith(f"{row['label']} ") for row in rows)
    firsts = {row["track"] for row in rows if float(row["time"]) == 0}
    assert firsts & {row["track"] for row in rows if float(row["time"]) > 0.35}
    with av.open(str(tmp_path / "over" / f"{name}.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5


def test_tiles_a_least_score_and_arrays_from_python(run, images):
    model = mvrec.load(run, device="cpu")
    pixels = scene(200, 260, seed=4)
    whole = model.predict(pixels, objects=mvrec.ObjectKnobs(min_score=0)).output
    assert len(whole) > len(model.predict(pixels).output) > 0
    tiled = model.predict(pixels, objects=mvrec.ObjectKnobs(min_score=0, tiles=96)).output
    assert len(tiled) > len(whole)
    assert all(mask["size"] == [200, 260] for mask in tiled.masks)
    single = model.predict(images / "ä.png")
    assert isinstance(single, mvrec.ObjectPrediction)
    assert single.top(1)[0][0] == single.objects.names[0]
    vectors = [model.features(source).values for source in (images / "ä.png", single.pixels)]
    assert np.array_equal(*vectors)
    assert vectors[0].shape == (model.backbone.num_features,)
    several = list(model.predict([pixels, scene(90, 70)]))
    assert [each.pixels.shape for each in several] == [(200, 260, 3), (90, 70, 3)]


def test_an_image_whose_outputs_are_not_finite_is_named(command, images, tmp_path, run):
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if ".neck." in name and name.endswith("weight"))
    weight = checkpoint["state_dict"][name]
    weight[:] = 3e38 * weight.sign()  # finite, unlike its products
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    code, out, err = command("recognize", images / "ä.png", "--ckpt", tmp_path / "nan.ckpt", "--format=jsonl")
    assert code == 1, err
    assert "not finite" in json.loads(out)["error"]
    assert f"{images / 'ä.png'}: the network's outputs are not finite" in err


def test_the_score_of_one_object_is_explained(command, run, images, tmp_path):
    arguments = ["explain", images / "ä.png", "--ckpt", run, "-o", tmp_path / "heat.png"]
    code, out, err = command(*arguments, "--detection=1", "--top=3")
    assert code == 0, err
    _, scores, labels, _ = expected(run, images / "ä.png")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0", "1", "2"]
    assert f"layercam for {NAMES[labels[1]]} ({100 * scores[1]:.1f} %)" in out.splitlines()[-1]
    model = mvrec.load(run, device="cpu")
    heats = [model.explain(images / "ä.png", detection=rank) for rank in (0, 1)]
    assert not np.array_equal(heats[0].heat, heats[1].heat)
    assert heats[1].heat.shape == (97, 131)
    last = NAMES[labels[1]]
    of_class = model.explain(images / "ä.png", class_name=last, detection=0)
    assert of_class.class_name == last
    code, _, err = command(*arguments, "--detection=100")
    assert code == 2
    assert re.search(r"there is no object 100: the network finds \d+, which count from 0", err.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masks", "x"], "--masks is for segmenters; masks of objects are in --format jsonl"),
        (["--overlap", "0.3"], "--overlap is that of tiles: add --tiles PIXELS"),
        (["--tiles", "5"], "--tiles must lie in 32..16384"),
        (["--min_score", "2"], "--min_score must lie in 0..1"),
        (["--protocol", "mmdet-1333x800"], "--protocol: there is no protocol 'mmdet-1333x800'.*did you mean"),
        (["--people", "auto"], "--people is for action detectors, and .* is for detection"),
        (["--slide"], "--slide is for segmenters, and .* is for detection"),
    ],
)
def test_a_wrong_request_of_a_detector_is_one_line(command, run, images, arguments, message):
    code, _, err = command("recognize", images / "ä.png", "--ckpt", run, *arguments)
    assert code == 2
    assert re.search(message, err.splitlines()[-1])


def test_coco_s_form_of_a_video_or_of_a_classifier_is_refused(command, run, image_run, images, video):
    code, _, err = command("recognize", video, "--ckpt", run, "--format=coco")
    assert code == 2
    assert "is a video, and COCO's form is for images: --format jsonl or csv" in err.splitlines()[-1]
    code, _, err = command("recognize", images, "--ckpt", image_run, "--format=coco")
    assert code == 2
    assert "--format coco is for detectors" in err.splitlines()[-1]
    code, _, err = command("recognize", images, "--ckpt", image_run, "--tiles=64")
    assert code == 2
    assert "--tiles is for detectors, and" in err.splitlines()[-1]
