"""`mvrec extract`: which files it writes where, again and in parts, and what it says of bad input."""

import json
import re
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from video_files import truncate, write_video

from mvrec.commands.extract import main, output_names
from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser

VIDEO_NAMES = ("läuft/a.mp4", "springt/a.mp4", "springt/b.MKV")
NAMES = ["extract.json", *(f"{name}{end}" for name in VIDEO_NAMES for end in (".json", ".npy"))]


@pytest.fixture(scope="module")
def made_videos(tmp_path_factory):
    """A folder with three videos in folders of their own, two of one name, to be read."""
    folder = tmp_path_factory.mktemp("made") / "my videos"
    for name in VIDEO_NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, num_frames=40, size=(64, 80))
    return folder


@pytest.fixture
def videos(made_videos, tmp_path):
    """A copy of these videos."""
    return shutil.copytree(made_videos, tmp_path / "my videos")


def extract(source, checkpoint, output, *options):
    """Exit code of the command."""
    try:
        main([str(argument) for argument in (source, "--ckpt", checkpoint, "-o", output, *options)])
    except SystemExit as leave:
        return leave.code
    return 0


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert extract(videos, run_dir, out) == 0
    assert capsys.readouterr().out == f"{out}: 3 written, 0 were there, 0 could not be read\n"
    assert written(out) == NAMES
    features = np.load(out / "springt" / "b.MKV.npy")
    recogniser = load_recogniser(run_dir)
    with torch.no_grad():
        views = recogniser.views(videos / "springt" / "b.MKV")
        expected = recogniser.backbone.forward_features(recogniser.normalised(views))
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    record = json.loads((out / "springt" / "b.MKV.json").read_text())
    assert record["settings"] == json.loads((out / "extract.json").read_text())
    assert record["end_seconds"][0] > record["start_seconds"][0]


