"""shard.py: every file once, in tars that training reads in place."""

import tarfile
from pathlib import Path

import pytest
from prep_support import hidden, read_json, run, stamps, tree, write_image, write_imagenet, write_videos
from video_files import truncate

from mvrec.data.listing.archive import list_tar
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, read_rows, write_rows
from mvrec.prep import shard
from mvrec.prep.shard import Piece, member_name, plan


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "data"
    for split, count in (("train", 11), ("val", 3)):
        for label in ("cat", "dög 走"):
            for number in range(count):
                write_image(root / split / label / f"{number} é.jpg", seed=100 * count + number)
    return root


def contents(index):
    """Bytes of the samples of an index by class and name."""
    return sorted(
        (index.class_names[sample.label], Path(sample.path.name).name, sample.path.read()) for sample in index
    )


def test_training_reads_the_same_bytes_from_shards(images, tmp_path):
    out = tmp_path / "out"
    code, text, err = run("shard", images, out, "--shard-size", "5KB", "--workers", 2)
    assert code == 0, err
    assert "train" in text
    for split in ("train", "val"):
        before, after = (find_split(root, split, kind=IMAGES) for root in (images, out))
        assert contents(after) == sorted(
            (before.class_names[s.label], s.path.name, s.path.read_bytes()) for s in before
        )
        tars = sorted((out / split).iterdir())
        assert len(tars) > 1
        assert [tar.name for tar in tars] == [f"shard-{number:06d}.tar" for number in range(len(tars))]
        sizes = [sum(1 for _ in list_tar(tar)) for tar in tars]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == len(before)
    assert hidden(out) == []


def test_shuffling_changes_the_shards_alone_and_processes_nothing(images, tmp_path):
    lists = []
    for seed, workers in ((1, 1), (1, 3), (2, 2)):
        out = tmp_path / f"out{len(lists)}"
        run("shard", images, out, "--shard-size", "5KB", "--shuffle", seed, "--workers", workers)
        lists.append([(Path(row.path).name, row.label, row.path) for row in read_rows(out / "train.csv")])
    first, last = (contents(find_split(folder, "train", kind=IMAGES)) for folder in (tmp_path / "out0", out))
    assert first == last
    assert [row[:2] for row in lists[0]] == [row[:2] for row in lists[2]]
    assert lists[0] == lists[1] != lists[2]
    assert tree(tmp_path / "out0", without=["shard.json"]) == tree(tmp_path / "out1", without=["shard.json"])


def test_a_file_of_several_rows_is_stored_once(tmp_path):
    data = tmp_path / "data"
    write_videos(data, count=2)
    rows = [Row("train/run/0.mp4", "run", 0.0, 0.2), Row("train/run/0.mp4", "run", 0.2, 0.3)]
    write_rows(data / "train.csv", [*rows, Row("train/walk/1.mp4", "walk"), Row("train/walk/1.mp4", "walk")])
    (data / "classes.txt").write_text("walk\nrun\n")
    out = tmp_path / "out"
    assert run("shard", data, out)[0] == 0
    with tarfile.open(out / "train/shard-000000.tar") as tar:
        assert tar.getnames() == ["train/run/0.mp4", "train/walk/1.mp4"]
    index = find_split(out, "train", kind=VIDEOS)
    assert len(index) == 4
    assert index.class_names == ("walk", "run")
    assert index[1].start_seconds == pytest.approx(0.2)
    assert index[0].path == index[1].path


def test_members_of_tars_become_members_of_shards(tmp_path):
    root, out = write_imagenet(tmp_path / "imagenet"), tmp_path / "out"
    run("imagenet", root, "--no-md5", "--any-size")
    assert run("shard", root, out, "--shard-size", "3KB")[0] == 0
    for split in ("train", "val"):
        before, after = (find_split(folder, split, kind=IMAGES) for folder in (root, out))
        assert contents(before) == contents(after)


