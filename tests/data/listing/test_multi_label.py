"""Files with several classes, or none: their lists, their index, their batches."""

import math
import random
import tracemalloc

import numpy as np
import pytest
import torch
from video_files import write_video

from mvrec.data import ImageFolder, Kinetics, SomethingSomething, VideoFolder
from mvrec.data.listing.class_names import ClassNames
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.listing.label_sets import LabelSets
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, read_rows, write_rows
from mvrec.data.loading.batch import BadSample, Item, SampleKey, collate
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.loading.loader import ClipLoader, EvalBatches
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.targets import ClassIndex, MultiHot, NoTarget
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.processes import Limits


def listed(root, text, name="train.csv", **options):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode())
    return find_split(root, name.split(".")[0], **options)


def contents(index):
    return [(sample.path.relative_to(index.root).as_posix(), sample.label) for sample in index]


# -- lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_column_of_labels_gives_each_file_its_classes(tmp_path, newline):
    lines = ["path,labels", "a.mp4,run;jump high", "b.mp4,", '"c, d.mp4"," fall ; run "', "e.mp4,fall", ""]
    index = listed(tmp_path, newline.join(lines))
    assert index.target_type is MultiHot
    assert index.class_names == ("fall", "jump high", "run")
    assert contents(index) == [("a.mp4", (1, 2)), ("b.mp4", ()), ("c, d.mp4", (0, 2)), ("e.mp4", (0,))]
    assert [index.target(row) for row in range(4)] == [MultiHot(own, 3) for own in ((1, 2), (), (0, 2), (0,))]
    assert index.class_counts().tolist() == [2, 1, 2]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
def test_any_delimiter_of_a_header_of_labels(tmp_path, delimiter):
    rows = [("end", "PATH", "other", "Labels", "start"), ("3.5", '"a b.mp4"', "x", '"2;0"', "1")]
    index = listed(tmp_path, "\n".join(delimiter.join(row) for row in [*rows, ('""', "c", "y", '""', "2")]))
    assert index.class_names == ("0", "1", "2")
    assert list(index) == [Sample(tmp_path / "a b.mp4", (0, 2), 1.0, 3.5), Sample(tmp_path / "c", (), 2.0, None)]


def test_a_semicolon_in_a_column_label_is_part_of_the_name(tmp_path, caplog):
    index = listed(tmp_path, "path,label\na.mp4,run; fast\nb.mp4,walk\n")
    assert "is one class here" not in caplog.text
    assert index.target_type is ClassIndex
    assert index.class_names == ("run; fast", "walk")
    assert [index.target(row) for row in range(2)] == [ClassIndex(0), ClassIndex(1)]
    listed(tmp_path, "path,label\na.mp4,run\nb.mp4,walk\nc.mp4,walk; run\n")
    assert "'walk; run' is one class here: several per file need a column 'labels' instead of 'label'" in caplog.text


def test_names_numbers_and_spellings_mix_in_a_label(tmp_path):
    (tmp_path / "classes.txt").write_text("jump\nriding a bike\n")
    for label in ("jump;Riding_A_bike", "0; 1", "0;riding a bike", "riding a bike ;jump"):
        assert contents(listed(tmp_path, f"path,labels\na.mp4,{label}\n")) == [("a.mp4", (0, 1))]


# Rows behind the header `path,labels` (or below, a list with a header of its own), the line at fault, what is said.
MALFORMED_ROWS = {
    "a,run\nb,run;jumb": (3, r"'jumb' is not one of the 2 classes; did you mean 'jump'\?$"),
    "a,run;2": (2, r"label 2 is outside 0\.\.1$"),
    "a,run;-1": (2, r"label -1 is outside 0\.\.1$"),
    "a,run\n\nb,run;jump;run": (4, "label 'run' is listed twice$"),
    "a,run;0": (2, "label 'run' is listed twice$"),
    "a,run;;jump": (2, "an empty label in 'run;;jump': one ';' between two$"),
    "a,run;": (2, "an empty label in 'run;'"),
    "a,;": (2, "an empty label in ';'"),
    ",run": (2, "path must not be empty$"),
    "a": (2, "1 fields, the header has 2: path,labels$"),
    "a,run,jump": (2, "3 fields, the header has 2: path,labels$"),
}
MALFORMED_LISTS = {
    "path,labels,label\na,run,1\n": (1, r"the header names both 'label' \(one .*\) and 'labels': remove one$"),
    "path,labels,labels\na,run,1\n": (1, "the header names 'labels' twice$"),
    "original_vido_id video_id frame_id path labels\nA 0 0 A.jpg 1\n": (1, "this is a list of single frames, which "),
    "path,label\na,run\nb,\n": (3, r"path and label must not be empty \(files without a class: .*'labels'"),
    "path,label\na,run;jump\n": (2, r"'run;jump' is not one of the 2 classes \(several classes per file: .* 'labels'"),
    "path,label\na,run\na,jump\n": (3, r"'a' is 'jump' here and 'run' at .*:2 \(several .*'labels'"),
    "a.mp4 1 0 1\n": (1, r"several numbers after the file: .* the header `path,labels`, as in `x\.mp4,3;7`"),
    "a b.mp4 1 0 1 1 0\n": (1, "several numbers after the file"),
}


