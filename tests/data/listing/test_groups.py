"""Files that belong together, and splits and folds that keep them together."""

import hashlib
from pathlib import Path

import pytest

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.groups.rules import groups
from mvrec.data.listing.layouts import ListsAndFolders
from mvrec.data.sets.folder import HashSplit, find_folder_layout
from mvrec.errors import UserError

CLIPS = [
    f"{name}/v_{name}_g{group:02}_c{clip:02}.mp4"
    for name in ("Punch", "Höher werfen")
    for group in range(10)
    for clip in range(4)
]


def tree(root: Path, paths: list[str]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def paths_of(layout: HashSplit | Folds, split: str) -> set[str]:
    return {row.path for row in layout.rows(split)}


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["v_Punch_g01_c03", "v_Punch_g01_c04"], "v_Punch_g01"),
        (["game12_0003", "game12_0004"], "game12"),
        (["name-part2", "name-part3"], "name"),
        (["tanz (1)", "tanz (2)"], "tanz"),
        (["-aB_c3_000010_000020", "-aB_c3_000040_000050"], "-aB_c3"),
    ],
)
def test_guessed_stems(names: list[str], group: str) -> None:
    others = [f"a/{word}.mp4" for word in ("x1y", "other", "more")]
    grouping = groups([f"a/{name}.mp4" for name in names] + others)
    assert grouping.of == [group, group, *others]
    assert names[0] in grouping.note
    assert "--data.group none" in grouping.note


@pytest.mark.parametrize(
    "paths",
    [
        [f"{name}/clip_{number}.mp4" for name in "ab" for number in range(5)],  # all of a class
        ["a/x.mp4", "a/y.mp4", "a/z1.mp4", "a/z2.mp4"],  # no counter stands apart
        [f"{name}/{name}_{number}.mp4" for name in "ab" for number in range(5)],
    ],
)
def test_no_guess(paths: list[str]) -> None:
    assert groups(paths) == groups(paths, "none")


FRAMES = [
    f"{name}/vid {video}/frame_{number:04}.jpg"
    for name in "ab"
    for video in "xyz"
    for number in range(2 + 5 * (video == "x"))
]


def test_folders_of_numbered_files_below_classes_are_guessed_as_videos() -> None:
    grouping = groups([*FRAMES, "a/alone.jpg"])
    assert grouping.of == [path.rpartition("/")[0] for path in FRAMES] + ["a/alone.jpg"]
    assert grouping.note.startswith("6 folders of numbered files, such as a/vid x, ")
    named = [path.replace("frame", f"{place}") for place, path in enumerate(FRAMES)]  # each with a name of its own
    assert groups(named) == groups(named, "none")


def test_folders_of_splits_and_classes_are_no_videos() -> None:
    paths = [f"{split}/{name}/{number}.jpg" for split in ("train", "val") for name in "ab" for number in range(4)]
    assert groups(paths, labels=list("aaaabbbb") * 2) == groups(paths, "none")


def test_rules() -> None:
    paths = ["a/one/1.mp4", "a/one/2.mp4", "b/two/1.mp4"]
    assert groups(paths, "folder:2").of == ["a/one", "a/one", "b/two"]
    assert groups(paths, r"/(\d)\.").of == ["1", "2", "1"]
    assert groups(paths, "one|tw").of == ["one", "one", "tw"]
    assert groups(paths, "column:who", columns=[{"who": "p"}, {"who": ""}, {"who": "p"}]).of == ["p", paths[1], "p"]


@pytest.mark.parametrize("rule", ["(", "folder:0", "folder:7", "column:who", "game"])
def test_unfit_rules(rule: str) -> None:
    with pytest.raises(UserError, match=r"data\.group"):
        groups(["a/1.mp4", "b/2.mp4"], rule, columns=[{}, {"other": "1"}])


def test_split_keeps_groups(tmp_path: Path) -> None:
    layout = find_folder_layout(tree(tmp_path, CLIPS), VIDEOS, val_fraction=0.2)
    train, val = paths_of(layout, "train"), paths_of(layout, "val")
    assert train | val == set(CLIPS)
    assert len(val) == 16  # a fifth of each class
    assert not {path[:-8] for path in train} & {path[:-8] for path in val}
    assert len(layout.notes) == 1
    alone = find_folder_layout(tmp_path, VIDEOS, val_fraction=0.2, group="none")
    assert {path[:-8] for path in paths_of(alone, "train")} & {path[:-8] for path in paths_of(alone, "val")}


def test_groups_over_classes(tmp_path: Path) -> None:
    frames = [
        f"{'goal' if frame % 3 else 'foul'}/game{game}_{frame:04}.mp4" for game in range(12) for frame in range(9)
    ]
    layout = find_folder_layout(tree(tmp_path, frames), VIDEOS, val_fraction=0.25)
    train, val = paths_of(layout, "train"), paths_of(layout, "val")
    games = [{path.split("/")[1].split("_")[0] for path in split} for split in (train, val)]
    assert len(games[1]) == 3
    assert not games[0] & games[1]


def test_split_without_groups_stays(tmp_path: Path) -> None:
    """Files whose stems do not repeat: those with the lowest hashes of each class, as ever."""
    words = [hashlib.sha1(bytes([number])).hexdigest()[:8] for number in range(60)]
    paths = [f"{'ab'[number % 2]}/{word}.mp4" for number, word in enumerate(words)]
    layout = find_folder_layout(tree(tmp_path, paths), VIDEOS, val_fraction=0.1)

    def share(path: str) -> int:
        return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big")

    expected = {path for name in "ab" for path in sorted((p for p in paths if p[0] == name), key=share)[:3]}
    assert paths_of(layout, "val") == expected


def test_folds_keep_groups(tmp_path: Path) -> None:
    layout = ListsAndFolders(tree(tmp_path, [f"train/{path}" for path in CLIPS]), VIDEOS)
    validated = []
    for number in range(1, 6):
        folds = Folds(layout, Fold(number, 5), target_of=lambda row: None, group="auto")
        train, val = paths_of(folds, "train"), paths_of(folds, "val")
        assert not {path[:-8] for path in train} & {path[:-8] for path in val}
        validated += sorted(val)
    assert sorted(validated) == sorted(f"train/{path}" for path in CLIPS)


def test_folds_by_column(tmp_path: Path) -> None:
    names = ["one", "two", "three", "four", "five", "six"]
    tree(tmp_path, [f"{name}.mp4" for name in names])
    lines = [f"{name}.mp4,{'ab'[place % 2]},p{place // 2}" for place, name in enumerate(names)]
    (tmp_path / "train.csv").write_text("\n".join(["path,label,person", *lines]))
    folds = Folds(ListsAndFolders(tmp_path, VIDEOS), Fold(1, 3), target_of=lambda row: None, group="column:person")
    assert len({dict(row.others)["person"] for row in folds.rows("val")}) == 1
    assert len(list(folds.rows("val"))) == 2