def test_what_is_done_is_kept_and_what_changed_is_packed_again(images, tmp_path):
    out = tmp_path / "out"
    run("shard", images, out, "--shard-size", "5KB")
    first, before = tree(out), stamps(out / "train")
    run("shard", images, out, "--shard-size", "5KB")
    assert stamps(out / "train") == before
    truncate(out / "train/shard-000001.tar", 0.9)
    assert run("shard", images, out, "--shard-size", "5KB")[0] == 0
    assert tree(out) == first
    source = images / "train/cat/3 é.jpg"
    content = bytearray(source.read_bytes())
    content[-5] ^= 1
    source.write_bytes(content)  # as large as before
    run("shard", images, out, "--shard-size", "5KB")
    index = find_split(out, "train", kind=IMAGES)
    assert bytes(content) in {sample.path.read() for sample in index}


def test_missing_files_are_named_and_left_out_only_when_asked(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_videos(data, count=2)
    (data / "train/run/dead.mp4").symlink_to("nowhere")
    rows = [Row(f"train/run/{name}.mp4", "run") for name in ("0", "dead", "1", "gone")]
    write_rows(data / "train.csv", rows)
    code, _, err = run("shard", data, out)
    assert code == 2
    assert "train/run/gone.mp4: No such file" in err
    assert "2 of 4 files are missing" in err
    assert not out.exists()
    assert run("shard", data, out, "--skip-missing")[0] == 1
    assert len(find_split(out, "train", kind=VIDEOS)) == 2
    assert len(read_json(out / "shard.json")["missing"]) == 2


def test_a_file_that_shrinks_meanwhile_fails_its_shard_alone(tmp_path, monkeypatch):
    write_videos(tmp_path / "data", count=2)
    out, real = tmp_path / "out", shard._opened

    def shrunk(piece):
        if piece.name.endswith("run/1.mp4"):
            Path(piece.source).write_bytes(b"12")
        return real(piece)

    monkeypatch.setattr(shard, "_opened", shrunk)
    code, _, err = run("shard", tmp_path / "data", out, "--shard-size", "1KB")
    assert (code, "1 of 4 shards failed" in err) == (1, True)
    assert not (out / "train.csv").exists()
    assert hidden(out) == []


def test_a_disk_that_writes_something_else_is_noticed(tmp_path, monkeypatch):
    real = tarfile.TarFile.addfile

    def other_bytes(tar, header, file):
        real(tar, header, file)
        tar.fileobj.seek(-100, 1)
        tar.fileobj.write(b"\1")
        tar.fileobj.seek(99, 1)

    monkeypatch.setattr(tarfile.TarFile, "addfile", other_bytes)
    (tmp_path / "data/train/run").mkdir(parents=True)
    (tmp_path / "data/train/run/0.mp4").write_bytes(bytes(512))
    code, _, err = run("shard", tmp_path / "data", tmp_path / "out", "--workers", 1)
    assert (code, "reads back" in err) == (1, True)


def test_a_plan_spreads_files_evenly_under_relative_names(tmp_path):
    for count in (1, 2, 7, 100):
        pieces = [Piece(Path(str(n)), str(n), 10 + n % 7) for n in range(count)]
        for shard_bytes in (1, 10, 1000, 10**9):
            shards = plan(pieces, tmp_path, shard_bytes=shard_bytes, seed=3)
            sizes = [len(shard.pieces) for shard in shards]
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 1
            assert sorted(piece for shard in shards for piece in shard.pieces) == sorted(pieces)
    names = {
        **{"train/run/a.mp4": "train/run/a.mp4", "/data/x/a.mp4": "data/x/a.mp4", "../y/a.mp4": "y/a.mp4"},
        "img.tar/n1.tar/a.JPEG": "img/n1/a.JPEG",
    }
    assert {path: member_name(path) for path in names} == names


def test_lists_are_not_overwritten_and_files_without_a_label_are_refused(images, tmp_path):
    assert "overwritten" in run("shard", images, images)[2]
    write_image(images / "loose.jpg")
    assert "no label" in run("shard", images, tmp_path / "out")[2]
    assert not (tmp_path / "out").exists()
