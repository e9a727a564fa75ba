"""Planted faults in moving digits, all of which an audit names, and nothing else."""

import csv
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mvrec.cli.main import main
from mvrec.data.generated.digit_images import generate_digit_images
from mvrec.data.generated.moving_digits_video import encode, generate_moving_digits
from mvrec.data.video.opening import open_video
from mvrec.looking.audit import reading
from mvrec.looking.audit.cache import LookCache, cache_of
from mvrec.looking.audit.copies import Copy, copies
from mvrec.looking.audit.findings import File, Settings, far_values, findings
from mvrec.looking.audit.labels import doubts
from mvrec.looking.audit.looks import look_of
from mvrec.looking.audit.reading import Seen, image_look, see, video_look
from mvrec.processes import Limits


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what audits have read."""
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audited") / "digits"
    generate_moving_digits(root, clips_per_class={"train": 12, "val": 2, "test": 1}, num_frames=16)
    return root


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.asarray(video.frames(range(video.num_frames)))


def write(path: Path, frames: np.ndarray, crf: int) -> None:
    """Write frames by another encoder setting than that of the original."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": str(crf), "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


CHANGES = (
    lambda frames: frames,
    lambda frames: frames[:, 4:-4, 4:-4],
    lambda frames: frames.repeat(2, 1).repeat(2, 2),
    lambda frames: frames[:, :, 10:],
    lambda frames: frames[:, :-14],
    lambda frames: frames[:, :, ::-1],
    lambda frames: frames[:, 2:, :-12][:, :, ::-1],
    lambda frames: frames[4:14],
)


def test_copies_are_found_and_nothing_else(digits: Path, tmp_path: Path) -> None:
    originals = sorted(digits.rglob("*.mp4"))
    planted = originals[::4]
    again = [tmp_path / f"{number}.mp4" for number in range(len(planted))]
    for number, (path, copy) in enumerate(zip(planted, again, strict=True)):
        write(copy, CHANGES[number % len(CHANGES)](frames_of(path)), 33)
    paths = [*originals, *again]
    reads = see(paths, is_video=True, limits=Limits(), jobs=2)
    pairs = {
        (paths[copy.first], paths[copy.second]) for copy in copies([each.look for each in reads], [""] * len(reads))
    }
    true = set(zip(planted, again, strict=True))
    assert len(pairs & true) >= 0.95 * len(true)
    assert len(pairs & true) >= 0.95 * len(pairs)


