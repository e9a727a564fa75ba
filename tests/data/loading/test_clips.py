import numpy as np
import pytest
import torch
from video_files import read_numbers, truncate, write_video

from mvrec.data.listing.index import Row, SampleIndex
from mvrec.data.loading import clips as module
from mvrec.data.loading.batch import PADDING_ID, BadSample, Item, SampleKey, collate
from mvrec.data.loading.clips import EvalClips, TrainClips
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.targets import ClassIndex
from mvrec.data.views.transforms import Augment

WHOLE = Augment((1.0, 1.0), (4 / 3, 4 / 3), flip_probability=0.0, rand_augment=None, random_erasing=None)
CLIP = ClipSpec(num_frames=4, stride_frames=4)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Rows: a landscape video, a part of it, a portrait video, a file that is cut short, no file."""
    root = tmp_path_factory.mktemp("clips")
    write_video(root / "wide.mp4", num_frames=40, size=(96, 128))
    write_video(root / "tall.mp4", num_frames=20, size=(128, 96))
    truncate(root / "wide.mp4", 0.5, root / "short.mp4")
    rows = [
        Row("wide.mp4", "0"),
        Row("wide.mp4", "1", 0.5, 1.0),
        Row("tall.mp4", "2"),
        Row("short.mp4", "0"),
        Row("missing.mp4", "1"),
    ]
    return SampleIndex(rows, root=root, class_names=["0", "1", "2"])


@pytest.fixture
def decoded(monkeypatch):
    """Frame numbers of every call to a decoder."""
    calls = []
    real_open = module.open_video

    def watched(path, decoder):
        video = real_open(path, decoder=decoder)
        frames = video.frames
        video.frames = lambda indices: calls.append(list(indices)) or frames(indices)
        return video

    monkeypatch.setattr(module, "open_video", watched)
    return calls


def eval_clips(index, *, size=96, short_side=96, **views):
    return EvalClips(index, ClipProtocol(clip=CLIP, size=size, views=Views(short_side=short_side, **views)))


def train_clips(index, **options):
    return TrainClips(index, **{"clip": CLIP, "size": 96, "augment": WHOLE, **options})


def test_views_come_clip_by_clip_and_crop_by_crop(index):
    item = eval_clips(index, size=64, num_clips=2, num_crops=3)[SampleKey(0, 0)]
    assert item.views.shape == (6, 4, 3, 64, 64)
    assert item.views.dtype == torch.uint8
    assert (item.targets, item.sample_id, item.seeds, item.bad) == ((ClassIndex(0),) * 6, 0, tuple(range(6)), ())
    # Crops of a wide frame overlap by 32 columns: the right half of one is the left half of the next.
    for first in (0, 3):
        left, centre, right = item.views[first : first + 3]
        assert torch.equal(left[..., 32:], centre[..., :32])
        assert torch.equal(centre[..., 32:], right[..., :32])
    assert not torch.equal(item.views[0], item.views[3])


def test_frames_are_those_of_the_rule_and_each_is_decoded_once(index, decoded, monkeypatch):
    items = []
    monkeypatch.setattr(module, "views_of", lambda frames, _: items.append(read_numbers(frames)) or torch.zeros(1))
    for row, expected in (
        (0, [[0, 5, 10, 15], [12, 17, 22, 27], [24, 29, 34, 39]]),
        (1, [[15, 20, 25, 29]] * 3),  # frames 15 to 29: shorter than a clip
    ):
        eval_clips(index, num_clips=3)[SampleKey(0, row)]
        assert items[-3:] == expected
        assert decoded.pop() == sorted({number for clip in expected for number in clip})
        assert decoded == []


def test_bad_files_of_an_evaluation_fail_and_are_not_replaced(index):
    clips = eval_clips(index, num_clips=1)
    for row in (3, 4):
        item = clips[SampleKey(0, row)]
        assert (item.views, item.sample_id, item.targets) == (None, row, (index.target(row),))
        ((number, path, cause, stop, target),) = item.bad
        assert (number, path, stop, target) == (row, str(index[row].path), "", ClassIndex(index[row].label))
        assert cause
        assert "\n" not in cause
    # Keys that do not count are padding.
    item, failed = (clips[SampleKey(0, row, counted=False)] for row in (0, 4))
    assert (item.sample_id, item.views.shape) == (PADDING_ID, (1, 4, 3, 96, 96))
    assert (failed.sample_id, failed.views, failed.bad) == (PADDING_ID, None, ())


def test_frames_can_be_reversed_or_shuffled_in_an_order_of_each_video(index):
    def view(order):
        return eval_clips(index, num_clips=2, frame_order=order)[SampleKey(0, 0)].views

    natural, reverse, shuffled = view("natural"), view("reversed"), view("shuffled")
    assert torch.equal(reverse, natural.flip(1))
    assert torch.equal(shuffled, view("shuffled"))
    assert not torch.equal(shuffled, natural)
    assert sorted(frame.numpy().tobytes() for frame in shuffled[0]) == sorted(f.numpy().tobytes() for f in natural[0])
    orders = {tuple(module.in_order(np.arange(16), "shuffled", number)) for number in range(20)}
    assert len(orders) == 20
    assert all(sorted(order) == list(range(16)) for order in orders)


def test_training_items_follow_from_seed_epoch_and_index(index):
    def pixels(epoch, row, seed=0):
        clips = train_clips(index, augment=Augment(), size=32, seed=seed)
        return clips[SampleKey(epoch, row)].views.numpy().tobytes()

    first = pixels(0, 0)
    assert pixels(0, 0) == first
    assert len({first, pixels(1, 0), pixels(0, 1), pixels(0, 0, seed=1)}) == 4


def test_training_reads_the_window_of_a_row(index, decoded):
    clips = train_clips(index)
    for epoch in range(12):
        for row in (0, 1):
            clips[SampleKey(epoch, row)]
    whole, part = decoded[::2], decoded[1::2]
    starts = {frames[0] for frames in whole}
    assert len(starts) > 5
    assert max(starts) <= 24
    assert all(len(frames) == 4 for frames in whole)
    assert part == [[15, 20, 25, 29]] * 12


def test_repeats_share_frames_and_differ_in_pixels(index, decoded):
    item = train_clips(index, augment=Augment(), size=32, repeats=3)[SampleKey(0, 0)]
    assert len(decoded) == 1
    assert item.views.shape == (3, 4, 3, 32, 32)
    assert len(set(item.seeds)) == 3
    assert len({view.numpy().tobytes() for view in item.views}) == 3
    # Without augmentation they are the same clip.
    views = train_clips(index, repeats=2)[SampleKey(0, 0)].views
    assert torch.equal(views[0], views[1])
    single = train_clips(index, augment=Augment(), size=32)[SampleKey(0, 0)]
    assert torch.equal(single.views[0], item.views[0])
    assert single.seeds == item.seeds[:1]


def test_training_replaces_what_cannot_be_read(index):
    clips = train_clips(index, size=32)
    substitutes = set()
    for epoch in range(6):
        item, again = (clips[SampleKey(epoch, 4)] for _ in range(2))
        assert torch.equal(item.views, again.views)
        assert item.bad == again.bad
        assert item.bad[0][:2] == (4, str(index[4].path))
        assert {entry.index for entry in item.bad} <= {3, 4}
        assert item.sample_id in (0, 1, 2)
        assert item.targets == (index.target(item.sample_id),)  # not that of the file that it stands in for
        substitutes.add(item.sample_id)
    assert len(substitutes) > 1


def test_training_gives_up_after_ten_files(tmp_path):
    broken = SampleIndex([Row(f"{n}.mp4", "0") for n in range(50)], root=tmp_path, class_names=["0"])
    item = train_clips(broken)[SampleKey(0, 7)]
    assert (item.views, item.sample_id) == (None, PADDING_ID)
    assert [entry.stop for entry in item.bad] == [""] * 9 + ["10 files in a row could not be read"]


def item(count, *, label=0, sample_id=0):
    views = torch.randint(256, (count, 4, 3, 6, 8), dtype=torch.uint8)
    return Item(views, (ClassIndex(label),) * count, sample_id, tuple(range(100 * sample_id, 100 * sample_id + count)))


INTEGERS = {"targets": [5, 5, 6], "sample_ids": [1, 1, 2], "view_ids": [0, 1, 0], "seeds": [100, 101, 200]}


def test_collate_lays_views_one_behind_the_other_and_moves_or_replaces_them_as_a_whole():
    bad = BadSample(9, "x.mp4", "cut short")
    failed = Item(None, (ClassIndex(3),), 9, bad=(bad,))
    first, last = item(2, label=5, sample_id=1), item(1, label=6, sample_id=2)
    batch = collate([first, failed, last])
    assert torch.equal(batch.clips, torch.cat([first.views, last.views]).transpose(1, 2))
    assert batch.bad == (bad,)
    assert len(batch) == 3
    moved = batch.to("meta", non_blocking=True)
    assert (moved.clips.device.type, moved.clips.shape, moved.bad) == ("meta", batch.clips.shape, (bad,))
    for name, values in INTEGERS.items():
        tensor = getattr(batch, name)
        assert (tensor.tolist(), tensor.dtype, tensor.device.type) == (values, torch.int64, "cpu")
        assert getattr(moved, name).shape == (3,)
        # The others are read on the CPU.
        assert getattr(moved, name).device.type == ("meta" if name == "targets" else "cpu")
    other = batch.with_clips(torch.zeros(3, 3, 4, 2, 2))
    assert other.targets is batch.targets
    assert (other.clips.shape[-1], batch.clips.shape[-1]) == (2, 8)


def test_a_batch_of_which_nothing_could_be_read_is_empty():
    bad = tuple(BadSample(number, "x.mp4", "empty") for number in range(2))
    batch = collate([Item(None, (ClassIndex(0),), entry.index, bad=(entry,)) for entry in bad])
    assert (len(batch), batch.bad, batch.clips.shape[:2]) == (0, bad, (0, 3))
    assert (batch.clips.dtype, batch.targets.dtype) == (torch.uint8, torch.int64)
    assert len(batch.to("cpu")) == 0
