import pytest

from mvrec.data.listing.class_names import ClassNames, class_names_of, known_class_names, normalised, unique_names
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row
from mvrec.errors import UserError
from mvrec.tasks.classification.class_match import compare_classes

WORDNET = pytest.importorskip("timm.data").ImageNetInfo().label_names()  # the 1000 ids


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("riding_a_bike", "riding a bike"),
        ('"massaging person\'s head"', "massaging persons head"),
        ("passing American football (in game)", "passing_american_football_(in_game)"),
        ("  tai   chi ", "Tai chi"),
        ("person\u2019s", "person's"),
    ],
)
def test_spellings_of_one_name_are_equal(one, other):
    assert normalised(one) == normalised(other)


def test_other_names_stay_apart():
    names = ["push up", "push ups", "pull ups", "straße", "a-b", "a b", "(a) b"]
    assert len({normalised(name) for name in names}) == len(names)


def test_labels_by_name_spelling_alias_and_number():
    names = ClassNames(["Riding a bike", "crane", "Crane", "7"], aliases={"n01": 1})
    labels = ["Riding a bike", "riding_a_bike", "0", "crane", "Crane", "n01", "7", "2"]
    assert [names.number(label, where="x") for label in labels] == [0, 0, 0, 1, 2, 1, 3, 2]
    for label, message in {
        "CRANE": "x: 'CRANE' is not one of the 4 classes",  # which of the two?
        "rinding a bike": "did you mean 'Riding a bike'",
        "4": "x: label 4 is outside 0..3",
        "-1": "x: label -1 is outside 0..3",
        "1.0": "'1.0' is not one of",
    }.items():
        with pytest.raises(UserError, match=message):
            names.number(label, where="x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "1.5"], "here: label 1.5 is not a whole number"),
        (["0", "3.0", "nan"], "here: label 3.0 is not a whole number"),
        (["run", "-3"], "here: label -3 is negative"),
        (
            ["0", "270"],
            "here: label 270 is a class number, but no row has 1: name all 271 classes in a file classes.txt",
        ),
        (["run", "caf\udce9"], r"here: class 'caf\\udce9' is not UTF-8"),
    ],
)
def test_labels_that_would_make_wrong_classes_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        class_names_of(dict.fromkeys(labels, "here"))


def test_folders_that_are_called_by_numbers_are_names():
    assert class_names_of(dict.fromkeys(["180", "0", "90", "270"], ""), are_names=True) == ["0", "90", "180", "270"]


def test_an_accent_is_the_same_composed_or_behind_its_letter():
    names = ClassNames(["caf\u00e9", "bar"])
    assert names.number("cafe\u0301", where="") == 0


def test_names_that_look_like_numbers_among_names():
    assert class_names_of(dict.fromkeys(["run", "1.5", "10"], "")) == ["1.5", "10", "run"]


def test_shipped_names_are_those_of_kinetics_and_imagenet():
    kinetics, imagenet = known_class_names("kinetics400"), known_class_names("imagenet1k")
    assert (len(set(kinetics)), kinetics[0], kinetics[-1]) == (400, "abseiling", "zumba")
    assert (len(set(imagenet)), imagenet[0], imagenet[65], imagenet[999]) == (
        1000,
        "tench",
        "sea snake",
        "toilet tissue",
    )


def test_a_name_twice_gets_its_number():
    assert unique_names(["crane", "boat", "crane"]) == ["crane (0)", "boat", "crane (2)"]


def test_wordnet_ids_mean_shipped_names(tmp_path):
    rows = [Row(f"{wnid}.JPEG", wnid) for wnid in reversed(WORDNET)]
    index = SampleIndex(rows, root=tmp_path, class_names=known_class_names("imagenet1k"))
    assert index.labels.tolist() == list(range(999, -1, -1))
    assert index.class_names[65] == "sea snake"
    few = SampleIndex([Row("a.JPEG", WORDNET[65])], root=tmp_path, class_names=index.classes)
    assert few.labels.tolist() == [65]
    own = SampleIndex(rows[:3], root=tmp_path, class_names=sorted(WORDNET))
    assert own.labels.tolist() == [999, 998, 997]


