from pathlib import Path

import pytest

from mvrec.data.listing.class_names import (
    ClassNames,
    class_names_of,
    known_class_names,
    mirrored_classes,
    normalised,
    unique_names,
)
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row
from mvrec.errors import UserError
from mvrec.tasks.classification.class_match import compare_classes


def test_spellings_of_one_name_are_equal_and_other_names_stay_apart():
    for spelling, other in {
        "riding_a_bike": "riding a bike",
        '"massaging person\'s head"': "massaging persons head",
        "passing American football (in game)": "passing_american_football_(in_game)",
        "  tai   chi ": "Tai chi",
        "person\u2019s": "person's",
    }.items():
        assert normalised(spelling) == normalised(other)
    names = ["push up", "push ups", "pull ups", "straße", "a-b", "a b", "(a) b"]
    assert len({normalised(name) for name in names}) == len(names)


def test_labels_by_name_spelling_alias_and_number():
    names = ClassNames(["Riding a bike", "crane", "Crane", "7", "caf\u00e9"], aliases={"n01": 1})
    labels = ["Riding a bike", "riding_a_bike", "0", "crane", "Crane", "n01", "7", "2", "cafe\u0301"]
    assert [names.number(label, where="x") for label in labels] == [0, 0, 0, 1, 2, 1, 3, 2, 4]
    for label, message in {
        "CRANE": "x: 'CRANE' is not one of the 5 classes",  # which of the two?
        "rinding a bike": "did you mean 'Riding a bike'",
        "5": "x: label 5 is outside 0..4",
        "-1": "x: label -1 is outside 0..4",
        "1.0": "'1.0' is not one of",
    }.items():
        with pytest.raises(UserError, match=message):
            names.number(label, where="x")


def test_names_and_numbers_of_rows_become_classes_unless_they_would_make_wrong_ones():
    def classes(*labels, **options):
        return class_names_of(dict.fromkeys(labels, "here"), **options)

    assert classes("180", "0", "90", "270", are_names=True) == ["0", "90", "180", "270"]  # folders
    assert classes("run", "1.5", "10") == ["1.5", "10", "run"]
    for labels, message in {
        ("0", "1.5"): "here: label 1.5 is not a whole number",
        ("0", "3.0", "nan"): "here: label 3.0 is not a whole number",
        ("run", "-3"): "here: label -3 is negative",
        ("0", "270"): "here: label 270 is a class number, but no row has 1: name all 271 classes in a file classes.txt",
        ("run", "caf\udce9"): r"here: class 'caf\\udce9' is not UTF-8",
    }.items():
        with pytest.raises(UserError, match=message):
            classes(*labels)


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (["turn_left", "wave", "orbit_counterclockwise"], ["turn_left", "orbit_counterclockwise"]),
        (["向左", "跳", "links", "rechts"], ["向左", "links", "rechts"]),
        (["A", "b", "cat"], ["A", "b"]),
        (["zero", "seven", "seventh heaven"], ["zero", "seven"]),
        (list("0123456789"), list("0123456789")),
        (["0", "1", "2"], []),  # numbers of classes
        (["leftover", "bright", "cleft"], []),
    ],
)
def test_a_mirror_changes_sides_turns_and_characters(names, mirrored):
    assert mirrored_classes(names) == mirrored


def test_shipped_names_are_those_of_kinetics_and_imagenet_and_a_name_twice_gets_its_number():
    assert unique_names(["crane", "boat", "crane"]) == ["crane (0)", "boat", "crane (2)"]
    kinetics, imagenet = known_class_names("kinetics400"), known_class_names("imagenet1k")
    assert (len(set(kinetics)), kinetics[0], kinetics[-1]) == (400, "abseiling", "zumba")
    assert (len(set(imagenet)), imagenet[0], imagenet[65], imagenet[999]) == (
        1000,
        "tench",
        "sea snake",
        "toilet tissue",
    )


def wordnet_index(ids, class_names):
    return SampleIndex(
        [Row(f"{wnid}.JPEG", wnid, source="train") for wnid in ids], root=Path(), class_names=class_names
    )