def test_copies_of_images_are_found_and_neither_others_nor_plain_drawings(tmp_path: Path) -> None:
    generate_digit_images(tmp_path / "digits", images_per_class={"train": 12, "val": 1, "test": 1}, size=64)
    paths = sorted((tmp_path / "digits" / "train").rglob("*.*g"))
    changes = (
        lambda image: image.resize((48, 48)),
        lambda image: image.crop((11, 0, 64, 64)),
        lambda image: image.crop((0, 0, 64, 57)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.crop((0, 15, 64, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.crop((5, 5, 59, 59)),
    )
    looks = [image_look(path) for path in paths]
    for number, path in enumerate(paths[:60]):
        changes[number % len(changes)](Image.open(path).convert("RGB")).save(tmp_path / "again.jpg", quality=50)
        looks.append(image_look(tmp_path / "again.jpg"))
    rough = load_digits().images[:150].repeat(4, 1).repeat(4, 2)  # drawings of 8 x 8 pixels, many of which look alike
    looks += [look_of([(drawing * 15)[..., None].repeat(3, 2)], seconds=0.0, count=1) for drawing in rough]
    pairs = {(copy.first, copy.second) for copy in copies(looks, [""] * len(looks))}
    true = {(number, len(paths) + number) for number in range(60)}
    assert len(pairs & true) >= 0.95 * len(true)
    assert len(pairs & true) >= 0.95 * len(pairs)


def test_one_camera_is_no_copy() -> None:
    rng = np.random.default_rng(0)
    paper = rng.integers(0, 255, (8, 8, 3)).repeat(16, 0).repeat(16, 1)
    looks = []
    for left in (10, 70):  # the same background, a square that moves elsewhere
        frames = np.stack([paper] * 3).astype(np.uint8)
        for moment in range(3):
            frames[moment, 30 * moment : 30 * moment + 24, left : left + 24] = 255
        looks.append(look_of(frames, seconds=1.0, count=3))
    assert copies(looks, ["", ""]) == []
    assert [copy.kind for copy in copies([looks[0]] * 2, ["a", "a"])] == ["same bytes"]


def test_like_shapes_in_other_colours_are_no_copies() -> None:
    """One drawn shape each, at nearly the same place: grey pictures without their contrast are alike."""
    rng = np.random.default_rng(0)
    looks = []
    for _ in range(40):
        background, shape = rng.integers(0, 256, (2, 3))
        frames = np.broadcast_to(background, (1, 64, 64, 3)).astype(np.uint8).copy()
        top, left = rng.integers(20, 24, 2)
        frames[:, top : top + 24, left : left + 24] = shape
        looks.append(look_of(frames, seconds=0.0, count=1))
    grey = np.stack([look.large.reshape(-1) for look in looks])
    assert (np.abs(np.corrcoef(grey)) > 0.98).mean() > 0.05
    assert copies(looks, [""] * 40) == []


def test_wrong_labels_rank_first() -> None:
    rng = np.random.default_rng(0)
    classes, rows = 10, 1000
    true = rng.integers(classes, size=rows)
    labels = true.copy()
    wrong = rng.choice(rows, rows // 20, replace=False)
    labels[wrong] = (true[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    logits = rng.normal(0, 1, (rows, classes))
    logits[np.arange(rows), true] += np.where(true == 0, 2.0, 4.0)  # of class 0 the network is less sure
    logits[np.arange(rows), labels] += 0.5  # it has learned a part of the wrong labels
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities[7] = np.nan
    ranked = [doubt.number for doubt in doubts(probabilities, labels)]
    assert 7 not in ranked
    assert len(set(ranked[: rows // 10]) & set(wrong.tolist())) >= 0.8 * len(wrong)


def test_a_mirrored_copy_belongs_to_the_mirrored_class() -> None:
    names = ["push_left", "push_right", "jump"]
    files = [
        File("train", name, (name,), (None, None)) for name in ("push_left", "push_right", "push_left", "jump", "jump")
    ]
    pairs = [Copy(0, 1, "mirrored", 1.0), Copy(0, 2, "cut and mirrored", 1.0), Copy(3, 4, "mirrored", 1.0)]
    pairs += [Copy(0, 3, "mirrored", 1.0), Copy(1, 2, "re-encoded", 1.0)]
    of_kind = {
        each.kind: each.files
        for each in findings(files, [Seen(None)] * 5, pairs, class_names=names, settings=Settings())
    }
    assert of_kind["mirrored copies with one label"] == ((0, 2),)
    assert of_kind["copies with other labels"] == ((0, 3), (1, 2))
    assert of_kind["copies"] == ((3, 4),)


def test_a_value_without_its_decimal_point_is_named() -> None:
    values = np.random.default_rng(0).normal(17, 2, (150, 2))
    values[7, 1] = 5000
    (finding,) = far_values(["age", "angle"], values)
    assert finding.files == ((7,),)
    assert finding.remarks == ("angle 5000",)
    assert list(far_values(["age"], np.full((9, 1), 3.0))) == []


def test_command_names_planted_faults(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "my \u00fcber digits"
    shutil.copytree(digits, root)
    source = next((root / "train" / "grow").glob("*.mp4"))
    encode(root / "val" / "grow" / "leak.mp4", frames_of(source), 16)
    (root / "train" / "grow" / "broken.mp4").write_bytes(b"no video")
    for split, name in (("val", "leak"), ("train", "broken")):
        with (root / f"{split}.csv").open("a", newline="") as file:
            csv.writer(file).writerow([f"{split}/grow/{name}.mp4", "grow"])
    arguments = ["data", "audit", str(root), "--data.augment.flip_probability", "0.5", "--jobs", "2"]
    with pytest.raises(SystemExit, match="1"):
        main([*arguments, "--json", "--strict"])
    audit = json.loads(capsys.readouterr().out)
    kinds = {finding["kind"]: finding for finding in audit["findings"]}
    assert [Path(path).name for path in kinds["copies across splits"]["files"][0]["paths"]] == [source.name, "leak.mp4"]
    assert [Path(path).name for path in kinds["unreadable"]["files"][0]["paths"]] == ["broken.mp4"]
    assert "move_left" in kinds["flipped directions"]["text"]
    page = tmp_path / "audit.html"
    main([*arguments, "--out", str(page)])
    assert "leak.mp4" in page.read_text()
    assert "http://" not in page.read_text()


def test_a_second_or_interrupted_audit_reads_only_what_is_new(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits / "train" / "grow", tmp_path / "grow")
    paths = sorted((tmp_path / "grow").glob("*.mp4"))
    numbers_read: list[Path] = []
    share = reading._share
    monkeypatch.setattr(
        reading,
        "_share",
        lambda files, numbers, *others: (numbers_read.extend(numbers), share(files, numbers, *others))[1],
    )

    def audit(count: int) -> tuple[list[str], list[Seen]]:
        numbers_read.clear()
        cache = LookCache(cache_of(tmp_path))
        reads = see(paths[:count], is_video=True, limits=Limits(), jobs=1, cache=cache)
        cache.close()
        return [paths[number].name for number in numbers_read], reads

    assert audit(5)[0] == [path.name for path in paths[:5]]
    names, reads = audit(len(paths))
    assert names == [path.name for path in paths[5:]]
    write(paths[2], frames_of(paths[7]), 20)
    paths[3].write_bytes(b"no video")
    names, again = audit(len(paths))
    assert names == [paths[2].name, paths[3].name]
    assert again[3].fault
    for earlier, read in zip(again[4:], reads[4:], strict=True):
        assert earlier.digest == read.digest
        assert all(np.array_equal(a, b) for a, b in zip(earlier.look, read.look, strict=True))
    cache_of(tmp_path).write_bytes(b"no database, but long enough to be taken for one" * 100)
    assert len(audit(4)[0]) == 4


def test_looks_of_videos_have_their_lengths(digits: Path) -> None:
    look = video_look(next(digits.rglob("*.mp4")))
    assert look.size == (64, 64)
    assert look.frames == 16
    assert look.seconds == pytest.approx(1.0)


def test_recordings_in_two_splits_are_named_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, generator = tmp_path / "games", np.random.default_rng(0)
    parts = [("train", game) for game in (0, 1, 2)] + [("val", game) for game in (2, 3)]
    for number in range(4):
        for label in ("goal", "pass"):
            for split, game in parts:
                place = root / split / label / f"game{game}_{number:04}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(place)
    source = ["data", "audit", str(root), "--json", "--jobs", "1"]
    main(source)
    findings = {entry["kind"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    (group,) = findings["groups across splits"]["files"]
    assert group["remark"] == "game2"
    assert len(group["paths"]) == 16
    main([*source, "--data.group", "none"])
    assert "groups across splits" not in capsys.readouterr().out


def test_frames_of_a_video_in_two_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, generator = tmp_path / "frames", np.random.default_rng(0)
    for split, videos in (("train", (0, 1, 2)), ("val", (2, 3))):
        for label in ("goal", "pass"):
            for video in videos:
                for frame in range(2):
                    place = root / split / label / f"{label} {video}" / f"{split == 'val'}{frame:04}.png"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(place)
    main(["data", "audit", str(root), "--json", "--jobs", "1"])
    out, err = capsys.readouterr()
    findings = {entry["kind"]: entry for entry in json.loads(out)["findings"]}
    assert [group["remark"] for group in findings["groups across splits"]["files"]] == ["goal/goal 2", "pass/pass 2"]
    assert "10 folders of numbered files, such as train/goal/goal 0, stay together" in err
    assert "the plan for" not in err
