"""Data sets with lists of their own: UCF101, HMDB51, Something-Something, ImageNet's tars, plain folders."""

import inspect
import io
import json

import numpy as np
import pytest
from data_trees import contents, make, tar_of
from PIL import Image

from mvrec.data import HMDB51, UCF101, ImageFolder, ImageNet, SomethingSomething, VideoFolder
from mvrec.data.sets.imagenet_devkit import validation_wnids
from mvrec.data.views.targets import ClassIndex
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError


def test_a_signature_has_the_arguments_of_the_parent_after_its_own():
    names = list(inspect.signature(SomethingSomething).parameters)
    parents = list(inspect.signature(VideoFolder.__mro__[1]).parameters)
    assert names[:2] == ["root", "annotations"]
    assert sorted(names) == sorted([*parents, "annotations", "test_split"])
    clip = inspect.signature(SomethingSomething).parameters["clip"].default
    assert clip.sampling == "segments"  # its own default, not the parent's


def assert_refused(data, message):
    with pytest.raises(UserError, match=message):
        data.setup("fit")


UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_a g1.avi 1\r\nApplyLipstick/v_b.avi 2\r\n\r\n",
    "testlist01.txt": "ApplyLipstick/v_c.avi\r\n",
    "trainlist03.txt": "ApplyLipstick/v_c.avi 2\nApplyEyeMakeup/v_d.avi 1\n",
    "testlist03.txt": "ApplyEyeMakeup/v_a g1.avi\n",
}


@pytest.mark.parametrize(
    ("lists", "videos"), [("ucfTrainTestlist/", "UCF-101/"), ("", "videos/"), ("annotations/", "")]
)
def test_ucf101_reads_the_lists_of_a_split(tmp_path, lists, videos):
    make(tmp_path, {**{f"{lists}{name}": text for name, text in UCF.items()}, f"{videos}ApplyLipstick/v_c.avi": ""})
    data = UCF101(str(tmp_path))
    assert contents(data, "train") == [
        (f"{videos}ApplyEyeMakeup/v_a g1.avi", "ApplyEyeMakeup"),
        (f"{videos}ApplyLipstick/v_b.avi", "ApplyLipstick"),
    ]
    assert data.class_names == ("ApplyEyeMakeup", "ApplyLipstick")
    assert contents(data, "val") == [(f"{videos}ApplyLipstick/v_c.avi", "ApplyLipstick")]
    third = contents(UCF101(str(tmp_path), split=3), "test", "test")
    assert third == [(f"{videos}ApplyEyeMakeup/v_a g1.avi", "ApplyEyeMakeup")]
    assert_refused(UCF101(str(tmp_path), split=2), r"expected .*trainlist02\.txt and .*testlist02\.txt")


def test_broken_lists_of_ucf101_are_refused(tmp_path):
    for line, message in {
        "ApplyEyeMakeup/v.avi 2": r"class 'ApplyEyeMakeup' is not number 2 of classInd\.txt",
        "v.avi 1": r"expected `<class name>/<video>`, got 'v.avi'",
        "ApplyEyeMakup/v.avi 1": "'ApplyEyeMakup' is not one of the 2 classes; did you mean 'ApplyEyeMakeup'",
    }.items():
        make(tmp_path, {**UCF, "trainlist01.txt": f"\n{line}\n"})
        assert_refused(UCF101(str(tmp_path)), rf"trainlist01\.txt:2: {message}")


HMDB = {
    "run_test_split1.txt": "a#1!.avi 1 \nb b.avi 2 \nc.avi 0 \n",
    "brush_hair_test_split1.txt": "d.avi 1 \ne.avi 2 \n",
    "run_test_split2.txt": "a#1!.avi 2\nb b.avi 1\n",
    "brush_hair_test_split2.txt": "d.avi 1\ne.avi 0\n",
}


@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits/", ""])
def test_hmdb51_reads_the_lists_of_a_split(tmp_path, lists):
    make(tmp_path, {**{f"{lists}{name}": text for name, text in HMDB.items()}, "hmdb51_org/run/c.avi": ""})
    first, second = (HMDB51(str(tmp_path), split=split) for split in (1, 2))
    eye, run = "hmdb51_org/brush_hair", "hmdb51_org/run"
    assert contents(first, "train") == [(f"{eye}/d.avi", "brush_hair"), (f"{run}/a#1!.avi", "run")]
    assert contents(first, "val") == [(f"{eye}/e.avi", "brush_hair"), (f"{run}/b b.avi", "run")]
    assert contents(second, "val") == [(f"{run}/a#1!.avi", "run")]
    assert first.class_names == second.class_names == ("brush_hair", "run")
    assert_refused(HMDB51(str(tmp_path), split=3), r"expected .*/<class name>_test_split3\.txt")