def test_malformed_lists_of_labels_are_refused_with_their_line(tmp_path):
    (tmp_path / "classes.txt").write_text("run\njump\n")
    lists = {f"path,labels\n{rows}\n": fault for rows, fault in MALFORMED_ROWS.items()} | MALFORMED_LISTS
    for text, (line, message) in lists.items():
        with pytest.raises(UserError, match=rf"train\.csv:{line}: {message}") as caught:
            listed(tmp_path, text)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"train\.csv: no videos in it$"):
        listed(tmp_path, "path,labels\n")


def test_labels_that_make_no_classes_are_refused(tmp_path):
    for rows, message in {
        "a,0;-1": r"train\.csv:2: label -1 is negative$",
        "a,0;1.5": r"train\.csv:2: label 1\.5 is not a whole number$",
        "a,\nb,": r"train\.csv: none of its 2 rows has a label$",
    }.items():
        with pytest.raises(UserError, match=message):
            listed(tmp_path, f"path,labels\n{rows}\n")


def test_class_names_that_no_list_could_hold(tmp_path):
    (tmp_path / "classes.txt").write_text("run; fast\njump\n")
    with pytest.raises(UserError, match=r"train\.csv: class 'run; fast' holds .*';'.* separates labels"):
        listed(tmp_path, "path,labels\na,0;1\n")
    assert listed(tmp_path, "path,label\na,0\n").class_names[0] == "run; fast"


def test_lines_of_the_same_file_are_joined(tmp_path, caplog):
    """A line per label, as lists in long form have them, wherever they stand."""
    caplog.set_level("INFO")
    text = "path,labels,start,end\na,run,,\nb,,,\na,jump,,\na,run,1,2\nc,fall,,\na,run;fall,,\nb,jump,,\na,,1,2\n"
    index = listed(tmp_path, text)
    assert index.class_names == ("fall", "jump", "run")
    assert [(path, label) for path, label in contents(index)] == [
        ("a", (0, 1, 2)),
        ("b", (1,)),
        ("a", (2,)),
        ("c", (0,)),
    ]
    assert [sample.start_seconds for sample in index] == [None, None, 1.0, None]
    assert f"{tmp_path}, train: 4 rows repeat a file and are merged with its first row" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_joining_is_that_of_sets(tmp_path, seed):
    rng = random.Random(seed)
    names = [f"{rng.randrange(9)}" * rng.choice([1, 30]) for _ in range(60)]
    rows = [Row(name, ";".join(rng.sample("abcdefg", rng.randrange(4))), multi_label=True) for name in names]
    expected: dict[str, set[str]] = {}
    for row in rows:
        expected.setdefault(row.path, set()).update(row.labels)
    index = SampleIndex(rows, root=tmp_path, class_names=list("abcdefg"))
    joined = {name: {index.class_names[label] for label in labels} for name, labels in contents(index)}
    assert list(joined.items()) == list(expected.items())
    assert len(index) == len(expected)
    assert index.class_counts().sum() == sum(map(len, expected.values()))


def test_classes_without_a_file_are_named(tmp_path, caplog):
    listed(tmp_path, "path,labels\na,0;3\nb,\n")
    assert f"{tmp_path}, train: no samples for 2 of 4 classes: '1', '2'" in caplog.text


MULTI_ROWS = [
    Row("a, b.mp4", "run;jump, high", multi_label=True),
    Row("ü.mp4", "", 1.25, math.nan, multi_label=True),
    Row("x.tar/n01/1.JPEG", "run", offset=1536, size=7, multi_label=True),
]


