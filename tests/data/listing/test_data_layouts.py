"""Kinetics in the layouts in which people have it."""

import pytest
from data_trees import contents, make

from mvrec.data import Kinetics
from mvrec.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
TRAIN = HEADER + "tai chi,-abc_1,3,13,train,0\nriding a bike,xyz,120,130,train,1\nriding a bike,gone,0,10,train,0\n"
VIDEOS = ["-abc_1_000003_000013.mp4", "xyz_000120_000130.mkv", "unlisted_000000_000010.mp4", "._xyz_000120_000130.mkv"]


def videos_in(folder, names=VIDEOS):
    return {f"{folder}/{name}": "" for name in names}


def train_files(root, **options):
    return contents(Kinetics(str(root), **options), "train")


CSVS = {
    "train": "annotations/train.csv",
    "train/some class": "train.csv",
    "videos": "annotations/kinetics-400_train.csv",
    "videos/train": "annotations/train.csv",
    "clips/of/any kind": "train.csv",
}


@pytest.mark.parametrize(("folder", "csv"), CSVS.items())
def test_annotation_csvs_list_the_videos_that_are_there(tmp_path, csv, folder, caplog):
    caplog.set_level("INFO")
    make(tmp_path, {csv: TRAIN, **videos_in(folder)})
    assert train_files(tmp_path) == [
        (f"{folder}/-abc_1_000003_000013.mp4", "tai chi"),
        (f"{folder}/xyz_000120_000130.mkv", "riding a bike"),
    ]
    assert f"data: annotation CSVs: train from {tmp_path / csv}" in caplog.text
    assert f"{tmp_path / csv}: 3 videos expected, 2 found, 1 missing" in caplog.text


def test_replacements_take_the_place_of_corrupted_videos(tmp_path):
    folder = "replacement/replacement_for_corrupted_k400"
    replacements = videos_in(folder, ["xyz_000120_000130.mp4", "gone_000000_000010.mp4"])
    make(tmp_path, {"annotations/train.csv": TRAIN, **videos_in("train"), **replacements})
    assert [name for name, _ in train_files(tmp_path)] == ["train/-abc_1_000003_000013.mp4", *replacements]


def test_a_split_of_cvdf_without_labels_cannot_be_scored(tmp_path):
    make(tmp_path, videos_in("train") | videos_in("val", ["v_000000_000010.mp4"]))
    lists = {
        "train": TRAIN,
        "validate": HEADER + "tai chi,v,0,10,,\n",
        "test": "youtube_id,time_start,time_end\nt,0,10\n",
    }
    make(tmp_path / "annotations", {f"{split}.csv": text for split, text in lists.items()})
    data = Kinetics(str(tmp_path))
    assert contents(data, "val") == [("val/v_000000_000010.mp4", "tai chi")]
    assert data.class_names == ("riding a bike", "tai chi")
    with pytest.raises(UserError, match=r"test\.csv: no column 'label': the videos of this split cannot be scored"):
        data.setup("test")


def test_broken_annotation_csvs_are_refused_with_their_line(tmp_path):
    make(tmp_path, videos_in("train"))
    for text, message in {
        "tai chi,a,0\n": ":2: 3 fields, the header has 6",
        "tai chi,a,x,10,train,0\n": r":2: 'x'\.\.'10' are not seconds",
        "\n,a,0,10,train,0\n": ":3: label and youtube_id must not be empty",
        "run,a,0,9,,\n": r": none of its 1 videos is in .*train \(a_000000_000009\.mp4 is not; there is train/",
        "": ": no videos in it",
    }.items():
        make(tmp_path, {"annotations/train.csv": HEADER + text})
        with pytest.raises(UserError, match=rf"train\.csv{message}"):
            train_files(tmp_path)


