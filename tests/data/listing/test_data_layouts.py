"""Kinetics in the layouts in which people have it."""

import pytest

from mvrec.data import Kinetics
from mvrec.data.sets.kinetics_layouts import find_kinetics_layout
from mvrec.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


def make(root, files):
    for name, text in (files if isinstance(files, dict) else dict.fromkeys(files, "")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def contents(root, split="train", **options):
    layout = find_kinetics_layout(root, **options)
    index = layout.index(split, class_names=layout.class_names() or None)
    return [(sample.path.relative_to(root).as_posix(), index.class_names[sample.label]) for sample in index]


TRAIN = HEADER + "tai chi,-abc_1,3,13,train,0\nriding a bike,xyz,120,130,train,1\nriding a bike,gone,0,10,train,0\n"
VIDEOS = ["-abc_1_000003_000013.mp4", "xyz_000120_000130.mkv", "unlisted_000000_000010.mp4", "._xyz_000120_000130.mkv"]
FOUND = [("-abc_1_000003_000013.mp4", "tai chi"), ("xyz_000120_000130.mkv", "riding a bike")]


@pytest.mark.parametrize("csv", ["annotations/train.csv", "train.csv", "annotations/kinetics-400_train.csv"])
@pytest.mark.parametrize("folder", ["train", "videos/train", "videos", "train/some class", "clips/of/any kind"])
def test_annotation_csvs_list_the_videos_that_are_there(tmp_path, csv, folder, caplog):
    caplog.set_level("INFO")
    make(tmp_path, {csv: TRAIN, **{f"{folder}/{name}": "" for name in VIDEOS}})
    assert contents(tmp_path) == [(f"{folder}/{name}", label) for name, label in FOUND]
    Kinetics(str(tmp_path)).setup("fit")
    assert f"data: annotation CSVs: train from {tmp_path / csv}" in caplog.text
    assert f"{tmp_path / csv}: 3 videos expected, 2 found, 1 missing" in caplog.text


def test_replacements_take_the_place_of_corrupted_videos(tmp_path):
    make(tmp_path, {"annotations/train.csv": TRAIN, **{f"train/{name}": "" for name in VIDEOS}})
    make(
        tmp_path,
        [
            f"replacement/replacement_for_corrupted_k400/{name}.mp4"
            for name in ("xyz_000120_000130", "gone_000000_000010")
        ],
    )
    assert [name for name, _ in contents(tmp_path)] == [
        "train/-abc_1_000003_000013.mp4",
        "replacement/replacement_for_corrupted_k400/xyz_000120_000130.mp4",
        "replacement/replacement_for_corrupted_k400/gone_000000_000010.mp4",
    ]


def test_kinetics_reads_the_layout_of_cvdf(tmp_path):
    make(tmp_path, {"annotations/train.csv": TRAIN, "annotations/validate.csv": HEADER + "tai chi,v,0,10,val,0\n"})
    make(tmp_path, [*(f"train/{name}" for name in VIDEOS), "val/v_000000_000010.mp4"])
    make(
        tmp_path,
        {"annotations/test.csv": "youtube_id,time_start,time_end,split\nt,0,10,test\n", "test/t_000000_000010.mp4": ""},
    )
    data = Kinetics(str(tmp_path))
    data.setup("fit")
    assert data.class_names == ("riding a bike", "tai chi")
    assert (len(data.index("train")), data.index("val").labels.tolist()) == (2, [1])
    with pytest.raises(UserError, match=r"test\.csv: no column 'label': the videos of this split cannot be scored"):
        data.setup("test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "tai chi,a,0\n", r"train\.csv:2: 3 fields, the header has 6"),
        (HEADER + "tai chi,a,x,10,train,0\n", r"train\.csv:2: 'x'\.\.'10' are not seconds"),
        (HEADER + "\n,a,0,10,train,0\n", r"train\.csv:3: label and youtube_id must not be empty"),
        (
            HEADER + "tai chi,a,0,10,train,0\n",
            r"train\.csv: none of its 1 videos is in .*train \(a_000000_000010\.mp4 is not; there is train/",
        ),
        (HEADER, r"train\.csv: no videos in it"),
    ],
)
def test_broken_annotation_csvs_are_refused_with_their_line(tmp_path, text, message):
    make(tmp_path, {"annotations/train.csv": text, **{f"train/{name}": "" for name in VIDEOS}})
    with pytest.raises(UserError, match=message):
        contents(tmp_path)


def test_two_annotation_csvs_are_ambiguous(tmp_path):
    make(tmp_path, {"annotations/train.csv": TRAIN, "annotations/kinetics400_train.csv": TRAIN, "train/x.mp4": ""})
    with pytest.raises(UserError, match=r"both annotate train: name the folder of one with data\.annotations"):
        contents(tmp_path)


