"""`mvrec extract`: which files it writes where, again and in parts, and what it says of bad input."""

import json
import re
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


def test_a_folder_and_again_only_what_has_changed(run_dir, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert extract(videos, run_dir, out) == 0
    assert capsys.readouterr().out == f"{out}: 3 written, 0 were there, 0 could not be read\n"
    assert written(out) == NAMES
    recogniser = load_recogniser(run_dir)
    with torch.no_grad():
        views = recogniser.views(videos / "springt/b.MKV")
        features = recogniser.backbone.forward_features(recogniser.normalised(views)).numpy()
    np.testing.assert_allclose(np.load(out / "springt/b.MKV.npy"), features, rtol=1e-4, atol=1e-5)
    record = json.loads((out / "springt/b.MKV.json").read_text())
    assert record["settings"] == json.loads((out / "extract.json").read_text())
    assert record["end_seconds"][0] > record["start_seconds"][0]

    before = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    (out / "springt/a.mp4.npy").unlink()
    write_video(videos / "springt/c.mp4", num_frames=20)
    write_video(videos / "läuft/a.mp4", num_frames=50)
    assert extract(videos, run_dir, out) == 0
    assert capsys.readouterr().out.endswith("3 written, 1 were there, 0 could not be read\n")
    remaining = [name for name in written(out) if (out / name).stat().st_mtime_ns == before.get(name)]
    assert remaining == ["extract.json", "springt/b.MKV.json", "springt/b.MKV.npy"]


def test_other_settings_are_refused_or_overwrite(run_dir, made_videos, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    assert extract(made_videos, run_dir, out) == 0
    before = (out / "läuft/a.mp4.npy").read_bytes()
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    torch.save({**checkpoint, "epoch": 99}, other)
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
    options = ["--stage", "0", "--pool", "spatial", "--format", "safetensors"]
    for shard, count in (("2/2", 1), ("1/2", 2), ("4/4", 0)):
        assert extract(made_videos, run_dir, tmp_path, *options, "--shard", shard) == 0
        text = f"(shard {shard.replace('/', ' of ')}): {count} written, 0 were there"
        assert text in capsys.readouterr().out
    assert written(tmp_path) == ["extract.json", *(f"{name}.safetensors" for name in VIDEO_NAMES)]


def test_windows_give_a_row_each_with_start_and_end(run_dir, made_videos, tmp_path):
    assert extract(made_videos / "läuft/a.mp4", run_dir, tmp_path, "--window", "0.6", "--stride", "0.3") == 0
    record = json.loads((tmp_path / "a.mp4.json").read_text())
    assert record["start_seconds"][:3] == pytest.approx([0, 0.3, 0.6])
    assert record["end_seconds"][:3] == pytest.approx([0.6, 0.9, 1.2])
    assert len(np.load(tmp_path / "a.mp4.npy")) == len(record["start_seconds"])


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


def test_images_give_maps_and_refuse_a_window(image_run, tmp_path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    (pictures / "deep").mkdir(parents=True)
    for name in ("one.png", "deep/zwei.jpg"):
        Image.new("RGB", (300, 230), (200, 30, 90)).save(pictures / name)
    assert extract(pictures, image_run, out, "--stage", "-1", "--pool", "none") == 0
    assert {np.load(path).shape for path in out.rglob("*.npy")} == {(1, 12, 8, 8)}


def test_files_of_features_are_named_by_their_place_below_the_source(videos, tmp_path, monkeypatch):
    def names(*sources):
        return sorted(map(str, output_names([str(source) for source in sources], kind=VIDEOS)))

    everything, first = [*VIDEO_NAMES], videos / "läuft/a.mp4"
    assert names(videos) == everything
    assert names(first) == ["a.mp4"]
    assert names(f"{videos}/*/a.mp4") == everything[:2]
    assert names(videos, f"{videos}/*/a.mp4", first) == everything  # each once
    (videos / "list.txt").write_text("springt/b.MKV\nläuft/a.mp4\n", encoding="utf-8")
    assert names(videos / "list.txt") == ["läuft/a.mp4", "springt/b.MKV"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(f"{videos}/läuft/a.mp4\n", encoding="utf-8")
    assert names(tmp_path / "lists" / "list.txt") == [f"{videos}/läuft/a.mp4".lstrip("/")]
    monkeypatch.chdir(videos / "läuft")
    assert names("a.mp4") == names("../läuft/a.mp4") == ["a.mp4"]
    assert names("..") == everything


def test_a_full_disk_is_one_line_and_leaves_no_features(run_dir, made_videos, tmp_path, file_size_limit):
    out = tmp_path / "out"
    arguments = [made_videos, run_dir, out, "--stage", "0", "--pool", "none", "--window", "0.2"]
    file_size_limit(20_000)  # the record fits and the features do not
    with pytest.raises(UserError, match=rf"cannot write {out}/läuft/a\.mp4\.npy: File too large"):
        extract(*arguments)
    assert written(out) == ["extract.json"]


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
    for path in undisturbed.glob("*.npy"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_table_has_the_rows_of_all_files_in_their_order_and_leaves_no_other_file(run_dir, videos, tmp_path, capsys):
    listed, table = tmp_path / "some.csv", tmp_path / "new/features.npz"
    truncate(shutil.copy(videos / "läuft/a.mp4", videos / "cut.mp4"), 0.5)
    rows = ["springt/b.MKV,springt,Bo,,", "cut.mp4,läuft,Ann,,", "läuft/a.mp4,läuft,Ann,0.2,0.9"]
    listed.write_text("path,label,subject,start,end\n" + "".join(f"my videos/{row}\n" for row in rows))
    with pytest.raises(SystemExit) as end:  # one file cannot be read
        main([str(listed), "--ckpt", str(run_dir), "--table", str(table)])
    assert end.value.code == 1
    assert "2 rows of path, start_seconds, end_seconds, label, subject and a vector of" in capsys.readouterr().out
    with np.load(table) as arrays:
        assert arrays["path"].tolist() == [
            str(tmp_path / "my videos" / name) for name in ("springt/b.MKV", "läuft/a.mp4")
        ]
        assert arrays["subject"].tolist() == ["Bo", "Ann"]
        assert 0.2 <= arrays["start_seconds"][1] < arrays["end_seconds"][1] <= 0.91
        recogniser = load_recogniser(run_dir)
        expected = recogniser.backbone.forward_features(
            recogniser.normalised(recogniser.views(videos / "springt/b.MKV"))
        )
        assert np.allclose(arrays["vector"][0], expected.detach()[0].numpy(), atol=1e-5)
    assert written(tmp_path / "new") == ["features.npz"]