@pytest.mark.parametrize("ids", [WORDNET[:100], [*WORDNET[1:], "n99999999"]])
def test_other_wordnet_ids_get_no_wrong_names(tmp_path, ids):
    rows = [Row(f"{wnid}.JPEG", wnid, source="train") for wnid in ids]
    with pytest.raises(UserError, match=rf"train: {len(ids)} WordNet ids that are not the 1000 of ILSVRC2012"):
        SampleIndex(rows, root=tmp_path, class_names=known_class_names("imagenet1k"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("\n", "there are no names in it"),
        (b"caf\xe9\n", r"names\.txt: byte 3 is not UTF-8"),
    ],
)
def test_files_without_names_are_refused(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        known_class_names(str(path))


def test_a_file_of_names_may_number_its_lines(tmp_path):
    (tmp_path / "names.txt").write_text("run\n10 pin bowling\njump\n")
    assert known_class_names(str(tmp_path / "names.txt")) == ["run", "10 pin bowling", "jump"]
    (tmp_path / "names.txt").write_text("1 Run\n2 Jump High\n")
    assert known_class_names(str(tmp_path / "names.txt")) == ["Run", "Jump High"]


def test_checkpoint_and_data_may_spell_differently():
    saved, found = ["riding a bike", "tai chi", "yoga"], ["Riding_a_bike", '"tai chi"', "juggling"]
    assert compare_classes(saved[:2], found[:2]) is None
    with pytest.raises(UserError, match=r"^1 of 3 classes differ: class 2 is 'yoga'"):
        compare_classes(saved, found)


@pytest.mark.parametrize(
    ("saved", "found", "message"),
    [
        (["a", "b"], ["a"], "the checkpoint knows 2 classes, the data have 1"),
        (
            list("abcdef"),
            list("abxyzw"),
            "^4 of 6 classes differ: class 2 is 'c' in .* 'x' in the data; class 3 .*; class 4 is 'e' .* 'z' in .*$",
        ),
        (
            ["a", "b", "c"],
            ["b", "a", "c"],
            "2 of 3 classes differ, the same names in another order: .*: class 0 is 'a'",
        ),
    ],
)
def test_other_classes_are_refused(saved, found, message):
    with pytest.raises(UserError, match=message):
        compare_classes(saved, found)


def test_an_index_warns_of_repeated_rows_and_missing_classes(tmp_path, caplog):
    rows = [Row("a", "0"), Row("a", "0"), Row("b", "9"), Row("b", "9"), Row("b", "9")]
    index = SampleIndex(rows, root=tmp_path, name="train", class_names=[str(number) for number in range(10)])
    assert len(index) == 5
    repeats, gaps = caplog.messages
    assert repeats == f"{tmp_path}, train: 3 of 5 rows repeat another one and count again"
    assert gaps == f"{tmp_path}, train: no samples for 8 of 10 classes: '1', '2', '3', '4', '5' and 3 more"
    caplog.clear()
    SampleIndex([Row("a", "Riding a bike"), Row("b", "riding_a_bike")], root=tmp_path)
    assert "two classes that differ only in spelling" in caplog.text


def test_a_file_with_two_labels_is_refused(tmp_path):
    rows = [
        Row("x", "run", source="l", line=2),
        Row("y", "run", source="l", line=3),
        Row("x", "jump", source="l", line=9),
    ]
    with pytest.raises(UserError, match=r"^l:9: 'x' is 'jump' here and 'run' at l:2 \(several .* column 'labels'"):
        SampleIndex(rows, root=tmp_path)


def test_parts_of_a_video_may_have_their_own_labels(tmp_path, caplog):
    rows = [Row("x", "run", 0, 2), Row("x", "jump", 2, 4), Row("y", "jump")]
    index = SampleIndex(rows, root=tmp_path)
    assert [(sample.start_seconds, sample.end_seconds) for sample in index] == [(0, 2), (2, 4), (None, None)]
    assert caplog.text == ""
    with pytest.raises(UserError, match=r"'x' is 'run' here and 'jump' at"):
        SampleIndex([*rows, Row("x", "run", 2, 4)], root=tmp_path)