def test_two_lists_of_one_split_are_ambiguous(tmp_path):
    csv, other = "annotations/train.csv", "annotations/kinetics400_train.csv"
    make(tmp_path / "cvdf", {csv: TRAIN, other: TRAIN, "train/x.mp4": ""})
    with pytest.raises(UserError, match=r"both annotate train: name the folder of one with data\.annotations"):
        train_files(tmp_path / "cvdf")
    make(tmp_path / "lists", {"train.csv": "a.mp4 0\n", "train.txt": "a.mp4 1\n"})
    with pytest.raises(UserError, match=r"train\.csv and .*train\.txt are both lists of train"):
        train_files(tmp_path / "lists")


def test_layout_says_what_counts_where_more_than_one_is_there(tmp_path):
    folder = "train/folder name"
    make(tmp_path, {"annotations/train.csv": TRAIN, **videos_in(folder, VIDEOS[:2]), "train/other/x.mp4": ""})
    rows = f"path,label\n{folder}/{VIDEOS[1]},listed\n{folder}/{VIDEOS[0]},too\n"
    make(tmp_path, {"train.csv": rows})

    def classes(**options):
        return {label for _, label in train_files(tmp_path, **options)}

    assert classes() == classes(layout="lists") == {"listed", "too"}
    assert classes(layout="cvdf") == {"tai chi", "riding a bike"}
    assert classes(layout="folders") == {"folder name", "other"}
    with pytest.raises(
        UserError, match=r"data\.layout=opendatalab: nothing of the kind in .*; expected .*/videos/train/<class name>"
    ):
        classes(layout="opendatalab")
    (tmp_path / "train.csv").unlink()
    assert classes() == {"tai chi", "riding a bike"}


@pytest.mark.parametrize("base", ["Kinetics-400/videos/", "videos/", "Kinetics_700-2020/", ""])
def test_class_folders_become_sorted_classes_however_another_split_spells_them(tmp_path, base):
    make(tmp_path, [f"{base}train/riding a bike/a.mp4", f"{base}train/Tai chi/b.mp4", f"{base}val/riding_a_bike/c.mp4"])
    data = Kinetics(str(tmp_path))
    assert contents(data, "train") == [
        (f"{base}train/Tai chi/b.mp4", "Tai chi"),
        (f"{base}train/riding a bike/a.mp4", "riding a bike"),
    ]
    assert contents(data, "val") == [(f"{base}val/riding_a_bike/c.mp4", "riding a bike")]


@pytest.mark.parametrize("prefix", ["", "train/", "videos/train/", "videos_train/", "videos/"])
def test_lists_relative_to_a_folder_of_videos(tmp_path, prefix):
    for name in ("train.txt", "kinetics400_train_list_videos.txt", "annotations/train.csv"):
        text = "run/gone.mp4 0\nrun/a.mp4 0\n/else/where.mp4 1\n"
        root = make(tmp_path / name, {name: text, f"{prefix}run/a.mp4": ""})
        paths = [path for path, _ in train_files(root)]
        assert paths == [f"{prefix}run/gone.mp4", f"{prefix}run/a.mp4", "/else/where.mp4"], name


def test_a_list_of_which_nothing_is_there_is_doubted_and_numbers_get_the_names_asked_for(tmp_path, caplog):
    make(tmp_path, {"train.csv": "a.mp4 399\nb.mp4 0\n"})
    assert train_files(tmp_path, classes="kinetics400") == [("a.mp4", "zumba"), ("b.mp4", "abseiling")]
    assert "train.csv:1: none of the first 2 files exists, such as" in caplog.text


def test_lists_in_a_folder_of_their_own(tmp_path):
    make(tmp_path, {"lists/train.csv": "../v/a.mp4,1\n../v/b.mp4,0\n", "v/a.mp4": "", "root/b.mp4": ""})
    data = Kinetics(str(tmp_path / "root"), annotations=str(tmp_path / "lists"))
    data.setup("fit")
    assert data.index("train")[0].path.samefile(tmp_path / "v/a.mp4")
    with pytest.raises(UserError, match=r"data\.annotations='.*nowhere' is not a directory"):
        train_files(tmp_path, annotations=str(tmp_path / "nowhere"))


def test_an_empty_root_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is empty: put files into it as <class name>/<file>"):
        train_files(tmp_path)