@pytest.mark.parametrize(
    ("chosen", "header"),
    [([0], "path,labels"), ([1, 0], "path,labels,start,end"), ([2, 0], "path,labels,offset,size"), ([0, 1, 2], None)],
)
def test_what_is_written_is_read(tmp_path, chosen, header):
    rows = [MULTI_ROWS[number] for number in chosen]
    write_rows(tmp_path / "train.csv", rows)
    text = (tmp_path / "train.csv").read_text()
    assert text.splitlines()[0] == (header or "path,labels,start,end,offset,size")
    assert [str(row._replace(source="", line=0)) for row in read_rows(tmp_path / "train.csv")] == list(map(str, rows))


def test_rows_that_no_list_can_hold_are_refused_and_nothing_is_written(tmp_path):
    for rows, message in (
        ([Row("a", "x", multi_label=True), Row("b", "x")], "rows with one label and multi-label rows"),
        ([Row("", "", multi_label=True)], "would not read '' back"),
        ([Row("a", " x", multi_label=True)], "would not read ' x' back"),
    ):
        with pytest.raises(UserError, match=message):
            write_rows(tmp_path / "train.csv", rows)
    assert not list(tmp_path.iterdir())


# -- splits that do not agree -------------------------------------------------------------------------------------


def test_splits_with_one_and_with_several_labels_are_refused(tmp_path):
    has = {"label": "one label", "labels": "several labels"}
    for train, val in (("label", "labels"), ("labels", "label")):
        for split, column in (("train", train), ("val", val)):
            (tmp_path / f"{split}.csv").write_text(f"path,{column}\na.mp4,run\nb.mp4,jump\n")
        message = rf"val\.csv: has {has[val]} per file, .*train\.csv has {has[train]}: .*'labels', or none$"
        with pytest.raises(UserError, match=message):
            Kinetics(str(tmp_path)).setup("fit")
    (tmp_path / "val.csv").unlink()
    (tmp_path / "val/run").mkdir(parents=True)
    (tmp_path / "val/run/a.mp4").touch()
    with pytest.raises(UserError, match=r"val/run: has one label per file, .*train\.csv has several labels"):
        Kinetics(str(tmp_path)).setup("fit")


def test_rows_of_both_kinds_are_refused(tmp_path):
    rows = [Row("a", "x", source="l", line=2, multi_label=True), Row("b", "x", source="l", line=3)]
    with pytest.raises(UserError, match=r"^l:3: a list cannot mix rows with one label and with several, as at l:2$"):
        SampleIndex(rows, root=tmp_path)
    with pytest.raises(UserError, match=r"^l:2: a list cannot mix rows with one label and with several, as at l:3$"):
        SampleIndex(rows[::-1], root=tmp_path)


@pytest.mark.parametrize("module", [Kinetics, VideoFolder, ImageFolder])
@pytest.mark.parametrize("given", [False, True])
def test_every_module_with_lists_reads_several_labels(tmp_path, module, given):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("path,labels\na,2;0\nb,\n")
    if given:
        (tmp_path / "names.txt").write_text("run\njump\nfall\n")
    data = module(str(tmp_path), classes=str(tmp_path / "names.txt") if given else None)
    assert data.target_type is NoTarget
    for stage in ("fit", "test"):
        data.setup(stage)
        assert data.target_type is MultiHot
    assert data.class_names == (("run", "jump", "fall") if given else ("0", "1", "2"))
    assert [sample.label for sample in data.index("test")] == [(0, 2), ()]
    if module is not ImageFolder:
        assert data.val_protocol.aggregation == data.test_protocol.as_dict()["aggregation"] == "mean of sigmoid"
        assert str(data.test_protocol).endswith("mean of sigmoid")


def test_given_classes_leave_the_kind_to_the_list(tmp_path):
    index = SampleIndex([Row("a", "x", multi_label=True)], root=tmp_path, class_names=ClassNames(["x", "y"]))
    assert index.target_type is MultiHot
    assert index.classes.multi_label
    assert not SampleIndex([Row("a", "x")], root=tmp_path, class_names=["x", "y"]).classes.multi_label


def test_json_lists_have_one_label(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "labels.json").write_text('{"Holding; something": "0", "Pushing": "1"}')
    entries = '[{"id": "1", "template": "Holding; [something]"}, {"id": "2", "template": "Pushing"}]'
    for name in ("train", "validation"):
        (folder / f"{name}.json").write_text(entries)
    data = SomethingSomething(str(tmp_path))
    data.setup("fit")
    assert data.target_type is ClassIndex
    assert data.class_names[0] == "Holding; something"
    assert data.index("train").labels.tolist() == [0, 1]
    assert data.val_protocol.aggregation == "mean of softmax"