def test_broken_lists_of_hmdb51_are_refused(tmp_path):
    for line in ("a.avi", "a.avi 3", "1"):
        make(tmp_path, {**HMDB, "run_test_split1.txt": f"\n{line}\n"})
        assert_refused(HMDB51(str(tmp_path)), r"run_test_split1\.txt:2: expected `<video> 0`, `1` or `2`")


LABELS = {"Pushing something; left to right": "1", "Holding something": "0"}


def something(prefix="something-something-v2-", **changes):
    def entry(number, template):
        return {"id": str(number), "label": "a cup", "template": template, "placeholders": ["cup"]}

    files = {
        "labels.json": LABELS,
        "train.json": [entry(7, "Pushing [something]; left to right"), entry(8, "Holding [something]")],
        "validation.json": [entry(9, "Holding [something]")],
        **changes,
    }
    texts = {name: content if isinstance(content, str) else json.dumps(content) for name, content in files.items()}
    return {f"labels/{prefix}{name}": text for name, text in texts.items()}


@pytest.mark.parametrize(
    ("prefix", "videos"), [("something-something-v2-", "20bn-something-something-v2/"), ("", "videos/"), ("", "")]
)
def test_something_something_reads_templates_as_classes(tmp_path, prefix, videos):
    make(tmp_path, {**something(prefix), f"{videos}9.webm": "", "labels/test-answers.csv": "5;Holding something\n"})
    data = SomethingSomething(str(tmp_path))
    assert contents(data, "train") == [
        (f"{videos}7.webm", "Pushing something; left to right"),
        (f"{videos}8.webm", "Holding something"),
    ]
    assert data.class_names == ("Holding something", "Pushing something; left to right")
    assert data.target_type is ClassIndex
    assert contents(data, "val") == contents(data, "test", "test") == [(f"{videos}9.webm", "Holding something")]
    assert data.clip.sampling == "segments"
    assert data.augment.flip_probability == 0
    with_answers = SomethingSomething(str(tmp_path), test_split="test")
    assert contents(with_answers, "test", "test") == [(f"{videos}5.webm", "Holding something")]


def test_flips_of_left_and_right_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.augment\.flip_probability must be 0, got 0\.5"):
        SomethingSomething(str(tmp_path), augment=Augment())


def test_broken_files_of_something_something_are_refused(tmp_path):
    for name, content, message in (
        ("labels.json", {"a": "0", "b": "2"}, r": its 2 labels are not numbered 0\.\.1"),
        ("labels.json", {"a": "0", "b": "0"}, ": its 2 labels are not numbered"),
        ("labels.json", [], ": expected a JSON object"),
        ("labels.json", "{", ": not JSON"),
        ("train.json", {}, ": expected a JSON array"),
        ("train.json", [], ": no videos in it"),
        ("train.json", [{"id": "1"}], r"\[0\]: expected an object with the texts `id` and `template`"),
        ("train.json", [{"id": "1", "template": "Holding [somethin]"}], r"\[0\]: 'Holding somethin' .*; did you mean"),
    ):
        make(tmp_path, something(**{name: content}))
        assert_refused(SomethingSomething(str(tmp_path)), rf"{name}{message}")
    assert_refused(SomethingSomething(str(tmp_path), annotations=str(tmp_path)), r"labels\.json: No such file")


def jpeg(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 48, 3), level % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


KIT = "ILSVRC2012_devkit_t12"


def devkit(truth="1\n2\n3\n1\n"):
    savemat = pytest.importorskip("scipy.io").savemat
    columns = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    # As in the real kit, the numbers are not the places in the sorted ids; 4 is no class but a node above some.
    rows = [(number, wnid, "words", 0) for number, wnid in ((1, "n03"), (2, "n01"), (3, "n02"))] + [(4, "n00", "x", 2)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=columns).reshape(-1, 1)})
    return {
        f"{KIT}/data/meta.mat": meta.getvalue(),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


WNIDS = ("n01", "n02", "n03")
TRAIN = {f"{wnid}.tar": tar_of({f"{wnid}_{n}.JPEG": jpeg(40 * n) for n in (10, 2)}) for wnid in ("n02", "n01", "n03")}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(20 * number) for number in (3, 1, 2, 4)}
TARS = {"ILSVRC2012_img_train.tar": tar_of(TRAIN), "ILSVRC2012_img_val.tar": tar_of(VAL)}


def val_classes(root):
    return [name for _, name in contents(ImageNet(str(root)), "val")]


def packed(*truth):
    return {f"{KIT}.tar.gz": tar_of(devkit(*truth), "w:gz")}


