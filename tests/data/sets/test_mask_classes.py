"""Names, values and colours of the classes of masks, and the published layouts."""

import numpy as np
import pytest
from mask_trees import quarters, write_image, write_mask, write_pairs
from PIL import Image

from mvrec.data import ADE20K, Cityscapes, MaskFolder, VOCSegmentation
from mvrec.data.listing.mask_classes import read_mask_classes, read_palette
from mvrec.errors import UserError

NAMES = [f"{number:03d}" for number in range(10)]


def ready(data):
    data.setup("fit")
    return data


def folder(root, **settings):
    return ready(MaskFolder(str(root), size=32, batch_size=2, num_workers=0, seed=0, **settings))


def test_classes_txt_may_give_values_with_gaps(tmp_path):
    write_pairs(tmp_path, NAMES, values=(0, 7, 21, 255))
    (tmp_path / "classes.txt").write_text("7 road\n0 sky\n21 car\n")
    data = folder(tmp_path)
    assert (data.class_names, data.coding.values) == (("sky", "road", "car"), (0, 7, 21))
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 1, 2, 255]
    (tmp_path / "classes.txt").write_text("0 sky\n255 road\n")
    write_pairs(tmp_path, NAMES, values=(0, 255, 0, 0))
    assert np.unique(folder(tmp_path).index("train").target(0).classes).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("a\nb\n", ["a", "b"], None),
        ("0 a\n1 b\n", ["a", "b"], [0, 1]),
        ("1: tall tree\n2: b\n", ["tall tree", "b"], [1, 2]),
        ('["a", "b"]', ["a", "b"], None),
        ("50 salads\n50 soups\n", None, "number 50 is listed twice"),
        ("1 a\n2 a\n", None, "class 'a' is listed twice"),
    ],
)
def test_files_of_names(tmp_path, text, names, values):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    if names is None:
        with pytest.raises(UserError, match=values):
            read_mask_classes(path)
    else:
        assert read_mask_classes(path) == (names, values)


PALETTES = {
    "CamVid": "64 128 64\tAnimal\n192 0 128\tBig arch\n",
    "CVAT": "# label:color_rgb:parts:actions\nAnimal:64,128,64::\nBig arch:192,0,128::\n",
    "Kaggle": "name,r,g,b\nAnimal, 64, 128, 64\nBig arch, 192, 0, 128\n",
    "plain": "Animal 64 128 64\nBig arch 192 0 128\n",
}


@pytest.mark.parametrize("form", PALETTES)
def test_palette_files_of_other_tools(tmp_path, form):
    (tmp_path / "palette.txt").write_text(PALETTES[form])
    assert read_palette(tmp_path / "palette.txt") == {"Animal": (64, 128, 64), "Big arch": (192, 0, 128)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0 0 300\n", r"palette.txt:1: colours are three numbers of 0..255, got \(0, 0, 300\)"),
        ("a 0 0 1\n\na 0 0 2\n", "palette.txt:3: class 'a' is listed twice"),
        ("a 0 0 1\nb 0 0 1\n", r"palette.txt:2: 'b' has the colour \(0, 0, 1\) of 'a'"),
        ("a 0 0 1\nb\n", "palette.txt:2: 'b' is no class with a colour; expected 'name R G B'"),
        ("", "palette.txt: no colours of classes in it"),
    ],
)
def test_faults_of_palette_files_have_their_line(tmp_path, text, message):
    (tmp_path / "palette.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_palette(tmp_path / "palette.txt")


def test_masks_of_colours_need_a_palette_and_keep_its_order(tmp_path):
    colours = np.array([(64, 128, 64), (192, 0, 128)], np.uint8)
    for name in NAMES:
        write_image(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours[quarters(values=(0, 1, 1, 0))]).save(tmp_path / f"masks/{name}.png")
    with pytest.raises(UserError) as error:
        folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/masks/000.png: RGB colours, not class numbers")
    (tmp_path / "labelmap.txt").write_text(PALETTES["CVAT"])
    data = folder(tmp_path)
    assert data.class_names == ("Animal", "Big arch")
    assert np.array_equal(data.index("train").target(0).classes, quarters(values=(0, 1, 1, 0)))
    (tmp_path / "labelmap.txt").rename(tmp_path / "mine.txt")
    assert folder(tmp_path, palette=str(tmp_path / "mine.txt")).class_names == ("Animal", "Big arch")


def test_many_values_without_names_are_no_classes(tmp_path):
    write_pairs(tmp_path, NAMES)
    write_mask(tmp_path / "masks/003.png", np.arange(40 * 56).reshape(40, 56) % 200)
    with pytest.raises(UserError) as error:
        folder(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: the masks have 200 different values, such as 199 in {tmp_path}/masks/003.png; if these are "
        "classes, name them in classes.txt, else save the masks without smoothed borders"
    )


def test_masks_without_labels_and_with_a_single_class_are_refused(tmp_path):
    write_pairs(tmp_path, NAMES, values=(255, 255, 255, 255))
    with pytest.raises(UserError, match="no labelled pixel in 10 masks"):
        folder(tmp_path, ignore=255)
    write_pairs(tmp_path, NAMES, values=(3, 3, 3, 255))
    with pytest.raises(UserError, match="only the class '3', training needs two"):
        folder(tmp_path)


def test_lists_are_splits(tmp_path):
    write_pairs(tmp_path, NAMES)
    (tmp_path / "train.txt").write_text("001\n003.png\n\nimages/004.png masks/005.png\n")
    (tmp_path / "val.csv").write_text("path,mask,place\nimages/007.png,masks/008.png,north\n")
    data = folder(tmp_path)
    rows = [data.index("train").row(number) for number in range(3)]
    assert [(row.path, row.label) for row in rows] == [
        ("images/001.png", "masks/001.png"),
        ("images/003.png", "masks/003.png"),
        ("images/004.png", "masks/005.png"),
    ]
    row = data.index("val").row(0)
    assert (row.path, row.label, row.others) == ("images/007.png", "masks/008.png", (("place", "north"),))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", "001\n0O2\n", "train.txt:2: there is no image '0O2' in .*/images"),
        ("train.csv", "path,label\nimages/001.png,a\n", "train.csv:2: the header has no column 'mask'"),
        ("train.csv", "path,mask\nimages/001.png,\n", "train.csv:2: mask must not be empty"),
    ],
)
def test_faults_of_lists_have_their_line(tmp_path, name, text, message):
    write_pairs(tmp_path, NAMES)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        folder(tmp_path)


