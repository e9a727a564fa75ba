"""imagenet.py on three small tars like ImageNet's."""

import hashlib
import tarfile

import pytest
from prep_support import WNIDS, hash_of, hidden, jpeg, read_json, run, stamps, tree, write_devkit, write_imagenet

from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import read_rows
from mvrec.prep import imagenet

VAL_WNIDS = ("n00000003", "n00000001", "n00000002", "n00000002", "n00000001", "n00000003")


@pytest.fixture
def root(tmp_path):
    return write_imagenet(tmp_path / "imagenet")


def test_lists_name_every_image_in_place_with_the_right_class(root):
    code, text, err = run("imagenet", root, "--no-md5", "--any-size")
    assert code == 0, err
    assert (root / "classes.txt").read_text().split() == list(WNIDS)
    assert run("imagenet", root, "--no-md5", "--any-size", "--out", root.parent / "lists")[0] == 0
    for lists in (root, root.parent / "lists"):  # with absolute paths
        train = find_split(lists, "train", kind=IMAGES)
        assert len(train) == 12
        for sample in train:
            number = int(sample.path.name.rpartition("_")[2].removesuffix(".JPEG"))
            assert sample.path.read() == jpeg(seed=hash_of(train.class_names[sample.label], number))
    val = find_split(root, "val", kind=IMAGES)
    # The kit's ids 1, 2, 3 are the classes number 2, 0, 1 in the order of WordNet ids.
    assert [sample.label for sample in val] == [2, 0, 1, 1, 0, 2]
    assert [sample.path.read() for sample in val] == [jpeg(seed=1001 + number) for number in range(6)]
    assert [row.label for row in read_rows(root / "val.csv")] == list(VAL_WNIDS)
    assert "train" in text
    report = read_json(root / "imagenet.json")
    assert report["images"]["train"] == dict.fromkeys(WNIDS, 4)
    assert hidden(root) == []


def test_sums_are_compared_and_both_are_named(root, monkeypatch):
    code, _, err = run("imagenet", root, "--any-size")
    digest = hashlib.md5((root / imagenet.TRAIN).read_bytes()).hexdigest()
    assert code == 2
    assert f"its md5 is {digest}, the published one is 1d675b47d978889d74fa0da5fadfb00e" in err
    assert not (root / "train.csv").exists()
    sums = {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in imagenet.MD5}
    monkeypatch.setattr(imagenet, "MD5", sums)
    assert run("imagenet", root, "--any-size")[0] == 0
    with monkeypatch.context() as patch:  # known, so that nothing is read again
        patch.setattr(imagenet.hashlib, "md5", lambda **_: pytest.fail("read again"))
        assert run("imagenet", root, "--any-size")[0] == 0
    content = bytearray((root / imagenet.VAL).read_bytes())
    content[600] ^= 1
    (root / imagenet.VAL).write_bytes(content)
    assert run("imagenet", root, "--any-size")[0] == 2


def test_unpacked_images_are_the_tars_and_stay(root, tmp_path):
    out = tmp_path / "out"
    arguments = ["imagenet", root, "--no-md5", "--any-size", "--unpack", out, "--workers", 2]
    code, _, err = run(*arguments)
    assert code == 0, err
    train = find_split(out, "train", kind=IMAGES)
    assert [train.class_names[sample.label] for sample in train] == sorted(WNIDS * 4)
    for number, wnid in enumerate(VAL_WNIDS, start=1):
        path = out / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        assert path.read_bytes() == jpeg(seed=1000 + number)
    first, before = tree(out), stamps(out / "train")
    assert run(*arguments)[0] == 0
    assert stamps(out / "train") == before
    victim = out / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    victim.write_bytes(bytes(victim.stat().st_size))  # what a power cut may leave
    assert run(*arguments)[0] == 0
    assert tree(out) == first


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_a_damaged_tar_is_one_line(root, name):
    path = root / name
    content = path.read_bytes()
    path.unlink()
    for damaged in (None, content[: len(content) // 2 + 77], b"", b"\x07" * 4096):
        if damaged is not None:
            path.write_bytes(damaged)
        code, _, err = run("imagenet", root, "--no-md5", "--any-size")
        assert code == 2
        assert err.splitlines()[-1].startswith("mvrec prep imagenet: error: ")
        assert name in err.splitlines()[-1]
        assert not (root / "train.csv").exists()


def test_tars_and_a_kit_that_contradict_each_other_are_refused(root):
    def refusal(*more):
        code, _, err = run("imagenet", root, "--no-md5", *more)
        assert code == 2
        return err

    assert "12 images of 3 classes instead of 1281167 of 1000" in refusal()
    path = root / imagenet.TRAIN
    with tarfile.open(path) as tar:
        member = tar.getmembers()[1]
    path.write_bytes(path.read_bytes()[: member.offset_data + member.size])  # cut where a class ends
    assert "1 of 3 classes have no train images, n00000001" in refusal("--any-size")
    write_devkit(root, (1, 2, 3, 7, 2, 1))
    assert "'7' is not the number of a class" in refusal("--any-size")
    write_devkit(root, (1, 2, 3))
    assert "is not one of the 3 validation images" in refusal("--any-size")
