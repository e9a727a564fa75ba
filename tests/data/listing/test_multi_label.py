"""Files with several classes, or none: their lists, their index, their batches."""

import tracemalloc

import pytest
import torch
from data_trees import labelled, listed, make
from video_files import write_video

from mvrec.data import ImageFolder, Kinetics, VideoFolder
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, read_rows
from mvrec.data.loading.batch import BadSample, Item, collate
from mvrec.data.loading.clips import EvalClips
from mvrec.data.loading.loader import ClipLoader, EvalBatches
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.targets import ClassIndex, MultiHot, NoTarget
from mvrec.errors import UserError
from mvrec.processes import Limits


def test_a_column_of_labels_gives_each_file_its_classes(tmp_path):
    index = listed(tmp_path, 'path,labels\na.mp4,run;jump high\nb.mp4,\n"c, d.mp4"," fall ; run "\ne.mp4,fall\n')
    assert index.target_type is MultiHot
    assert index.class_names == ("fall", "jump high", "run")
    assert labelled(index) == [("a.mp4", (1, 2)), ("b.mp4", ()), ("c, d.mp4", (0, 2)), ("e.mp4", (0,))]
    assert [index.target(row) for row in range(4)] == [MultiHot(labels, 3) for labels in ((1, 2), (), (0, 2), (0,))]
    assert index.class_counts().tolist() == [2, 1, 2]


def test_a_semicolon_in_a_column_label_is_part_of_the_name(tmp_path, caplog):
    index = listed(tmp_path, "path,label\na.mp4,run; fast\nb.mp4,walk\n")
    assert "is one class here" not in caplog.text
    assert index.class_names == ("run; fast", "walk")
    assert [index.target(row) for row in range(2)] == [ClassIndex(0), ClassIndex(1)]
    listed(tmp_path, "path,label\na.mp4,run\nb.mp4,walk\nc.mp4,walk; run\n")
    assert "'walk; run' is one class here: several per file need a column 'labels' instead of 'label'" in caplog.text


def test_names_numbers_and_spellings_mix_in_a_label(tmp_path):
    make(tmp_path, {"classes.txt": "jump\nriding a bike\n"})
    for label in ("jump;Riding_A_bike", "0; 1", "0;riding a bike", "riding a bike ;jump"):
        assert labelled(listed(tmp_path, f"path,labels\na.mp4,{label}\n")) == [("a.mp4", (0, 1))]


# Rows behind the header `path,labels` (or below, a list with a header of its own), the line at fault, what is said.
MALFORMED_ROWS = {
    "a,run\nb,run;jumb": r":3: 'jumb' is not one of the 2 classes; did you mean 'jump'\?$",
    "a,run\n\nb,run;jump;run": ":4: label 'run' is listed twice$",
    "a,run;0": ":2: label 'run' is listed twice$",
    "a,run;;jump": ":2: an empty label in 'run;;jump': one ';' between two$",
    ",run": ":2: path must not be empty$",
    "": ": no videos in it$",
}
MALFORMED_LISTS = {
    "path,labels,label\na,run,1\n": r":1: the header names both 'label' \(one .*\) and 'labels': remove one$",
    "path,labels,labels\na,run,1\n": ":1: the header names 'labels' twice$",
    "original_vido_id video_id frame_id path labels\nA 0 0 A.jpg 1\n": ":1: this is a list of single frames, which ",
    "path,label\na,run\nb,\n": r":3: path and label must not be empty \(files without a class: .*'labels'",
    "path,label\na,run;jump\n": r":2: 'run;jump' is not one of the 2 classes \(several classes per file: .* 'labels'",
    "path,label\na,run\na,jump\n": r":3: 'a' is 'jump' here and 'run' at .*:2 \(several .*'labels'",
    "a.mp4 1 0 1\n": r":1: several numbers after the file: .* the header `path,labels`, as in `x\.mp4,3;7`",
}