def test_suffixes_of_names_pair_files(tmp_path):
    for name in NAMES:
        write_image(tmp_path / f"images/{name}_rgb.png")
        write_mask(tmp_path / f"masks/{name}_mask.png", quarters())
        write_mask(tmp_path / f"masks/{name}_preview.png", quarters())
    with pytest.raises(UserError, match="rename them, or set"):
        folder(tmp_path)
    data = folder(tmp_path, image_suffix="_rgb", mask_suffix="_mask")
    assert data.index("train").row(0).label == "masks/000_mask.png"


def test_ade20k(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split, names in (("training", NAMES), ("validation", NAMES[:2])):
        for name in names:
            write_image(root / f"images/{split}/ADE_{name}.jpg")
            write_mask(root / f"annotations/{split}/ADE_{name}.png", quarters(values=(0, 1, 150, 9)))
    for place in (root, tmp_path):
        data = ready(ADE20K(str(place), num_workers=0))
        assert (data.num_classes, data.class_names[0], data.class_names[149]) == (150, "wall", "flag")
        assert (len(data.index("train")), len(data.index("val")), data.test_split) == (10, 2, "val")
        assert np.unique(data.index("train").target(0).classes).tolist() == [0, 8, 149, 255]
    protocol = data.protocol("val")
    assert (protocol.name, protocol.scale, protocol.size) == ("mmseg-2048x512", (2048, 512), 512)
    assert next(iter(data.val_dataloader())).clips.shape == (1, 3, 40, 56)


@pytest.mark.parametrize("masks", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, masks):
    values = (7, 33, 0, 255) if masks == "labelIds" else (0, 18, 255, 255)
    for split in ("train", "val", "test"):
        for name in NAMES[:3]:
            write_image(tmp_path / f"leftImg8bit/{split}/bonn/bonn_{name}_leftImg8bit.png")
            write_mask(tmp_path / f"gtFine/{split}/bonn/bonn_{name}_gtFine_{masks}.png", quarters(values=values))
            write_mask(tmp_path / f"gtFine/{split}/bonn/bonn_{name}_gtFine_instanceIds.png", quarters())
    data = ready(Cityscapes(str(tmp_path), masks=masks, num_workers=0))
    assert (data.num_classes, data.class_names[0], data.class_names[18], data.test_split) == (
        19,
        "road",
        "bicycle",
        "val",
    )
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 18, 255]
    assert data.index("val").row(0).path == "leftImg8bit/val/bonn/bonn_000_leftImg8bit.png"


def test_voc(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in NAMES:
        write_image(root / f"JPEGImages/2007_{name}.jpg")
        if name != "009":  # most images have no mask
            write_mask(root / f"SegmentationClass/2007_{name}.png", quarters(values=(0, 20, 7, 255)), mode="P")
    lists = {"train": NAMES[:5], "val": NAMES[5:8], "trainaug": NAMES[:4], "test": ["009"]}
    for split, names in lists.items():
        text = "".join(f"2007_{name}\n" for name in names)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)
    for place in (tmp_path, tmp_path / "VOCdevkit", root):
        data = ready(VOCSegmentation(str(place), num_workers=0))
        assert (len(data.index("train")), len(data.index("val")), data.num_classes) == (5, 3, 21)
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 7, 20, 255]
    assert len(ready(VOCSegmentation(str(root), train_list="trainaug", num_workers=0)).index("train")) == 4
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_009\n")
    with pytest.raises(UserError, match=r"val.txt:1: there is no mask '2007_009' in .*SegmentationClass"):
        ready(VOCSegmentation(str(root), num_workers=0))


def test_a_protocol_that_does_not_exist_has_a_hint(tmp_path):
    with pytest.raises(UserError, match=r"no protocol 'slde', only .*; did you mean 'slide'"):
        MaskFolder(str(tmp_path), protocol="slde")