# -- packed -------------------------------------------------------------------------------------------------------


def test_label_sets_by_hand():
    sets = LabelSets(np.array([3, 1, 0, 2, 1], np.int32), np.array([2, 2, 5]))
    assert [sets[row].tolist() for row in range(len(sets))] == [[3, 1], [], [0, 2, 1]]
    assert sets.rows.tolist() == [0, 0, 2, 2, 2]
    ordered = sets.ordered()
    assert [ordered[row].tolist() for row in range(3)] == [[1, 3], [], [0, 1, 2]]
    assert ordered.first_repeated() is None
    assert LabelSets(np.array([1, 1, 2, 2]), np.array([1, 2, 4])).first_repeated() == (2, 2)
    joined = ordered.joined(np.array([1, 0, 1]))
    assert [joined[row].tolist() for row in range(2)] == [[], [0, 1, 2, 3]]


def test_many_rows_of_several_labels_are_packed(tmp_path):
    count = 20_000
    lines = (f"v/{number:06d}.mp4,{number % 157};{(number + 1) % 157};{(number + 7) % 157}" for number in range(count))
    (tmp_path / "train.csv").write_text("\n".join(["path,labels", *lines]))
    names = [str(number) for number in range(157)]
    tracemalloc.start()
    try:
        index = SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path, class_names=names)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 60 * count  # bytes: 12 of path, 8 of its end, 12 of labels, 8 of their end
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


# -- items and batches --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name in ("a", "b", "c"):
        write_video(root / f"{name}.mp4", num_frames=8)
    (root / "bad.mp4").write_bytes(b"no video")
    (root / "val.csv").write_text("path,labels\na.mp4,run;jump\nb.mp4,\nbad.mp4,jump;fall\nc.mp4,fall\n")
    return root


CLIP = ClipSpec(num_frames=2, stride_frames=2)
HOTS = {0: [0, 1, 1], 1: [0, 0, 0], 2: [1, 1, 0], 3: [1, 0, 0]}  # fall, jump, run


@pytest.mark.parametrize(("workers", "limits"), [(0, None), (1, Limits(memory=None))])
def test_batches_of_an_evaluation_have_multi_hot_targets(clips_root, tmp_path, workers, limits):
    index = find_split(clips_root, "val")
    dataset = EvalClips(index, ClipProtocol(CLIP, Views(num_clips=2, short_side=32), 32))
    batches = EvalBatches(len(index), batch_size=3, rank=0, world_size=1)
    options = {"num_workers": workers, "limits": limits, "quarantine": tmp_path}
    batches = list(ClipLoader(dataset, batches, pin_memory=False, **options))
    assert [batch.sample_ids.tolist() for batch in batches] == [[0, 0, 1, 1], [3, 3]]
    for batch in batches:
        assert batch.targets.dtype == torch.float32
        assert batch.targets.tolist() == [HOTS[number] for number in batch.sample_ids.tolist()]
        assert len(batch) == len(batch.clips)
        assert batch.to("meta").targets.shape == batch.targets.shape
    assert [entry.target for batch in batches for entry in batch.bad] == [MultiHot((0, 1), 3)]


def test_training_items_have_the_targets_of_the_file_that_was_read(clips_root):
    index = find_split(clips_root, "val")
    dataset = TrainClips(index, CLIP, 32, Augment(), repeats=2, seed=3)
    for row in range(4):
        item = dataset[SampleKey(0, row)]
        assert MultiHot.batched(item.targets).tolist() == [HOTS[item.sample_id]] * 2
        assert len(item.views) == 2
        assert (item.sample_id == row) == (row != 2)


def test_collate_keeps_the_kind_of_labels():
    def item(target, views=1):
        return Item(torch.zeros(views, 2, 3, 4, 4, dtype=torch.uint8), (target,) * views, 0, tuple(range(views)))

    one, two = MultiHot((0, 2), 3), MultiHot((), 3)
    batch = collate([item(one, 2), item(two)])
    assert batch.targets.tolist() == [[1, 0, 1], [1, 0, 1], [0, 0, 0]]
    lone = collate([Item(None, (one,), 4, bad=(BadSample(4, "x", "empty", target=one),))])
    assert (len(lone), lone.targets.shape, lone.targets.dtype) == (0, (0, 3), torch.float32)