def test_imagenet_in_its_tars_with_a_kit_elsewhere(tmp_path):
    root = make(tmp_path / "imagenet", TARS)
    kit = make(tmp_path, packed()) / f"{KIT}.tar.gz"
    data = ImageNet(str(root), devkit=str(kit), size=32, batch_size=4, num_workers=0)
    data.prepare_data()
    assert sorted(path.name for path in root.glob("*.npz")) == [f"{name}.index.npz" for name in TARS]
    assert contents(data, "train") == [
        (f"ILSVRC2012_img_train.tar/{wnid}.tar/{wnid}_{n}.JPEG", wnid) for wnid in WNIDS for n in (10, 2)
    ]
    # 1 is n03: by the sorted ids it would have been n01.
    assert [label for _, label in contents(data, "val")] == ["n03", "n01", "n02", "n03"]
    for sample, number in zip(data.index("val"), (1, 2, 3, 4), strict=True):
        assert sample.path.read() == VAL[f"ILSVRC2012_val_{number:08d}.JPEG"]
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.targets.tolist() == [2, 0, 1, 2]
    assert np.allclose(batch.clips.float().mean((1, 2, 3)), [20, 40, 60, 80], atol=2)


def test_the_val_tar_needs_a_whole_kit_or_folders_inside_or_beside_it(tmp_path):
    make(tmp_path, TARS)
    assert_refused(ImageNet(str(tmp_path)), r"img_val\.tar: its images have no labels: put ILSVRC2012_devkit_t12\.tar")
    make(tmp_path, packed("1\n2\n3\n"))
    assert_refused(ImageNet(str(tmp_path)), r"img_val\.tar: 'ILSVRC2012_val_00000004\.JPEG' is not .*00000003\.JPEG")
    make(tmp_path, {"ILSVRC2012_img_val.tar": tar_of({f"val/n0{n}/x{n}.JPEG": jpeg(n) for n in (2, 1)})})  # made anew
    assert val_classes(tmp_path) == ["n01", "n02"]
    make(tmp_path, [f"val/{wnid}/x.JPEG" for wnid in WNIDS])
    assert val_classes(tmp_path) == ["n01", "n02", "n03"]


def test_an_unsorted_val_folder_gets_the_labels_of_an_unpacked_kit(tmp_path):
    make(tmp_path, [*(f"train/{wnid}/x.JPEG" for wnid in WNIDS), *(f"val/{name}" for name in VAL)])
    make(tmp_path, devkit())
    assert val_classes(tmp_path) == ["n03", "n01", "n02", "n03"]


def test_broken_development_kits_are_refused(tmp_path):
    no_kit = ": not ImageNet's development kit: "
    kits = [
        ({"readme.txt": b""}, r".*kit: no ILSVRC2012_validation_ground_truth\.txt in it"),
        (devkit("1\n4\n"), r".*ground_truth\.txt:2: '4' is not the number of a class in meta\.mat"),
        (devkit() | {f"{KIT}/data/meta.mat": b"broken"}, r".*meta\.mat: not the list of ImageNet's classes"),
    ]
    for files, message in kits:
        make(tmp_path / "kit", files)
        make(tmp_path, {"kit.tar.gz": tar_of(files, "w:gz"), "broken.tar.gz": b"\x1f\x8b broken"})
        for name, words in (
            ("kit", message),
            ("kit.tar.gz", message),
            ("broken.tar.gz", no_kit),
            ("gone.tar.gz", no_kit),
        ):
            with pytest.raises(UserError, match=f"{name}{words}"):
                validation_wnids(tmp_path / name)


@pytest.mark.parametrize(("module", "ending"), [(VideoFolder, "mp4"), (ImageFolder, "png")])
def test_the_same_share_of_each_class_is_val(tmp_path, module, ending):
    names = [f"class {c}/{n:03d}.{ending}" for c in "ab" for n in range(200)]
    make(tmp_path, names)

    def split(**options):
        data = module(str(tmp_path), **options)
        train, val = ({name for name, _ in contents(data, split)} for split in ("train", "val"))
        assert train | val == set(names)
        assert not train & val
        assert data.class_names == ("class a", "class b")
        return val

    val = split()
    assert len(val) == 40
    assert sum(name.startswith("class a") for name in val) == 20
    assert split() == val
    assert val < split(val_fraction=0.3)
    names += [f"class a/new {n}.{ending}" for n in range(20)]
    make(tmp_path, names[-20:])
    assert len(split() & val) > 35
    assert {name for name, _ in contents(module(str(tmp_path)), "test", "test")} == split()


