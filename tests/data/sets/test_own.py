"""Datasets of one's own, item by item."""

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from mvrec.data import ImageDataset, VideoDataset
from mvrec.data.loading.batch import SampleKey
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import PartError, UserError

FRAMES = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(40, 1).repeat(48, 2).repeat(3, 3)


class Listed(Dataset):
    """Items from a list."""

    def __init__(self, items, **attributes):
        self.items, self.reads = items, 0
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        self.reads += 1
        return self.items[number]


def data_of(*items, **attributes):
    dataset = Listed(list(items), **attributes)
    data = VideoDataset(dataset, clip=ClipSpec(num_frames=4, stride_frames=1), size=32, batch_size=1, seed=0)
    return dataset, data


def test_arrays_and_files_train_alike_and_labels_are_names_or_numbers(digits):
    video = next(digits.glob("train/*/*.mp4"))
    dataset, data = data_of((FRAMES, "b"), (str(video), "a"), (video, "a"))
    data.setup("fit")
    assert data.class_names == ("a", "b")
    samples = data.train_dataset(data.index("train"), seed=0)
    shapes = [samples[SampleKey(0, number)].views.shape for number in range(3)]
    assert shapes == [(1, 4, 3, 32, 32)] * 3
    dataset, data = data_of((FRAMES, 1), (FRAMES, 0), classes=["x", "y"], targets=[1, 0])
    data.setup("fit")
    assert (data.class_names, dataset.reads) == (("x", "y"), 0)
    assert [data.index("train")[number].label for number in range(2)] == [1, 0]


def test_images_are_arrays_files_and_those_of_pillow(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(FRAMES[7]).save(path, exif=exif)
    items = [(FRAMES[7], "a"), (path, "b"), (str(path), "b"), (Image.fromarray(FRAMES[7]), "a")]
    data = ImageDataset(Listed(items), val=Listed(items), size=32, batch_size=1, seed=0)
    data.setup("fit")
    samples, scored = data.train_dataset(data.index("train"), seed=0), data.eval_dataset("test")
    assert [samples[SampleKey(0, number)].views.shape for number in range(4)] == [(1, 3, 32, 32)] * 4
    assert [scored[SampleKey(0, number)].views.unique().tolist() for number in range(4)] == [[7]] * 4
    assert [samples.read(data.index("train")[number].path).shape[:2] for number in (0, 1)] == [(40, 48), (48, 40)]


def test_an_array_of_other_axes_is_no_image():
    data = ImageDataset(Listed([(FRAMES, "a")] * 2, targets=["a", "b"]), size=32, batch_size=1, seed=0)
    data.setup("fit")
    bad = data.train_dataset(data.index("train"), seed=0)[SampleKey(0, 0)].bad
    assert "data.train: item 0 is uint8 (8, 40, 48, 3), expected uint8 (H, W, 3) RGB" in bad[0].stop


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((FRAMES / 255.0, "b"), r"data.train: item 1 is float64 \(8, 40, 48, 3\), expected uint8 .*; multiply by 255"),
        ((FRAMES[0], "b"), r"item 1 is uint8 \(40, 48, 3\), expected uint8 \(T, H, W, 3\) RGB"),
        (FRAMES, r"item 1 is a ndarray, expected \(path or uint8 array, label\)"),
        ((FRAMES, "b", 3), r"item 1 is 3 values, expected"),
    ],
)
def test_items_of_another_form_end_the_run_in_one_line(item, message):
    _, data = data_of((FRAMES, "a"), item, targets=["a", "b"])
    data.setup("fit")
    bad = data.train_dataset(data.index("train"), seed=0)[SampleKey(0, 1)].bad
    with pytest.raises(PartError, match=message):
        raise PartError(bad[0].stop)


def test_labels_without_a_class_and_exceptions_name_the_item():
    with pytest.raises(UserError, match=r"data.train: item 1 has the label 2, there are 2 classes"):
        data_of((FRAMES, 0), (FRAMES, 2), classes=["x", "y"])[1].setup("fit")
    with pytest.raises(PartError, match=r"data.train: .*Short raised IndexError: .* \(item 0\); --debug shows where"):
        VideoDataset(type("Short", (Listed,), {"__len__": lambda self: 1})([])).setup("fit")
