"""Charades, imitated: real small videos under the authors' lists."""

import pytest
import torch
from video_files import write_video

from mvrec.data import Charades
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.targets import MultiHot
from mvrec.errors import UserError

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
NAMES = ["Holding some clothes", "Putting clothes somewhere", "Taking/consuming some medicine", "Lying on a sofa/couch"]


def line(video, actions):
    script = '"A person, ""smiling"",\nwalks.",food;table,"They walk. One, two."'
    return f"{video},HR43,Kitchen,6,7,Yes,{script},{actions},30.96\n"


FILES = {
    "Charades_v1_classes.txt": "".join(f"c{number:03d} {name}\n" for number, name in enumerate(NAMES)),
    "Charades_v1_train.csv": HEADER
    + line("46GP8", "c003 11.90 21.20;c001 0.00 12.60;c003 25.00 40.00")
    + line("N11GT", "")
    + line("GONE1", "c002 0.00 1.00"),
    "Charades_v1_test.csv": HEADER + line("YSKX3", "c000 0.00 30.96"),
}


def make(root, *, lists="Charades/", videos="Charades_v1_480/", **changes):
    for name, text in {**FILES, **changes}.items():
        (root / lists / name).parent.mkdir(parents=True, exist_ok=True)
        (root / lists / name).write_text(text)
    for name in ("46GP8", "N11GT", "YSKX3"):
        (root / videos).mkdir(parents=True, exist_ok=True)
        (root / videos / f"{name}.mp4").touch()


def contents(data, split):
    index = data.index(split)
    return [
        (str(sample.path).removeprefix(f"{data.root}/"), [data.class_names[label] for label in sample.label])
        for sample in index
    ]


@pytest.mark.parametrize("lists", ["Charades/", "annotations/", "", "elsewhere/"])
@pytest.mark.parametrize("videos", ["Charades_v1_480/", "Charades_v1/", "videos/", ""])
def test_charades_reads_all_labels_of_a_video(tmp_path, lists, videos, caplog):
    caplog.set_level("INFO")
    make(tmp_path, lists=lists, videos=videos)
    data = Charades(str(tmp_path), annotations=str(tmp_path / "elsewhere") if lists == "elsewhere/" else None)
    data.setup("fit")
    data.setup("test")
    assert data.target_type is MultiHot
    assert data.class_names == tuple(NAMES)
    assert contents(data, "train") == [
        (f"{videos}46GP8.mp4", ["Putting clothes somewhere", "Lying on a sofa/couch"]),
        (f"{videos}N11GT.mp4", []),
    ]
    assert contents(data, "val") == contents(data, "test") == [(f"{videos}YSKX3.mp4", ["Holding some clothes"])]
    listed = tmp_path / lists / "Charades_v1_train.csv"
    assert f"{listed}: 3 videos expected, 2 found, 1 missing, such as GONE1.mp4" in caplog.text


def test_real_videos_become_batches(tmp_path):
    make(tmp_path)
    for name in ("46GP8", "N11GT", "YSKX3"):
        write_video(tmp_path / f"Charades_v1_480/{name}.mp4", num_frames=12, fps=24)
    data = Charades(
        str(tmp_path), clip=ClipSpec(num_frames=4, stride_frames=2), size=32, batch_size=2, num_workers=0, seed=0
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.clips.shape == (2, 3, 4, 32, 32)
    hots = {0: [0, 1, 0, 1], 1: [0, 0, 0, 0]}
    assert batch.targets.tolist() == [hots[number] for number in batch.sample_ids.tolist()]
    assert batch.targets.dtype == torch.float32
    assert sorted(batch.sample_ids.tolist()) == [0, 1]


def test_a_file_of_names_orders_the_classes_of_charades(tmp_path):
    """A file of names gives the order, whose spelling may be another."""
    make(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in reversed(NAMES)).upper())
    data = Charades(str(tmp_path), classes=str(tmp_path / "names.txt"))
    data.setup("fit")
    assert data.index("train")[0].label == (0, 2)
    assert contents(data, "train")[0][1] == ["LYING ON A SOFA/COUCH", "PUTTING CLOTHES SOMEWHERE"]


BROKEN_LISTS = {
    HEADER + line("46GP8", "c003 1 2") + line("N11GT", "c009 0 1"): r":5: c009 is not one of the 4 actions; did you",
    HEADER + line("46GP8", "c003 1"): r":3: expected actions as in `c092 11\.90 21\.20;c147 0.*`, got 'c003 1'$",
    HEADER + line("46GP8", "c003 1 2;"): r":3: expected actions as in .*, got ''$",
    HEADER + line("46GP8", "c003 1 end"): r":3: 'end' is not a number of seconds$",
    HEADER + line("", "c003 1 2"): r":3: id must not be empty$",
    HEADER + "46GP8,c003 1 2\n": r":2: 2 fields, the header has 11$",
    "46GP8,c003 1 2\n": r":1: expected a header with the columns id and actions$",
    "": r":1: expected a header",
    HEADER: r": no videos in it$",
    HEADER + line("a", "c003 1 2"): r": none of its 1 videos is in .*_480 \(a\.mp4 is not; there is 46GP8\.mp4\)$",
}


def test_broken_lists_of_charades_are_refused(tmp_path):
    broken = [("Charades_v1_train.csv", rf"train\.csv{message}", text) for text, message in BROKEN_LISTS.items()]
    broken += [
        ("Charades_v1_classes.txt", r"classes\.txt:2: expected `c000 <class name>`, got 'broken'$", "c000 x\nbroken\n"),
        ("Charades_v1_classes.txt", r"classes\.txt:3: c000 is already listed, in line 1$", "c000 x\n\nc000 y\n"),
    ]
    for name, message, text in broken:
        make(tmp_path, **{name: text})
        with pytest.raises(UserError, match=message) as caught:
            Charades(str(tmp_path)).setup("fit")
        assert "\n" not in str(caught.value)


def test_missing_lists_of_charades_are_named(tmp_path):
    make(tmp_path)
    (tmp_path / "Charades/Charades_v1_classes.txt").unlink()
    with pytest.raises(UserError, match=r"Charades_v1_classes\.txt: No such file"):
        Charades(str(tmp_path)).setup("fit")
    make(tmp_path)
    (tmp_path / "Charades/Charades_v1_test.csv").unlink()
    data = Charades(str(tmp_path))
    data.setup("fit")
    with pytest.raises(UserError, match=r"has no split 'val': no .*/Charades/Charades_v1_test\.csv"):
        data.index("val")
    (tmp_path / "Charades/Charades_v1_train.csv").unlink()
    with pytest.raises(UserError, match=r"no videos in it; expected .*_train\.csv, Charades_v1_test\.csv and"):
        Charades(str(tmp_path)).setup("fit")