def test_small_classes_have_both_splits_unless_the_share_is_0(tmp_path):
    make(tmp_path, [f"{c}/{n}.mp4" for c in "abcdefgh" for n in range(2)] + ["single/x.mp4"])
    for fraction in (0.001, 0.5, 0.999):
        data = VideoFolder(str(tmp_path), val_fraction=fraction)
        data.setup("fit")
        assert data.index("train").class_counts().tolist() == [1] * 9
        assert data.index("val").class_counts().tolist() == [1] * 8 + [0]
    data = VideoFolder(str(tmp_path), val_fraction=0.0)
    assert len(contents(data, "train")) == 17
    with pytest.raises(UserError, match=r"has no split 'val': data\.val_fraction is 0"):
        data.index("val")
    for fraction in (-0.1, 1.0):
        with pytest.raises(UserError, match=r"data\.val_fraction must lie in 0\.\.1"):
            VideoFolder(str(tmp_path), val_fraction=fraction)


def folds_of(root, number, module=VideoFolder, **options):
    """The validated files of each fold, none of which is trained on."""
    validated = []
    for fold in range(1, number + 1):
        data = module(str(root), fold=f"{fold}/{number}", **options)
        train, val = ([name for name, _ in contents(data, split)] for split in ("train", "val"))
        assert not set(train) & set(val)
        validated.append(val)
    return validated


def test_each_file_is_validated_in_one_fold_and_each_class_is_spread_evenly(tmp_path):
    names = [f"{c}/{n}.mp4" for c, count in (("ж b", 7), ("b", 5), ("c", 11)) for n in range(count)]
    make(tmp_path, names)
    validated = folds_of(tmp_path, 5)
    assert sorted(name for val in validated for name in val) == sorted(names)
    for c in ("ж b", "b", "c"):
        counts = [sum(name.startswith(f"{c}/") for name in val) for val in validated]
        assert max(counts) - min(counts) <= 1, (c, counts)
    assert sorted(map(len, validated)) == [4, 4, 5, 5, 5]
    assert folds_of(tmp_path, 5) == validated
    data = VideoFolder(str(tmp_path), fold="2/5")
    assert [name for name, _ in contents(data, "test", "test")] == validated[1]  # `mvrec test` of a run
    assert data.record()["fold"] == "2/5"


def test_folds_of_a_list_keep_the_rows_of_a_file_together(tmp_path):
    make(tmp_path, [f"{n}.mp4" for n in range(6)])
    lines = [f"{n}.mp4,{'ab'[n % 2]},{start},{start + 1}" for n in range(6) for start in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(["path,label,start,end", *lines]))
    validated = folds_of(tmp_path, 3)
    assert [len(val) for val in validated] == [6, 6, 6]
    assert sorted(name for val in validated for name in set(val)) == [f"{n}.mp4" for n in range(6)]
    lines = [f"{n}.mp4,{labels}" for n, labels in enumerate(["a", "b", "a;b"] * 2)]
    (tmp_path / "train.csv").write_text("\n".join(["path,labels", *lines]))
    assert sorted(name for val in folds_of(tmp_path, 3) for name in val) == [f"{n}.mp4" for n in range(6)]


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2/1", "a/b", "2", "-1/5", "1/5/5", ""])
def test_what_is_no_fold_is_one_line(text):
    with pytest.raises(UserError, match=r"data\.fold '.*': give a fold and their number, such as 1/5"):
        VideoFolder("x", fold=text)


def test_folds_of_few_files_or_of_data_with_a_validation_split_are_refused(tmp_path):
    make(tmp_path / "few", ["a/1.mp4", "a/2.mp4", "a/3.mp4", "b/1.mp4", "b/2.mp4"])
    with pytest.raises(
        UserError, match=r"data\.fold 1/3: class 'b' has 2 videos, fewer than the 3 folds: take 2 folds"
    ):
        VideoFolder(str(tmp_path / "few"), fold="1/3").setup("fit")
    make(tmp_path / "split", ["train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4"])
    with pytest.raises(UserError, match=r"data\.fold 1/2: .*split has its own validation split \(.*val\)"):
        VideoFolder(str(tmp_path / "split"), fold="1/2").setup("fit")


def test_splits_that_are_there_win(tmp_path):
    make(tmp_path, ["train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4"])
    data = VideoFolder(str(tmp_path))
    assert contents(data, "train") == [("train/a/1.mp4", "a"), ("train/b/2.mp4", "b")]
    assert contents(data, "test", "test") == [("test/a/3.mp4", "a")]


def test_folders_without_files_are_refused(tmp_path):
    make(tmp_path, ["a/1.mp4", "b/readme.txt"])
    assert_refused(VideoFolder(str(tmp_path)), "b: no videos in this class folder")
    expected = r"no images in it; expected .*/<class name>/<image>, or with splits"
    assert_refused(ImageFolder(str(tmp_path / "a")), expected)
    (tmp_path / "b/readme.txt").unlink()
    assert_refused(VideoFolder(str(tmp_path)), "b: no videos in this class folder, it is empty: remove it, or put")
    make(tmp_path, ["b/1.mp4"])
    assert_refused(VideoFolder(str(tmp_path)), "each class has a single video, none is left for validation: add some")