def test_malformed_lists_of_labels_are_refused_with_their_line(tmp_path):
    lists = {f"path,labels\n{rows}\n": fault for rows, fault in MALFORMED_ROWS.items()} | MALFORMED_LISTS
    cases = [(make(tmp_path / "named", {"classes.txt": "run\njump\n"}), *case) for case in lists.items()]
    cases += [(tmp_path, "path,labels\na,\nb,\n", ": none of its 2 rows has a label$")]
    for root, text, message in cases:
        with pytest.raises(UserError, match=rf"train\.csv{message}") as caught:
            listed(root, text)
        assert "\n" not in str(caught.value)


def test_class_names_that_no_list_could_hold(tmp_path):
    make(tmp_path, {"classes.txt": "run; fast\njump\n"})
    with pytest.raises(UserError, match=r"train\.csv: class 'run; fast' holds .*';'.* separates labels"):
        listed(tmp_path, "path,labels\na,0;1\n")
    assert listed(tmp_path, "path,label\na,0\n").class_names[0] == "run; fast"


def test_lines_of_the_same_file_and_span_are_joined(tmp_path, caplog):
    """A line per label, as lists in long form have them, wherever they stand."""
    caplog.set_level("INFO")
    text = "path,labels,start,end\na,run,,\nb,,,\na,jump,,\na,run,1,2\nc,fall,,\na,run;fall,,\nb,jump,,\na,,1,2\n"
    index = listed(tmp_path, text)
    assert index.class_names == ("fall", "jump", "run")
    assert labelled(index) == [("a", (0, 1, 2)), ("b", (1,)), ("a", (2,)), ("c", (0,))]
    assert [sample.start_seconds for sample in index] == [None, None, 1.0, None]
    assert f"{tmp_path}, train: 4 rows repeat a file and are merged with its first row" in caplog.text


def test_splits_with_one_and_with_several_labels_are_refused(tmp_path):
    has = {"label": "one label", "labels": "several labels"}
    for train, val in (("label", "labels"), ("labels", "label")):
        lists = {
            f"{split}.csv": f"path,{column}\na,run\nb,jump\n" for split, column in (("train", train), ("val", val))
        }
        make(tmp_path, lists)
        message = rf"val\.csv: has {has[val]} per file, .*train\.csv has {has[train]}: .*'labels', or none$"
        with pytest.raises(UserError, match=message):
            Kinetics(str(tmp_path)).setup("fit")
    (tmp_path / "val.csv").unlink()
    make(tmp_path, ["val/run/a.mp4"])
    with pytest.raises(UserError, match=r"val/run: has one label per file, .*train\.csv has several labels"):
        Kinetics(str(tmp_path)).setup("fit")


def test_rows_of_both_kinds_are_refused(tmp_path):
    rows = [Row("a", "x", source="l", line=2, multi_label=True), Row("b", "x", source="l", line=3)]
    for arguments in (rows, rows[::-1]):
        places = f"^l:{arguments[1].line}: a list cannot mix .* with several, as at l:{arguments[0].line}$"
        with pytest.raises(UserError, match=places):
            SampleIndex(arguments, root=tmp_path)


@pytest.mark.parametrize("module", [Kinetics, VideoFolder, ImageFolder])
def test_every_module_with_lists_reads_several_labels(tmp_path, module):
    make(tmp_path, {f"{split}.csv": "path,labels\na,2;0\nb,\n" for split in ("train", "val", "test")})
    for classes, names in ((None, ("0", "1", "2")), (["run", "jump", "fall"], ("run", "jump", "fall"))):
        data = module(str(tmp_path), classes=classes)
        assert data.target_type is NoTarget
        for stage in ("fit", "test"):
            data.setup(stage)
            assert data.target_type is MultiHot
        assert data.class_names == names
        assert [sample.label for sample in data.index("test")] == [(0, 2), ()]
    if module is not ImageFolder:
        assert data.val_protocol.aggregation == data.test_protocol.as_dict()["aggregation"] == "mean of sigmoid"
        assert str(data.test_protocol).endswith("mean of sigmoid")