def test_again_only_what_is_not_there(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [videos, run_dir, out, "--stage", "0", "--pool", "spatial", "--format", "safetensors"]
    assert extract(*arguments) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    (out / "springt" / "a.mp4.safetensors").unlink()
    write_video(videos / "springt" / "c.mp4", num_frames=20)
    write_video(videos / "läuft" / "a.mp4", num_frames=50)
    capsys.readouterr()
    assert extract(*arguments) == 0
    assert capsys.readouterr().out.endswith("3 written, 1 were there, 0 could not be read\n")
    after = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    assert [name for name, changed in after.items() if before.get(name) == changed] == [
        "extract.json",
        "springt/b.MKV.safetensors",
    ]


def test_other_settings_are_refused_or_overwrite(run_dir, made_videos, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    assert extract(made_videos, run_dir, out) == 0
    before = (out / "läuft/a.mp4.npy").read_bytes()
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["epoch"] += 1
    torch.save(checkpoint, other)
    for arguments, message in (
        ((run_dir, out, "--stage", "1"), "stage None and not 1"),
        ((run_dir, out, "--window", "0.5"), "window_seconds None and not 0.5"),
        ((other, out), "checkpoint_sha256 "),
    ):
        with pytest.raises(UserError, match=f"holds features with {message}.*: choose another folder, or --overwrite"):
            extract(made_videos, *arguments)
    assert (out / "läuft/a.mp4.npy").read_bytes() == before
    capsys.readouterr()
    assert extract(made_videos, run_dir, out, "--stage", "1", "--pool", "none", "--overwrite") == 0
    assert "3 written, 0 were there" in capsys.readouterr().out
    assert np.load(out / "läuft/a.mp4.npy").ndim == 5


def test_shards_are_disjoint_and_together_all(run_dir, made_videos, tmp_path, capsys):
    for shard, count in ((2, 1), (1, 2)):
        assert extract(made_videos, run_dir, tmp_path, "--shard", f"{shard}/2") == 0
        assert f"(shard {shard} of 2): {count} written, 0 were there" in capsys.readouterr().out
    assert written(tmp_path) == NAMES
    assert extract(made_videos, run_dir, tmp_path, "--shard", "4/4") == 0  # of three files
    assert "(shard 4 of 4): 0 written, 0 were there" in capsys.readouterr().out


def test_windows(run_dir, tmp_path):
    path = write_video(tmp_path / "long.mp4", num_frames=75, fps=30)
    assert extract(path, run_dir, tmp_path / "out", "--window", "1", "--stride", "0.5") == 0
    assert np.load(tmp_path / "out/long.mp4.npy").shape[0] == 4
    record = json.loads((tmp_path / "out/long.mp4.json").read_text())
    assert record["start_seconds"] == [0, 0.5, 1, 1.5]
    assert record["end_seconds"] == [1, 1.5, 2, 2.5]


def test_what_cannot_be_read_is_named_and_the_rest_is_done(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    truncate(videos / "läuft" / "a.mp4", 0.3)
    (videos / "springt" / "empty.mp4").touch()
    assert extract(videos, run_dir, out) == 1
    text = capsys.readouterr()
    assert text.out.endswith("2 written, 0 were there, 2 could not be read\n")
    first, second = [line for line in text.err.splitlines() if "unreadable" in line]
    assert first.startswith(f"mvrec: unreadable: {videos}/läuft/a.mp4: ")
    assert second == f"mvrec: unreadable: {videos}/springt/empty.mp4: is empty (0 bytes)"
    assert [name for name in written(out) if name.endswith(".npy")] == ["springt/a.mp4.npy", "springt/b.MKV.npy"]


def test_images(image_run, tmp_path):
    for name in ("pictures/one.png", "pictures/deep/zwei.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (230, 300, 3), dtype=np.uint8)).save(path)
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    assert extract(pictures, image_run, out, "--stage", "-1", "--pool", "none") == 0
    shapes = {np.load(out / name).shape for name in ("one.png.npy", "deep/zwei.jpg.npy")}
    assert shapes == {(1, 12, 8, 8)}
    with pytest.raises(UserError, match="--window is for videos"):
        extract(pictures, image_run, tmp_path / "w", "--window", "1")


def test_a_wrong_option_or_source_is_one_line_and_leaves_nothing(run_dir, made_videos, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ((made_videos, run_dir, out, "--stage", "2"), "no stage 2: this network has the stages 0..1"),
        ((made_videos, run_dir, out, "--pool", "none"), "without --stage there is one vector per clip"),
        ((made_videos, run_dir, out, "--stride", "1"), "add --window"),
        ((made_videos, run_dir, out, "--window", "0"), "--window must be above 0"),
        ((made_videos, run_dir, out, "--shard", "0/2"), "must be I/N with I in 1..N, such as 2/8, got '0/2'"),
        ((made_videos, run_dir, out, "--shard", "3/2"), "got '3/2'"),
        ((made_videos, run_dir, out, "--shard", "half"), "got 'half'"),
        ((made_videos, run_dir, out, "--batch_size", "0"), "--batch_size must be at least 1, got 0"),
        ((made_videos, "no_such_run", out), "there is no checkpoint 'no_such_run'"),
        ((empty, run_dir, out), "empty"),
        ((tmp_path / "*.mp4", run_dir, out), "*.mp4"),
        ((tmp_path / "nothing.mp4", run_dir, out), "nothing.mp4"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            extract(*arguments)
    same = [str(made_videos / name) for name in VIDEO_NAMES[:2]]
    with pytest.raises(UserError, match=r"would both be written as a\.mp4"):
        main([*same, "--ckpt", str(run_dir), "-o", str(out)])
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/extract.json: "):
        extract(made_videos, run_dir, tmp_path / "file")
    (empty / "extract.json").write_text("not mvrec's")
    with pytest.raises(UserError, match="was not written by mvrec"):
        extract(made_videos, run_dir, empty)


def test_where_features_go(videos, tmp_path, monkeypatch):
    def names(*sources):
        return sorted(map(str, output_names([str(source) for source in sources], kind=VIDEOS)))

    everything = [*VIDEO_NAMES]
    assert names(videos) == everything
    assert names(videos / "läuft" / "a.mp4") == ["a.mp4"]
    assert names(f"{videos}/*/a.mp4") == everything[:2]
    assert names(videos, f"{videos}/*/a.mp4", videos / "läuft" / "a.mp4") == everything  # each once
    (videos / "list.txt").write_text("springt/b.MKV\nläuft/a.mp4\n", encoding="utf-8")
    assert names(videos / "list.txt") == ["läuft/a.mp4", "springt/b.MKV"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(f"{videos}/läuft/a.mp4\n", encoding="utf-8")
    assert names(tmp_path / "lists" / "list.txt") == [f"{videos}/läuft/a.mp4".lstrip("/")]
    monkeypatch.chdir(videos / "läuft")
    assert names("a.mp4") == names("../läuft/a.mp4") == ["a.mp4"]
    assert names("..") == everything


def test_a_full_disk(run_dir, made_videos, tmp_path):
    """Files of this process may not grow beyond 20 kB for a moment: the record fits and the features do not."""
    out = tmp_path / "out"
    arguments = [made_videos, run_dir, out, "--stage", "0", "--pool", "none", "--window", "0.2"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=rf"cannot write {out}/läuft/a\.mp4\.npy: File too large"):
            extract(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written(out) == ["extract.json"]
    assert extract(*arguments) == 0
    assert written(out) == NAMES


def test_a_killed_run_leaves_no_half_file(run_dir, made_videos, tmp_path, capsys):
    """Killed at any moment, what has a name is whole, and the next run ends with all that an undisturbed one writes."""
    folder, out, undisturbed = tmp_path / "videos", tmp_path / "out", tmp_path / "undisturbed"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number:02d}.mp4").symlink_to(made_videos / VIDEO_NAMES[0])
    options = ["--window", "0.2", "--stage", "0", "--pool", "none"]
    process = warm.start("extract", folder, "--ckpt", run_dir, "-o", out, *options)
    while not list(out.glob("*.json"))[2:] and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = list(out.glob("[!.]*.npy"))
    assert 1 <= len(done) < 8
    for path in done:
        assert len(np.load(path)) == 7
    assert extract(folder, run_dir, out, *options) == 0
    assert re.search(r"\d+ written, [1-9]\d* were there", capsys.readouterr().out)
    assert extract(folder, run_dir, undisturbed, *options) == 0
    assert {path.name: path.read_bytes() for path in undisturbed.glob("*.npy")} == {
        path.name: path.read_bytes() for path in out.glob("*.npy")
    }
