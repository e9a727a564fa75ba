"""Charades, imitated: empty videos under the authors' lists."""

import pytest
from data_trees import contents, make

from mvrec.data import Charades
from mvrec.data.views.targets import MultiHot
from mvrec.errors import UserError

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
NAMES = ["Holding some clothes", "Putting clothes somewhere", "Taking/consuming some medicine", "Lying on a sofa/couch"]


def line(video, actions):
    script = '"A person, ""smiling"",\nwalks.",food;table,"They walk. One, two."'
    return f"{video},HR43,Kitchen,6,7,Yes,{script},{actions},30.96\n"


def charades(root, *, lists="Charades/", videos="Charades_v1_480/", **changes):
    """Write lists and empty videos."""
    files = {
        "Charades_v1_classes.txt": "".join(f"c{number:03d} {name}\n" for number, name in enumerate(NAMES)),
        "Charades_v1_train.csv": HEADER
        + line("46GP8", "c003 11.90 21.20;c001 0.00 12.60;c003 25.00 40.00")
        + line("N11GT", "")
        + line("GONE1", "c002 0.00 1.00"),
        "Charades_v1_test.csv": HEADER + line("YSKX3", "c000 0.00 30.96"),
    }
    make(root, {f"{lists}{name}": text for name, text in (files | changes).items()})
    make(root, [f"{videos}{name}.mp4" for name in ("46GP8", "N11GT", "YSKX3")])


@pytest.mark.parametrize(
    ("lists", "videos"),
    [("Charades/", "Charades_v1_480/"), ("annotations/", "Charades_v1/"), ("", "videos/"), ("elsewhere/", "")],
)
def test_charades_reads_all_labels_of_a_video(tmp_path, lists, videos, caplog):
    caplog.set_level("INFO")
    charades(tmp_path, lists=lists, videos=videos)
    data = Charades(str(tmp_path), annotations=str(tmp_path / "elsewhere") if lists == "elsewhere/" else None)
    assert contents(data, "train") == [
        (f"{videos}46GP8.mp4", ["Putting clothes somewhere", "Lying on a sofa/couch"]),
        (f"{videos}N11GT.mp4", []),
    ]
    assert data.target_type is MultiHot
    assert data.class_names == tuple(NAMES)
    test = [(f"{videos}YSKX3.mp4", ["Holding some clothes"])]
    assert contents(data, "val") == contents(data, "test", "test") == test
    listed = tmp_path / lists / "Charades_v1_train.csv"
    assert f"{listed}: 3 videos expected, 2 found, 1 missing, such as GONE1.mp4" in caplog.text


def test_a_file_of_names_orders_the_classes_of_charades_however_it_spells_them(tmp_path):
    charades(tmp_path)
    data = Charades(str(tmp_path), classes=[name.upper() for name in reversed(NAMES)])
    assert contents(data, "train")[0][1] == ["LYING ON A SOFA/COUCH", "PUTTING CLOTHES SOMEWHERE"]


BROKEN = [  # list, its text, what is said of it
    ("train.csv", HEADER + line("46GP8", "c003 1 2") + line("N11GT", "c009 0 1"), r":5: c009 is not one of the 4 act"),
    ("train.csv", HEADER + line("46GP8", "c003 1"), r":3: expected actions as in `c092 11\.90 .*`, got 'c003 1'$"),
    ("train.csv", HEADER + line("46GP8", "c003 1 end"), r":3: 'end' is not a number of seconds$"),
    ("train.csv", HEADER + line("", "c003 1 2"), r":3: id must not be empty$"),
    ("train.csv", HEADER + "46GP8,c003 1 2\n", r":2: 2 fields, the header has 11$"),
    ("train.csv", "46GP8,c003 1 2\n", r":1: expected a header with the columns id and actions$"),
    ("train.csv", HEADER, r": no videos in it$"),
    (
        "train.csv",
        HEADER + line("a", "c003 1 2"),
        r": none of its 1 videos is in .*_480 \(a\.mp4 is not; there is 46GP8",
    ),
    ("classes.txt", "c000 x\nbroken\n", r":2: expected `c000 <class name>`, got 'broken'$"),
    ("classes.txt", "c000 x\n\nc000 y\n", r":3: c000 is already listed, in line 1$"),
]


def test_broken_and_missing_lists_of_charades_are_refused(tmp_path):
    for name, text, message in BROKEN:
        charades(tmp_path, **{f"Charades_v1_{name}": text})
        with pytest.raises(UserError, match=rf"_{name}{message}") as caught:
            Charades(str(tmp_path)).setup("fit")
        assert "\n" not in str(caught.value)
    for name, message in (
        ("classes.txt", r"Charades_v1_classes\.txt: No such file"),
        ("test.csv", r"has no split 'val': no .*/Charades/Charades_v1_test\.csv"),
        ("*.csv", r"no videos in it; expected .*_train\.csv, Charades_v1_test\.csv and"),
    ):
        charades(tmp_path)
        for path in (tmp_path / "Charades").glob(f"Charades_v1_{name}"):
            path.unlink()
        with pytest.raises(UserError, match=message):
            contents(Charades(str(tmp_path)), "val")