def test_many_rows_of_several_labels_are_packed(tmp_path):
    count = 12_000
    lines = (f"v/{number:06d}.mp4,{number % 157};{(number + 1) % 157};{(number + 7) % 157}" for number in range(count))
    make(tmp_path, {"train.csv": "\n".join(["path,labels", *lines])})
    tracemalloc.start()
    try:
        index = SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path, class_names=list(map(str, range(157))))
        remaining, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert remaining < 60 * count  # bytes: 12 of path, 8 of its end, 12 of labels, 8 of their end
    assert peak < 250 * count
    assert index.nbytes < 45 * count
    assert index[count - 1].label == tuple(sorted({(count - 1) % 157, count % 157, (count + 6) % 157}))
    assert index.class_counts().sum() == 3 * count


def test_the_digest_tells_labels_apart(tmp_path):
    def digest(*labels):
        rows = [Row(name, label, multi_label=True) for name, label in zip("ab", labels, strict=True)]
        return SampleIndex(rows, root=tmp_path, class_names=["x", "y"]).digest()

    assert digest("x;y", "") == digest("y;x", "")
    assert len({digest("x;y", ""), digest("x", "y"), digest("", "x;y"), digest("x", "x;y")}) == 4


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name in ("a", "b", "c"):
        write_video(root / f"{name}.mp4", num_frames=8)
    text = "path,labels\na.mp4,run;jump\nb.mp4,\nbad.mp4,jump;fall\nc.mp4,fall\n"
    make(root, {"bad.mp4": "no video", "val.csv": text})
    return find_split(root, "val")


CLIP = ClipSpec(num_frames=2, stride_frames=2)
HOTS = {0: [0, 1, 1], 1: [0, 0, 0], 2: [1, 1, 0], 3: [1, 0, 0]}  # fall, jump, run


def test_batches_of_an_evaluation_have_multi_hot_targets(index, tmp_path):
    dataset = EvalClips(index, ClipProtocol(CLIP, Views(num_clips=2, short_side=32), 32))
    batches = EvalBatches(len(index), batch_size=3, rank=0, world_size=1)
    options = {"num_workers": 1, "limits": Limits(memory=None), "quarantine": tmp_path}
    batches = list(ClipLoader(dataset, batches, pin_memory=False, **options))
    assert [batch.sample_ids.tolist() for batch in batches] == [[0, 0, 1, 1], [3, 3]]
    for batch in batches:
        assert batch.targets.dtype == torch.float32
        assert batch.targets.tolist() == [HOTS[number] for number in batch.sample_ids.tolist()]
        assert len(batch) == len(batch.clips)
        assert batch.to("meta").targets.shape == batch.targets.shape
    assert [entry.target for batch in batches for entry in batch.bad] == [MultiHot((0, 1), 3)]


def test_collate_keeps_the_kind_of_labels():
    def item(target, views):
        return Item(torch.zeros(views, 2, 3, 4, 4, dtype=torch.uint8), (target,) * views, 0, tuple(range(views)))

    labels, none = MultiHot((0, 2), 3), MultiHot((), 3)
    assert collate([item(labels, 2), item(none, 1)]).targets.tolist() == [[1, 0, 1], [1, 0, 1], [0, 0, 0]]
    lone = collate([Item(None, (labels,), 4, bad=(BadSample(4, "x", "empty", target=labels),))])
    assert (len(lone), lone.targets.shape, lone.targets.dtype) == (0, (0, 3), torch.float32)


def test_labels_with_another_separator_between_them_are_named(tmp_path, caplog):
    rows = [Row(f"{number}.mp4", label, multi_label=True) for number, label in enumerate(("walk", "run", "walk|run"))]
    SampleIndex(rows, root=tmp_path)
    assert "'walk|run' is one class here: the labels of a file are separated by ';'" in caplog.text
