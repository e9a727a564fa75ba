"""Data sets with lists of their own: UCF101, HMDB51, Something-Something, ImageNet's tars, plain folders."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from mvrec.data import HMDB51, UCF101, ImageFolder, ImageNet, SomethingSomething, VideoFolder
from mvrec.data.sets.imagenet_devkit import validation_wnids
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError


def make(root, files):
    for name, text in (files if isinstance(files, dict) else dict.fromkeys(files, "")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def contents(data, split):
    index = data.index(split)
    return [(str(sample.path).removeprefix(f"{data.root}/"), data.class_names[sample.label]) for sample in index]


# -- UCF101 -------------------------------------------------------------------------------------------------------

UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_a g1.avi 1\r\nApplyLipstick/v_b.avi 2\r\n\r\n",
    "testlist01.txt": "ApplyLipstick/v_c.avi\r\n",
    "trainlist03.txt": "ApplyLipstick/v_c.avi 2\nApplyEyeMakeup/v_d.avi 1\n",
    "testlist03.txt": "ApplyEyeMakeup/v_a g1.avi\n",
}


@pytest.mark.parametrize("lists", ["ucfTrainTestlist/", "", "annotations/"])
@pytest.mark.parametrize("videos", ["UCF-101/", "videos/", ""])
def test_ucf101_reads_the_lists_of_a_split(tmp_path, lists, videos):
    make(tmp_path, {f"{lists}{name}": text for name, text in UCF.items()})
    make(tmp_path, [f"{videos}ApplyLipstick/v_c.avi"])
    data = UCF101(str(tmp_path))
    data.setup("fit")
    assert data.class_names == ("ApplyEyeMakeup", "ApplyLipstick")
    assert contents(data, "train") == [
        (f"{videos}ApplyEyeMakeup/v_a g1.avi", "ApplyEyeMakeup"),
        (f"{videos}ApplyLipstick/v_b.avi", "ApplyLipstick"),
    ]
    assert contents(data, "val") == [(f"{videos}ApplyLipstick/v_c.avi", "ApplyLipstick")]
    third = UCF101(str(tmp_path), split=3)
    third.setup("test")
    assert contents(third, "test") == [(f"{videos}ApplyEyeMakeup/v_a g1.avi", "ApplyEyeMakeup")]
    with pytest.raises(UserError, match=r"no videos in it; expected .*trainlist02\.txt and .*testlist02\.txt"):
        UCF101(str(tmp_path), split=2).setup("fit")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ApplyEyeMakeup/v.avi 2", r"trainlist01\.txt:2: class 'ApplyEyeMakeup' is not number 2 of classInd\.txt"),
        ("v.avi 1", r"trainlist01\.txt:2: expected `<class name>/<video>`, got 'v.avi'"),
        (
            "ApplyEyeMakup/v.avi 1",
            r"trainlist01\.txt:2: 'ApplyEyeMakup' is not one of the 2 classes; did you mean 'ApplyEyeMakeup'",
        ),
    ],
)
def test_broken_lists_of_ucf101_are_refused(tmp_path, line, message):
    make(tmp_path, {**UCF, "trainlist01.txt": f"\n{line}\n"})
    with pytest.raises(UserError, match=message):
        UCF101(str(tmp_path)).setup("fit")


# -- HMDB51 -------------------------------------------------------------------------------------------------------

HMDB = {
    "run_test_split1.txt": "a#1!.avi 1 \nb b.avi 2 \nc.avi 0 \n",
    "brush_hair_test_split1.txt": "d.avi 1 \ne.avi 2 \n",
    "run_test_split2.txt": "a#1!.avi 2\nb b.avi 1\n",
    "brush_hair_test_split2.txt": "d.avi 1\ne.avi 0\n",
}


@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits/", ""])
def test_hmdb51_reads_the_lists_of_a_split(tmp_path, lists):
    make(tmp_path, {f"{lists}{name}": text for name, text in HMDB.items()})
    make(tmp_path, ["hmdb51_org/run/c.avi"])
    first, second = (HMDB51(str(tmp_path), split=split) for split in (1, 2))
    for data in (first, second):
        data.setup("fit")
        assert data.class_names == ("brush_hair", "run")
    assert contents(first, "train") == [
        ("hmdb51_org/brush_hair/d.avi", "brush_hair"),
        ("hmdb51_org/run/a#1!.avi", "run"),
    ]
    assert [name for name, _ in contents(first, "val")] == ["hmdb51_org/brush_hair/e.avi", "hmdb51_org/run/b b.avi"]
    assert [name for name, _ in contents(second, "val")] == ["hmdb51_org/run/a#1!.avi"]
    with pytest.raises(UserError, match=r"expected .*/<class name>_test_split3\.txt"):
        HMDB51(str(tmp_path), split=3).setup("fit")


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "1"])
def test_broken_lists_of_hmdb51_are_refused(tmp_path, line):
    make(tmp_path, {**HMDB, "run_test_split1.txt": f"\n{line}\n"})
    with pytest.raises(UserError, match=r"run_test_split1\.txt:2: expected `<video> 0`, `1` or `2`"):
        HMDB51(str(tmp_path)).setup("fit")


# -- Something-Something ----------------------------------------------------------------------------------------

LABELS = {"Pushing something from left to right": "1", "Holding something": "0"}


def something(prefix="something-something-v2-", **changes):
    def entry(number, template):
        return {"id": str(number), "label": "a cup", "template": template, "placeholders": ["cup"]}

    files = {
        "labels.json": LABELS,
        "train.json": [entry(7, "Pushing [something] from left to right"), entry(8, "Holding [something]")],
        "validation.json": [entry(9, "Holding [something]")],
        **changes,
    }
    return {
        f"labels/{prefix}{name}": text if isinstance(text, str) else json.dumps(text) for name, text in files.items()
    }


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
@pytest.mark.parametrize("videos", ["20bn-something-something-v2/", "videos/", ""])
def test_something_something_reads_templates_as_classes(tmp_path, prefix, videos):
    make(tmp_path, {**something(prefix), f"{videos}9.webm": "", "labels/test-answers.csv": "5;Holding something\n"})
    data = SomethingSomething(str(tmp_path))
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ("Holding something", "Pushing something from left to right")
    assert contents(data, "train") == [
        (f"{videos}7.webm", "Pushing something from left to right"),
        (f"{videos}8.webm", "Holding something"),
    ]
    assert contents(data, "val") == contents(data, "test") == [(f"{videos}9.webm", "Holding something")]
    assert data.clip.sampling == "segments"
    assert data.augment.flip_probability == 0
    labelled = SomethingSomething(str(tmp_path), test_split="test")
    labelled.setup("test")
    assert contents(labelled, "test") == [(f"{videos}5.webm", "Holding something")]


def test_flips_of_left_and_right_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.augment\.flip_probability must be 0, got 0\.5"):
        SomethingSomething(str(tmp_path), augment=Augment())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels.json": {"a": "0", "b": "2"}}, r"labels\.json: its 2 labels are not numbered 0\.\.1"),
        ({"labels.json": {"a": "0", "b": "0"}}, r"labels\.json: its 2 labels are not numbered"),
        ({"labels.json": []}, r"labels\.json: expected a JSON object"),
        ({"labels.json": "{"}, r"labels\.json: not JSON"),
        ({"train.json": {}}, r"train\.json: expected a JSON array"),
        ({"train.json": []}, r"train\.json: no videos in it"),
        ({"train.json": [{"id": "1"}]}, r"train\.json\[0\]: expected an object with the texts `id` and `template`"),
        (
            {"train.json": [{"id": "1", "template": "Holding [somethin]"}]},
            r"train\.json\[0\]: 'Holding somethin' is not one of the 2 classes; did you mean",
        ),
    ],
)
def test_broken_files_of_something_something_are_refused(tmp_path, changes, message):
    make(tmp_path, something(**changes))
    with pytest.raises(UserError, match=message):
        SomethingSomething(str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"labels\.json: No such file"):
        SomethingSomething(str(tmp_path), annotations=str(tmp_path)).setup("fit")


# -- ImageNet in tars -----------------------------------------------------------------------------------------------

# As in the real kit, the numbers are not the places in the sorted ids; 4 is no class but a node above some.
NUMBERS = {1: "n03", 2: "n01", 3: "n02"}


def tar_of(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def jpeg(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 48, 3), level % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def devkit(truth="1\n2\n3\n1\n"):
    savemat = pytest.importorskip("scipy.io").savemat
    names = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "some words", 0) for number, wnid in NUMBERS.items()] + [(4, "n00", "above", 2)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=names).reshape(-1, 1)})
    return {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


TRAIN = {f"{wnid}.tar": tar_of({f"{wnid}_{n}.JPEG": jpeg(40 * n) for n in (10, 2)}) for wnid in ("n02", "n01", "n03")}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(20 * number) for number in (3, 1, 2, 4)}


@pytest.mark.parametrize("kit", ["tar", "folder", "elsewhere"])
def test_imagenet_in_its_tars(tmp_path, kit):
    root = tmp_path / "imagenet"
    make(root, {"ILSVRC2012_img_train.tar": tar_of(TRAIN), "ILSVRC2012_img_val.tar": tar_of(VAL)})
    packed = {"ILSVRC2012_devkit_t12.tar.gz": tar_of(devkit(), "w:gz")}
    make(tmp_path if kit == "elsewhere" else root, devkit() if kit == "folder" else packed)
    elsewhere = str(tmp_path / "ILSVRC2012_devkit_t12.tar.gz") if kit == "elsewhere" else None
    data = ImageNet(str(root), devkit=elsewhere, size=32, batch_size=4, num_workers=0)
    data.prepare_data()
    assert sorted(path.name for path in root.glob("*.npz")) == [
        "ILSVRC2012_img_train.tar.index.npz",
        "ILSVRC2012_img_val.tar.index.npz",
    ]
    data.setup("fit")
    data.setup("test")
    tar = "ILSVRC2012_img_train.tar"
    assert contents(data, "train") == [
        (f"{tar}/{wnid}.tar/{wnid}_{n}.JPEG", wnid) for wnid in ("n01", "n02", "n03") for n in (10, 2)
    ]
    # 1 is n03: by the sorted ids it would have been n01.
    assert [label for _, label in contents(data, "val")] == ["n03", "n01", "n02", "n03"]
    for sample, number in zip(data.index("val"), (1, 2, 3, 4), strict=True):
        assert sample.path.read() == VAL[f"ILSVRC2012_val_{number:08d}.JPEG"]
    batch = next(iter(data.test_dataloader()))
    assert batch.targets.tolist() == [2, 0, 1, 2]
    assert np.allclose(batch.clips.float().mean((1, 2, 3)), [20, 40, 60, 80], atol=2)


def test_the_val_tar_needs_the_kit_or_folders(tmp_path):
    make(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(TRAIN), "ILSVRC2012_img_val.tar": tar_of(VAL)})
    with pytest.raises(UserError, match=r"img_val\.tar: its images have no labels: put ILSVRC2012_devkit_t12\.tar\.gz"):
        ImageNet(str(tmp_path)).setup("fit")
    make(tmp_path, {f"val/{wnid}/x.JPEG": "" for wnid in ("n01", "n02", "n03")})
    data = ImageNet(str(tmp_path))
    data.setup("fit")
    assert [label for _, label in contents(data, "val")] == ["n01", "n02", "n03"]


def test_an_unsorted_val_folder_gets_the_kits_labels(tmp_path):
    make(tmp_path, {f"val/{name}": content for name, content in VAL.items()})
    make(tmp_path, {f"train/{wnid}/x.JPEG": "" for wnid in ("n01", "n02", "n03")})
    make(tmp_path, devkit())
    data = ImageNet(str(tmp_path))
    data.setup("fit")
    assert contents(data, "val")[0] == ("val/ILSVRC2012_val_00000001.JPEG", "n03")


def test_tars_made_anew_with_class_folders(tmp_path):
    files = {f"{split}/n0{n}/x{n}.JPEG": jpeg(n) for split in ("val",) for n in (2, 1)}
    make(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(TRAIN), "ILSVRC2012_img_val.tar": tar_of(files)})
    data = ImageNet(str(tmp_path))
    data.setup("fit")
    assert [label for _, label in contents(data, "val")] == ["n01", "n02"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda: devkit("1\n4\n"), r"ground_truth\.txt:2: '4' is not the number of a class in meta\.mat"),
        (lambda: devkit("1\nx\n"), r"ground_truth\.txt:2: 'x' is not the number"),
        (
            lambda: {**devkit(), "ILSVRC2012_devkit_t12/data/meta.mat": b"broken"},
            r"meta\.mat: not the list of ImageNet's classes",
        ),
        (
            lambda: {"readme.txt": b""},
            r"not ImageNet's development kit: no ILSVRC2012_validation_ground_truth\.txt in it",
        ),
    ],
)
def test_broken_development_kits_are_refused(tmp_path, files, message):
    make(tmp_path / "kit", files())
    make(tmp_path, {"kit.tar.gz": tar_of(files(), "w:gz"), "broken.tar.gz": b"\x1f\x8b broken"})
    for kit in (tmp_path / "kit", tmp_path / "kit.tar.gz"):
        with pytest.raises(UserError, match=message):
            validation_wnids(kit)
    for kit in ("broken.tar.gz", "gone.tar.gz"):
        with pytest.raises(UserError, match=rf"{kit}: not ImageNet's development kit"):
            validation_wnids(tmp_path / kit)


def test_a_kit_of_fewer_images_than_the_tar_is_refused(tmp_path):
    make(
        tmp_path,
        {"ILSVRC2012_img_val.tar": tar_of(VAL), "ILSVRC2012_img_train.tar": tar_of(TRAIN), **devkit("1\n2\n3\n")},
    )
    with pytest.raises(
        UserError, match=r"img_val\.tar: 'ILSVRC2012_val_00000004\.JPEG' is not one of .*00000003\.JPEG"
    ):
        ImageNet(str(tmp_path)).setup("fit")


# -- folders without splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "ending"), [(VideoFolder, "mp4"), (ImageFolder, "png")])
def test_a_share_of_the_paths_is_val(tmp_path, module, ending):
    names = [f"class {c}/{n:03d}.{ending}" for c in "ab" for n in range(500)]
    make(tmp_path, names)

    def split(**options):
        data = module(str(tmp_path), **options)
        data.setup("fit")
        train, val = ({name for name, _ in contents(data, split)} for split in ("train", "val"))
        assert train | val == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(f"*.{ending}")}
        assert not train & val
        assert data.class_names == ("class a", "class b")
        return val

    val = split()
    assert 70 <= len(val) <= 130
    assert split() == val
    assert val < split(val_fraction=0.3)
    make(tmp_path, [f"class a/new {n}.{ending}" for n in range(50)])
    assert {name for name in split() if "new" not in name} == val
    data = module(str(tmp_path))
    data.setup("test")
    assert {name for name, _ in contents(data, "test")} == split()


def test_small_classes_have_both_splits(tmp_path):
    make(tmp_path, [f"{c}/{n}.mp4" for c in "abcdefgh" for n in range(2)] + ["single/x.mp4"])
    for fraction in (0.001, 0.5, 0.999):
        data = VideoFolder(str(tmp_path), val_fraction=fraction)
        data.setup("fit")
        assert data.index("train").class_counts().tolist()[:8] == [1] * 8
        assert data.index("train").class_counts()[8] == 1
        assert data.index("val").class_counts().tolist() == [1] * 8 + [0]


def test_a_val_fraction_of_0_makes_no_val_split(tmp_path):
    make(tmp_path, [f"{c}/{n}.mp4" for c in "ab" for n in range(20)])
    data = VideoFolder(str(tmp_path), val_fraction=0.0)
    data.setup("fit")
    assert len(data.index("train")) == 40
    with pytest.raises(UserError, match=r"has no split 'val': data\.val_fraction is 0"):
        data.index("val")
    for fraction in (-0.1, 1.0):
        with pytest.raises(UserError, match=r"data\.val_fraction must lie in 0\.\.1"):
            VideoFolder(str(tmp_path), val_fraction=fraction)


def test_splits_that_are_there_win(tmp_path):
    make(tmp_path, ["train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4"])
    data = VideoFolder(str(tmp_path))
    data.setup("fit")
    data.setup("test")
    assert [name for name, _ in contents(data, "train")] == ["train/a/1.mp4", "train/b/2.mp4"]
    assert [name for name, _ in contents(data, "test")] == ["test/a/3.mp4"]


def test_folders_without_files_are_refused(tmp_path):
    make(tmp_path, ["a/1.mp4", "b/readme.txt"])
    with pytest.raises(UserError, match=r"b: no videos in this class folder"):
        VideoFolder(str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"no images in it; expected .*/<class name>/<image>, or with splits"):
        ImageFolder(str(tmp_path / "a")).setup("fit")
