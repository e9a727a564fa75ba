"""`mvrec extract`: which files it writes where, again and in parts, and what it says of bad input."""

import json
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

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

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from exported_runs import network_node, save_run


@pytest.fixture(scope="module")
def run_dir(digits_run):
    """A run of a tiny video network on moving digits, which is only read."""
    return digits_run.folder


@pytest.fixture
def videos(tmp_path):
    """A folder with three videos in folders of their own, two of one name."""
    folder = tmp_path / "my videos"
    for name in ("läuft/a.mp4", "springt/a.mp4", "springt/b.MKV"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, num_frames=40, size=(64, 80))
    return folder


def extract(*arguments):
    """Exit code of the command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as leave:
        return leave.code
    return 0


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


NAMES = [
    "extract.json",
    *(f"{name}{end}" for name in ("läuft/a.mp4", "springt/a.mp4", "springt/b.MKV") for end in (".json", ".npy")),
]


def test_a_folder(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert extract(videos, "--ckpt", run_dir, "-o", out) == 0
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
    arguments = [videos, "--ckpt", run_dir, "-o", out, "--stage", "0", "--pool", "spatial", "--format", "safetensors"]
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


def test_other_settings(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert extract(videos, "--ckpt", run_dir, "-o", out) == 0
    changes = [(["--stage", "1"], "stage None and not 1"), (["--window", "0.5"], "window_seconds None and not 0.5")]
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "checkpoints" / "best.ckpt").unlink()
    checkpoint = torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["epoch"] += 1
    torch.save(checkpoint, other / "checkpoints" / "last.ckpt")
    changes.append((["--ckpt", other], "checkpoint_sha256 "))
    before = (out / "läuft" / "a.mp4.npy").read_bytes()
    for options, message in changes:
        with pytest.raises(UserError, match=f"holds features with {message}.*: choose another folder, or --overwrite"):
            extract(videos, "--ckpt", run_dir, "-o", out, *options)
    assert (out / "läuft" / "a.mp4.npy").read_bytes() == before
    capsys.readouterr()
    assert extract(videos, "--ckpt", run_dir, "-o", out, "--stage", "1", "--pool", "none", "--overwrite") == 0
    assert "3 written, 0 were there" in capsys.readouterr().out
    assert np.load(out / "läuft" / "a.mp4.npy").ndim == 5


def test_shards_are_disjoint_and_together_all(run_dir, videos, tmp_path, capsys):
    parts = []
    for shard in (1, 2, 3, 4):
        out = tmp_path / f"out {shard}"
        assert extract(videos, "--ckpt", run_dir, "-o", out, "--shard", f"{shard}/4") == 0
        parts += [name for name in written(out) if name.endswith(".npy")]
    assert sorted(parts) == [name for name in NAMES if name.endswith(".npy")]
    for shard in (2, 1):  # into one folder
        assert extract(videos, "--ckpt", run_dir, "-o", tmp_path / "all", "--shard", f"{shard}/2") == 0
    assert written(tmp_path / "all") == NAMES
    assert "(shard 1 of 2): 2 written" in capsys.readouterr().out


def test_windows(run_dir, tmp_path):
    path = write_video(tmp_path / "long.mp4", num_frames=75, fps=30)
    assert extract(path, "--ckpt", run_dir, "-o", tmp_path / "out", "--window", "1", "--stride", "0.5") == 0
    assert np.load(tmp_path / "out" / "long.mp4.npy").shape[0] == 4
    record = json.loads((tmp_path / "out" / "long.mp4.json").read_text())
    assert record["start_seconds"] == [0, 0.5, 1, 1.5]
    assert record["end_seconds"] == [1, 1.5, 2, 2.5]


def test_what_cannot_be_read_is_named_and_the_rest_is_done(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    truncate(videos / "läuft" / "a.mp4", 0.3)
    (videos / "springt" / "empty.mp4").touch()
    assert extract(videos, "--ckpt", run_dir, "-o", out) == 1
    text = capsys.readouterr()
    assert text.out.endswith("2 written, 0 were there, 2 could not be read\n")
    bad = [line for line in text.err.splitlines() if "unreadable" in line]
    assert len(bad) == 2
    assert bad[0].startswith(f"mvrec: unreadable: {videos}/läuft/a.mp4: ")
    assert bad[1] == f"mvrec: unreadable: {videos}/springt/empty.mp4: is empty (0 bytes)"
    assert [name for name in written(out) if name.endswith(".npy")] == ["springt/a.mp4.npy", "springt/b.MKV.npy"]


def test_images(tmp_path, capsys):
    ckpt = ["--ckpt", save_run(tmp_path / "run/checkpoints/best.ckpt", network_node("smallest"))]
    for name in ("pictures/one.png", "pictures/deep/zwei.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (230, 300, 3), dtype=np.uint8)).save(path)
    assert extract(tmp_path / "pictures", *ckpt, "-o", tmp_path / "out", "--stage", "-1", "--pool", "none") == 0
    shapes = {np.load(tmp_path / "out" / name).shape for name in ("one.png.npy", "deep/zwei.jpg.npy")}
    assert shapes == {(1, 12, 8, 8)}
    with pytest.raises(UserError, match="--window is for videos"):
        extract(tmp_path / "pictures", *ckpt, "-o", tmp_path / "w", "--window", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "2"], "no stage 2: this network has the stages 0..1"),
        (["--pool", "none"], "without --stage there is one vector per clip"),
        (["--stride", "1"], "add --window"),
        (["--window", "0"], "--window must be above 0"),
        (["--shard", "0/2"], "--shard must be I/N with I in 1..N, such as 2/8, got '0/2'"),
        (["--shard", "3/2"], "got '3/2'"),
        (["--shard", "half"], "got 'half'"),
        (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--ckpt", "no_such_run"], "there is no checkpoint 'no_such_run'"),
    ],
)
def test_bad_options(run_dir, videos, tmp_path, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        extract(videos, "--ckpt", run_dir, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_bad_sources(run_dir, videos, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "*.mp4", tmp_path / "nothing.mp4"):
        with pytest.raises(UserError, match=re.escape(str(source.name))):
            extract(source, "--ckpt", run_dir, "-o", tmp_path / "out")
    with pytest.raises(UserError, match=r"would both be written as a\.mp4"):
        extract(videos / "läuft" / "a.mp4", videos / "springt" / "a.mp4", "--ckpt", run_dir, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/extract.json: "):
        extract(videos, "--ckpt", run_dir, "-o", tmp_path / "file")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "extract.json").write_text("not mvrec's")
    with pytest.raises(UserError, match="was not written by mvrec"):
        extract(videos, "--ckpt", run_dir, "-o", tmp_path / "foreign")


def test_where_features_go(videos, tmp_path, monkeypatch):
    def names(*sources):
        return sorted(map(str, output_names([str(source) for source in sources], kind=VIDEOS)))

    everything = ["läuft/a.mp4", "springt/a.mp4", "springt/b.MKV"]
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


def test_a_full_disk(run_dir, videos, tmp_path):
    """Files of this process may not grow beyond 20 kB for a moment: the record fits and the features do not."""
    out = tmp_path / "out"
    arguments = [videos, "--ckpt", run_dir, "-o", out, "--stage", "0", "--pool", "none", "--window", "0.2"]
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


def test_a_killed_run_leaves_no_half_file(run_dir, tmp_path, capsys):
    """Killed at any moment, what has a name is whole, and the next run ends with all that an undisturbed one writes."""
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for number in range(8):
        write_video(folder / f"{number:02d}.mp4", num_frames=60)
    arguments = [folder, "--ckpt", run_dir, "-o", out, "--window", "0.2", "--stage", "0", "--pool", "none"]
    process = warm.start("extract", *arguments)
    while not list(out.glob("*.json"))[2:] and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = list(out.glob("[!.]*.npy"))
    assert 1 <= len(done) < 8
    for path in done:
        assert np.load(path).shape[0] == 10
    assert extract(*arguments) == 0
    assert re.search(r"\d+ written, [1-9]\d* were there", capsys.readouterr().out)
    undisturbed = tmp_path / "undisturbed"
    assert extract(*[undisturbed if argument == out else argument for argument in arguments]) == 0
    for path in undisturbed.glob("*.npy"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_help_tells_what_the_command_is_for(capsys):
    assert extract("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--shard" in text
    assert "Write features of videos or images" in text
