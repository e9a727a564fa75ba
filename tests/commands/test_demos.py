"""`mvrec demo` and `mvrec demo-images` on a small scale, and the images that the second one makes."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from config_builds import tiny_images

from mvrec.commands.demos.demo_images import CONFIGS
from mvrec.data import DigitImages, open_video, read_image
from mvrec.data.generated.digit_boxes import ACTIONS
from mvrec.data.generated.digit_images import _handwriting, generate_digit_images
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError

ROOT = Path(__file__).parent.parent.parent
SMALL = {"train": 4, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digit_images") / "data"
    generate_digit_images(folder, images_per_class=SMALL)
    return folder


def test_the_demo_sums_up_in_five_lines(command, tiny, tmp_path):
    config, *overrides = tiny[1:]
    run_dir = tmp_path / "run"
    code, out, err = command("demo", "--config", config, "--run_dir", run_dir, *overrides)
    assert code == 0, err
    lines = out.strip().splitlines()[-5:]
    assert lines[0].startswith("moving digits: 12 motions, 36 training videos in ")
    assert re.fullmatch(r"trained an MViT of 0\.01 M parameters for 1 epochs in [\d.]+ minutes", lines[1])
    assert re.fullmatch(r"test top-1: [\d.]+ % \(24/24 videos scored, 0 failed\)", lines[2])
    assert re.fullmatch(r"control, the same weights .* frames shuffled: [\d.]+ %", lines[3])
    assert lines[4] == f"everything about the run: {run_dir}"
    # Both tests ran, the control on shuffled frames and first: what stays is of the real test.
    tests = [line for line in err.splitlines() if line.startswith("mvrec: test: ")]
    assert ["frames shuffled" in line for line in tests] == [True, False]


def test_the_image_demo_makes_its_files_trains_tests_and_sums_up(command, tmp_path):
    root, run_dir = tmp_path / "data", tmp_path / "runs"
    code, out, err = command("demo-images", "--configs", "demo_images_mvit", "--run_dir", run_dir, *tiny_images(root))
    assert code == 0, err
    row, last = out.strip().splitlines()[-2:]
    assert re.fullmatch(r"MViT +\d\.\d\d M +\d+\.\d  [\d.]+ % \(10/10 images scored, 0 failed\)", row), row
    assert last == f"everything about the runs: {run_dir}"
    assert [path.name for path in run_dir.iterdir()] == ["demo_images_mvit"]
    assert "; test images, short side 64, crop 64" in err
    assert [len([*root.glob(f"{split}/*/*")]) for split in SMALL] == [20, 10, 10]


def test_the_demo_of_actions_learns_boxes_and_prints_its_controls(command, tmp_path):
    root, run_dir = tmp_path / "data", tmp_path / "run"
    counts = {"train_videos": 8, "val_videos": 2, "test_videos": 4, "num_workers": 0}
    small = [f"--data.{key}={value}" for key, value in {"root": root, "size": 64, **counts}.items()]
    small += ["--model.backbone.depth=3", "--model.backbone.embed_dim=16", "--trainer.max_epochs=1"]
    code, out, err = command("demo-actions", "--run_dir", run_dir, *small)
    assert code == 0, err
    lines = out.strip().splitlines()[-14:]
    assert lines[0] == f"moving digits: 8 training videos of two or three digits with a box each in {root}"
    assert re.fullmatch(r"trained an MViT of 0\.\d\d M parameters for 1 epochs in [\d.]+ minutes", lines[1])
    assert re.fullmatch(r"test mAP: [\d.]+ % \(4/4 key frames .*\); equal scores for all boxes: [\d.]+ %", lines[2])
    assert re.fullmatch(r"control, the same weights .* frames shuffled: [\d.]+ %", lines[3])
    assert re.fullmatch(r"control, the same weights with boxes at twice their places: [\d.]+ %", lines[4])
    assert [line.split()[0] for line in lines[5:13]] == list(ACTIONS)
    # Shuffled frames come first, then the misplaced boxes: the files that stay are of the right ones.
    tests = [line for line in err.splitlines() if line.startswith("mvrec: test: ")]
    assert ["frames shuffled" in line for line in tests] == [True, False, False, False]
    score = re.compile(r"map ([\d.]+) %")
    natural, misplaced, last = (score.search(line)[1] for line in tests[1:])
    assert natural == last != misplaced
    assert open_video(run_dir / "overlays/play.mp4").num_frames == 128


def test_the_demo_of_detection_learns_from_a_coco_file_and_draws_what_it_finds(command, tmp_path):
    root, run_dir = tmp_path / "data", tmp_path / "run"
    counts = {"train_images": 16, "val_images": 2, "test_images": 8, "num_workers": 0}
    small = [f"--data.{key}={value}" for key, value in {"root": root, **counts}.items()]
    small += ["--model.backbone.depth=3", "--model.backbone.embed_dim=16", "--trainer.max_epochs=1"]
    code, out, err = command("demo-detection", "--run_dir", run_dir, *small)
    assert code == 0, err
    lines = out.strip().splitlines()[-5:]
    assert lines[0] == f"scenes: 16 training images with boxes and masks of digits in {root}"
    assert re.fullmatch(
        r"trained Mask R-CNN on an MViT of \d\.\d\d M parameters for 1 epochs in [\d.]+ minutes", lines[1]
    )
    assert re.fullmatch(r"test box AP: [\d.]+ %, at IoU 0\.5: [\d.]+ % \(8 images, 32 objects\)", lines[2])
    assert re.fullmatch(r"test mask AP: [\d.]+ %, at IoU 0\.5: [\d.]+ %", lines[3])
    assert sorted(path.stem for path in (run_dir / "overlays").iterdir()) == [f"{number:05d}" for number in range(6)]
    assert (root / "annotations/instances_train.json").is_file()


def test_the_configs_differ_in_the_network_alone():
    whole = [yaml.safe_load((ROOT / f"configs/{config}.yaml").read_text()) for config in CONFIGS]
    assert {path.stem for path in ROOT.glob("configs/demo_images*.yaml")} == set(CONFIGS)
    networks = [config["model"].pop("backbone")["class_path"].rpartition(".")[2] for config in whole]
    assert networks == ["Shunted", "SGFormer", "cloformer_xxs", "MViT"]
    assert all(config["data"] == whole[0]["data"] for config in whole)


def test_files_are_jpegs_and_pngs_of_the_same_kind(root):
    files = sorted(path.relative_to(root) for path in root.rglob("*.*") if path.suffix != ".json")
    assert len(files) == 10 * (4 + 2 + 2)
    starts = {path.suffix: set() for path in files}
    for path in files:
        starts[path.suffix].add((root / path).read_bytes()[:3])
        image = read_image(root / path)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert image.std() > 5  # ink and paper
    assert starts == {".jpg": {b"\xff\xd8\xff"}, ".png": {b"\x89PN"}}
    assert {path.parts[1] for path in files} == set("0123456789")
    # As many of one kind as of the other in every split, so that the format tells nothing.
    assert sum(path.suffix == ".png" for path in files if path.parts[0] == "train") == 20


def test_splits_share_no_handwriting_and_the_seed_decides_the_rest(root, tmp_path):
    def generated(folder, seed):
        generate_digit_images(folder, images_per_class=SMALL, seed=seed)
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}

    images = generated(root, 0)
    assert generated(tmp_path / "again", 0) == images
    assert not set(generated(tmp_path / "other", 1).values()) & set(images.values())
    shares = _handwriting(0)
    sets = [{digit.tobytes() for digits in shares[split].values() for digit in digits} for split in SMALL]
    assert all(sets)
    assert sum(map(len, sets)) == len(set.union(*sets)) > 1700


def test_what_is_there_is_kept_and_other_parameters_are_an_error(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate_digit_images(root, images_per_class=SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(UserError, match=r"holds digit images with other parameters \(size is 64, not 32\)"):
        generate_digit_images(root, images_per_class=SMALL, size=32)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path, image):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvrec.data.generated.digit_images._write", fail)
    with pytest.raises(OSError, match="No space"):
        generate_digit_images(tmp_path / "data", images_per_class=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_impossible_parameters_and_flips_are_refused_by_name(tmp_path):
    for changes, message in (
        ({"images_per_class": {"train": 1, "val": 1}}, r"images_per_class\['test'\] must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"size": 15}, "size must be at least 16, got 15"),
    ):
        with pytest.raises(UserError, match=f"digit images: {message}"):
            generate_digit_images(tmp_path / "data", **{"images_per_class": SMALL, **changes})
    with pytest.raises(UserError, match=r"flip_probability must be 0, got 0\.5: a mirrored digit is none"):
        DigitImages(str(tmp_path), augment=Augment())
