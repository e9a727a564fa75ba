"""`mvrec demo` and `mvrec demo-images` on a small scale, and the images that the second one makes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from mvrec.commands.demo_images import CONFIGS
from mvrec.data import DigitImages, read_image
from mvrec.data.generated.digit_images import _handwriting, generate_digit_images
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError

ROOT = Path(__file__).parent.parent.parent
SMALL = {"train": 6, "val": 2, "test": 2}
FLAGS = ["--data.images_per_class=6", "--data.val_images_per_class=2", "--data.test_images_per_class=2"]


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


def test_the_image_demo_trains_and_tests_its_networks_on_the_same_files(command, root, tmp_path):
    configs = [config for config in CONFIGS if config.endswith(("sgformer", "mvit"))]
    run_dir = tmp_path / "runs"
    limits = ["--trainer.max_epochs=1", "--data.num_workers=0", f"--data.root={root}"]
    limits += ["--trainer.limit_train_batches=1"]
    code, out, err = command("demo-images", "--run_dir", run_dir, "--configs", *configs, *limits, *FLAGS)
    assert code == 0, err
    *rows, last = out.strip().splitlines()[-3:]
    row = r"(SGFormer|MViT) +\d\.\d\d M +\d+\.\d  [\d.]+ % \(20/20 images scored, 0 failed\)"
    matches = [re.fullmatch(row, line) for line in rows]
    assert all(matches), rows
    assert [match[1] for match in matches] == ["SGFormer", "MViT"]
    assert last == f"everything about the runs: {run_dir}"
    assert {path.name for path in run_dir.iterdir()} == set(configs)
    assert err.count("; test images, short side 64, crop 64") == 2


def test_a_missing_config_is_one_line(command, tmp_path):
    for arguments in (["demo", "--config"], ["demo-images", "--configs"]):
        code, _, err = command(*arguments, tmp_path / "none.yaml")
        assert (code, err.count("\n"), "none.yaml" in err) == (2, 1, True)


def test_the_configs_differ_in_the_network_alone():
    whole = [yaml.safe_load((ROOT / f"configs/{config}.yaml").read_text()) for config in CONFIGS]
    assert {path.stem for path in ROOT.glob("configs/demo_images*.yaml")} == set(CONFIGS)
    networks = [config["model"].pop("backbone")["class_path"].rpartition(".")[2] for config in whole]
    assert networks == ["Shunted", "SGFormer", "cloformer_xxs", "MViT"]
    assert all(config["data"] == whole[0]["data"] for config in whole)


def test_files_are_jpegs_and_pngs_of_the_same_kind(root):
    files = sorted(path.relative_to(root) for path in root.rglob("*.*") if path.suffix != ".json")
    assert len(files) == 10 * (6 + 2 + 2)
    starts = {path.suffix: set() for path in files}
    for path in files:
        starts[path.suffix].add((root / path).read_bytes()[:3])
        image = read_image(root / path)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert image.std() > 5  # ink and paper
    assert starts == {".jpg": {b"\xff\xd8\xff"}, ".png": {b"\x89PN"}}
    assert {path.parts[1] for path in files} == set("0123456789")
    # As many of one kind as of the other in every split and class, so that the format tells nothing.
    assert sum(path.suffix == ".png" for path in files if path.parts[0] == "train") == 30


def test_splits_share_no_handwriting_and_the_seed_decides_the_rest(root, tmp_path):
    generate_digit_images(tmp_path / "again", images_per_class=SMALL)
    generate_digit_images(tmp_path / "other", images_per_class=SMALL, seed=1)
    ours, again, other = (
        {path.relative_to(base): path.read_bytes() for path in base.rglob("*.png")}
        for base in (root, tmp_path / "again", tmp_path / "other")
    )
    assert ours == again
    assert not set(ours.values()) & set(other.values())
    shares = _handwriting(0)
    sets = [{digit.tobytes() for own in shares[split].values() for digit in own} for split in SMALL]
    assert all(sets)
    assert sum(map(len, sets)) == len(set.union(*sets)) > 1700


def test_what_is_there_is_kept_and_something_else_is_an_error(root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate_digit_images(root, images_per_class=SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(UserError, match=r"holds digit images with other parameters \(size is 64, not 32\)"):
        generate_digit_images(root, images_per_class=SMALL, size=32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(UserError, match="mine exists and holds no digit images"):
        generate_digit_images(tmp_path / "mine", images_per_class=SMALL)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    written = []

    def fail(path, image):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    monkeypatch.setattr("mvrec.data.generated.digit_images._write", fail)
    with pytest.raises(OSError, match="No space"):
        generate_digit_images(tmp_path / "data", images_per_class=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_impossible_parameters_are_refused_by_name(tmp_path):
    for changes, message in (
        ({"images_per_class": {**SMALL, "val": 0}}, r"images_per_class\['val'\] must be at least 1, got 0"),
        ({"images_per_class": {"train": 1, "val": 1}}, r"images_per_class\['test'\] must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"size": 15}, "size must be at least 16, got 15"),
    ):
        with pytest.raises(UserError, match=f"digit images: {message}"):
            generate_digit_images(tmp_path / "data", **{"images_per_class": SMALL, **changes})


def test_the_data_module_makes_its_files_and_refuses_flips(tmp_path):
    counts = {"images_per_class": 2, "val_images_per_class": 1, "test_images_per_class": 1}
    data = DigitImages(str(tmp_path / "data"), **counts, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert (len(data.index("train")), len(data.index("val"))) == (20, 10)
    assert list(data.class_names) == list("0123456789")
    assert json.loads((tmp_path / "data/dataset.json").read_text())["size"] == 64
    with pytest.raises(UserError, match=r"flip_probability must be 0, got 0\.5: a mirrored digit is none"):
        DigitImages(str(tmp_path / "data"), augment=Augment())