def test_layout_says_what_counts_where_more_than_one_is_there(tmp_path):
    make(tmp_path, {"annotations/train.csv": TRAIN, **{f"train/folder name/{name}": "" for name in VIDEOS[:2]}})
    make(tmp_path, {"train.csv": "path,label\ntrain/folder name/xyz_000120_000130.mkv,listed\n"})
    assert {label for _, label in contents(tmp_path)} == {"listed"}
    assert {label for _, label in contents(tmp_path, layout="lists")} == {"listed"}
    assert {label for _, label in contents(tmp_path, layout="cvdf")} == {"tai chi", "riding a bike"}
    assert {label for _, label in contents(tmp_path, layout="folders")} == {"folder name"}
    with pytest.raises(
        UserError, match=r"data\.layout=opendatalab: nothing of the kind in .*; expected .*/videos/train/<class name>"
    ):
        contents(tmp_path, layout="opendatalab")
    (tmp_path / "train.csv").unlink()
    assert {label for _, label in contents(tmp_path)} == {"tai chi", "riding a bike"}


@pytest.mark.parametrize("base", ["Kinetics-400/videos/", "videos/", "Kinetics_700-2020/", ""])
def test_class_folders_become_sorted_classes(tmp_path, base):
    make(tmp_path, [f"{base}train/run/a.mp4", f"{base}train/jump/b.mp4", f"{base}val/run/c.mp4"])
    assert contents(tmp_path) == [(f"{base}train/jump/b.mp4", "jump"), (f"{base}train/run/a.mp4", "run")]


@pytest.mark.parametrize("prefix", ["", "train/", "videos/train/", "videos_train/", "videos/"])
@pytest.mark.parametrize("name", ["train.txt", "kinetics400_train_list_videos.txt", "annotations/train.csv"])
def test_lists_relative_to_a_folder_of_videos(tmp_path, prefix, name):
    make(tmp_path, {name: "run/gone.mp4 0\nrun/a.mp4 0\n/else/where.mp4 1\n", f"{prefix}run/a.mp4": ""})
    layout = find_kinetics_layout(tmp_path)
    paths = [str(sample.path) for sample in layout.index("train", class_names=None)]
    assert paths == [f"{tmp_path}/{prefix}run/gone.mp4", f"{tmp_path}/{prefix}run/a.mp4", "/else/where.mp4"]


def test_a_list_of_which_nothing_is_there_is_doubted(tmp_path, caplog):
    make(tmp_path, {"train.csv": "run/gone.mp4 0\nrun/a.mp4 1\n"})
    assert len(contents(tmp_path)) == 2
    assert "train.csv:1: none of the first 2 files exists, such as" in caplog.text


def test_lists_in_a_folder_of_their_own(tmp_path):
    make(tmp_path, {"lists/train.csv": "../v/a.mp4,1\n", "v/a.mp4": "", "root/b.mp4": ""})
    layout = find_kinetics_layout(tmp_path / "root", annotations=tmp_path / "lists")
    (sample,) = layout.index("train", class_names=["a", "b"])
    assert sample.path.samefile(tmp_path / "v/a.mp4")
    with pytest.raises(UserError, match=r"data\.annotations='.*nowhere' is not a directory"):
        find_kinetics_layout(tmp_path, annotations=tmp_path / "nowhere")


def test_numbers_get_the_names_that_are_asked_for(tmp_path):
    make(tmp_path, {"train.csv": "a.mp4 399\nb.mp4 0\n"})
    data = Kinetics(str(tmp_path), classes="kinetics400")
    data.setup("fit")
    assert data.num_classes == 400
    assert [data.class_names[label] for label in data.index("train").labels] == ["zumba", "abseiling"]


def test_two_lists_of_one_split_are_ambiguous(tmp_path):
    make(tmp_path, {"train.csv": "a.mp4 0\n", "train.txt": "a.mp4 1\n"})
    with pytest.raises(UserError, match=r"train\.csv and .*train\.txt are both lists of train"):
        contents(tmp_path)


def test_an_empty_or_missing_root_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no videos in it; expected .*train/<class name>/<video> .* or the lists"):
        Kinetics(str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"data.root: '.*gone' does not exist"):
        Kinetics(str(tmp_path / "gone")).setup("fit")


def test_other_spellings_in_another_split_are_the_same_classes(tmp_path):
    make(tmp_path, ["train/riding a bike/a.mp4", "train/Tai chi/b.mp4", "val/riding_a_bike/c.mp4", "val/tai_chi/d.mp4"])
    data = Kinetics(str(tmp_path))
    data.setup("fit")
    assert data.class_names == ("Tai chi", "riding a bike")
    assert data.index("val").labels.tolist() == [1, 0]