def test_wordnet_ids_mean_shipped_names_and_other_ids_get_no_wrong_ones():
    names = known_class_names("imagenet1k")
    wordnet = pytest.importorskip("timm.data").ImageNetInfo().label_names()  # the 1000 ids
    index = wordnet_index(wordnet[::-1], names)
    assert index.labels.tolist() == list(range(999, -1, -1))
    assert index.class_names[65] == "sea snake"
    assert wordnet_index(wordnet[65:66], index.classes).labels.tolist() == [65]
    assert wordnet_index(wordnet[:-4:-1], sorted(wordnet)).labels.tolist() == [999, 998, 997]
    for ids in (wordnet[:100], [*wordnet[1:], "n99999999"]):
        with pytest.raises(UserError, match=rf"train: {len(ids)} WordNet ids that are not the 1000 of ILSVRC2012"):
            wordnet_index(ids, names)


def test_a_file_of_names_may_number_its_lines_and_must_have_some(tmp_path):
    path = tmp_path / "names.txt"
    for content, message in {
        None: "there is no such file",
        b"\n": "there are no names in it",
        b"caf\xe9\n": r"names\.txt: byte 3 is not UTF-8",
    }.items():
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            known_class_names(str(path))
    path.write_text("1 Run\n2 Jump High\n")
    assert known_class_names(str(path)) == ["Run", "Jump High"]


def test_checkpoint_and_data_may_spell_differently_but_have_the_same_classes():
    assert compare_classes(["riding a bike", "tai chi"], ["Riding_a_bike", '"tai chi"']) is None
    for saved, actual, message in (
        ("ab", "a", "the checkpoint knows 2 classes, the data have 1, which are among"),
        ("abcd", "xy", r"4 classes, the data have 2 and none .*: it knows 'a', 'b', 'c' \.\.\., they have 'x', 'y'$"),
        ("abc", "abx", "^1 of 3 classes differ: class 2 is 'c'"),
        ("abcdef", "abxyzw", "^4 of 6 classes differ: class 2 is 'c' in .* 'x' in the data; .*; class 4 .* 'z' in .*$"),
        ("abc", "bac", "2 of 3 classes differ, the same names in another order: .*: class 0 is 'a'"),
    ):
        with pytest.raises(UserError, match=message):
            compare_classes(list(saved), list(actual))


def test_an_index_counts_classes_and_warns_of_repeated_rows_and_missing_classes(tmp_path, caplog):
    rows = [Row(*letters) for letters in ("a0", "a0", "b9", "b9", "b9")]
    index = SampleIndex(rows, root=tmp_path, name="train", class_names=list("0123456789"))
    assert index.class_counts().tolist() == [2, *[0] * 8, 3]
    repeats, gaps = caplog.messages
    assert repeats == f"{tmp_path}, train: 3 of 5 rows repeat another one and count again"
    assert gaps == f"{tmp_path}, train: no samples for 8 of 10 classes: '1', '2', '3', '4', '5' and 3 more"
    SampleIndex([Row("a", "Riding a bike"), Row("b", "riding_a_bike")], root=tmp_path)
    assert "two classes that differ only in spelling" in caplog.messages[-1]


def test_a_file_with_two_labels_is_refused_but_parts_of_it_may_have_their_own(tmp_path, caplog):
    rows = [Row(name, label, source="l", line=line) for name, label, line in (("x", "run", 2), ("x", "jump", 9))]
    with pytest.raises(UserError, match=r"^l:9: 'x' is 'jump' here and 'run' at l:2 \(several .* column 'labels'"):
        SampleIndex(rows, root=tmp_path)
    rows = [Row("x", "run", 0, 2), Row("x", "jump", 2, 4), Row("y", "jump")]
    index = SampleIndex(rows, root=tmp_path)
    assert [(sample.start_seconds, sample.end_seconds) for sample in index] == [(0, 2), (2, 4), (None, None)]
    assert caplog.text == ""
    with pytest.raises(UserError, match=r"'x' is 'run' here and 'jump' at"):
        SampleIndex([*rows, Row("x", "run", 2, 4)], root=tmp_path)
