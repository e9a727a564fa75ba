"""`mvrec data show` draws masks and boxes where the loader has them, over the loader's pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.data import MaskFolder, ObjectFolder, VideoBoxes
from mvrec.data.generated.digit_boxes import generate_digit_boxes
from mvrec.data.generated.digit_objects import generate_digit_objects
from mvrec.data.generated.digit_scenes import generate_digit_scenes
from mvrec.data.sets.recognition_data import RecognitionData
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.objects.augment import ObjectAugment
from mvrec.inference.objects.box_drawing import colour_of
from mvrec.looking.page import data_page
from mvrec.looking.views import ShownView, first_views
from mvrec.tasks.segmentation.colours import colours

COUNTS = {"train": 6, "val": 2, "test": 1}


def shown_and_loaded(data: RecognitionData) -> Iterator[tuple[ShownView, np.ndarray, Any]]:
    """Each view of the first batches on the page, with the loader's pixels (T, H, W, 3) and target."""
    data.prepare_data()
    data.setup("fit")
    views, notes = first_views(data, None, per_class=1)
    assert notes == []
    assert data_page(data, views, []).count('drawn"') >= len(views)
    shown = {(view.split, view.path): view for view in views}
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        for batch in loader:
            clips = batch.clips if batch.clips.ndim == 5 else batch.clips[:, :, None]
            for number, clip, target in zip(batch.sample_ids.tolist(), clips, batch.targets, strict=True):
                pixels = clip.permute(1, 2, 3, 0).numpy()
                if isinstance(target, dict) and "size" in target:
                    height, width = target["size"].tolist()
                    pixels = pixels[:, :height, :width]
                yield shown.pop((split, str(data.index(split)[number].path))), pixels, target
    assert not shown


def assert_boxed(view: ShownView, corners: np.ndarray, numbers: list[int]) -> None:
    """A corner of each box, the others may be under text, is drawn in its colour."""
    factor = view.drawn.shape[0] / view.pixels.shape[1]
    assert len(corners)
    for (left, top, right, bottom), number in zip(corners * factor, numbers, strict=True):
        is_drawn = []
        for x, y in ((left, top), (left, bottom), (right, top), (right, bottom)):
            column, row = (min(int(end), side - 1) for end, side in zip((x, y), view.drawn.shape[1::-1], strict=True))
            around = view.drawn[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 3)
            is_drawn.append((around == colour_of(number)).all(1).any())
        assert any(is_drawn)


def test_masks_are_painted_in_the_colour_of_each_class(tmp_path: Path) -> None:
    generate_digit_scenes(tmp_path / "scenes", images=COUNTS, size=64)
    data = MaskFolder(str(tmp_path / "scenes"), size=80, batch_size=3, num_workers=0, seed=3)
    for view, pixels, classes in shown_and_loaded(data):
        np.testing.assert_array_equal(view.pixels, pixels)
        labelled = classes.numpy() != 255
        np.testing.assert_array_equal(view.drawn[~labelled], pixels[0][~labelled])
        mixed = (pixels[0][labelled].astype(int) + colours(data.num_classes)[classes.numpy()[labelled]]) / 2
        assert np.abs(view.drawn[labelled] - mixed).max() <= 1
        assert ("not labelled" in view.label) == bool((~labelled).mean() > 0.005)
        assert view.split == "val" or {"crop", "scaled to", "flip"} == dict(view.choices).keys()


def test_a_broken_mask_is_a_note(tmp_path: Path) -> None:
    generate_digit_scenes(tmp_path / "scenes", images=COUNTS, size=64)
    broken = [f"masks/{split}/00000.png" for split in ("train", "val")]
    for name in broken:
        (tmp_path / "scenes" / name).write_bytes(b"no mask")
    data = MaskFolder(str(tmp_path / "scenes"), size=64, batch_size=3, num_workers=0, max_bad_fraction=1.0)
    data.setup("fit")
    views, notes = first_views(data, None, per_class=1)
    assert {view.split for view in views} == {"train", "val"}
    assert len(notes) == 2
    assert all(f"mask {name}" in note for name, note in zip(broken, notes, strict=True))


def test_objects_are_drawn_where_the_loader_has_them(tmp_path: Path) -> None:
    generate_digit_objects(tmp_path / "objects", images=COUNTS, size=64)
    augment = ObjectAugment(short_sides=(320, 384, 448))  # as large as pictures under boxes
    data = ObjectFolder(
        str(tmp_path / "objects"), protocol="torchvision-640x480", augment=augment, batch_size=3, num_workers=0, seed=3
    )
    for view, pixels, target in shown_and_loaded(data):
        np.testing.assert_array_equal(view.pixels, pixels)
        names = [data.class_names[label] for label in target["labels"].tolist()]
        assert view.label == ", ".join(names)
        assert_boxed(view, target["boxes"].numpy(), target["labels"].tolist())
        if view.split == "train":
            covered = target["masks"].numpy().any(0).astype(bool)
            assert (view.drawn[covered] != pixels[0][covered]).any(1).mean() > 0.9


def test_boxes_of_actions_are_drawn_in_the_key_frame(tmp_path: Path) -> None:
    generate_digit_boxes(tmp_path / "boxes", videos=COUNTS, size=64)
    data = VideoBoxes(str(tmp_path / "boxes"), clip=ClipSpec(4, 2, 8.0), size=64, batch_size=3, num_workers=0, seed=3)
    for view, pixels, target in shown_and_loaded(data):
        np.testing.assert_array_equal(view.pixels, pixels)
        corners, actions = target["corners"].numpy(), target["actions"].numpy().astype(bool)
        inside = (corners[:, 2:] > corners[:, :2]).all(1)
        names = ["; ".join(data.class_names[number] for number in np.flatnonzero(row)) for row in actions[inside]]
        assert view.label.startswith("; ".join(names))
        assert_boxed(view, corners[inside], list(range(int(inside.sum()))))
        assert dict(view.choices)["key frame"].endswith(" s")
