"""Actions of people in videos: the scores of the network itself, tracks, and the front door from Python."""

import numpy as np
import pytest
import torch
from walkers import ACTIONS, boxes_at, save_detector, squares, walking, write_boxes, write_walk

import mvrec
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import DecodeError, UserError
from mvrec.inference.actions.knobs import ActionKnobs

RAW = ActionKnobs(smooth=0, every=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video of four seconds at 10 frames per second, and the boxes of every fifth frame."""
    folder = tmp_path_factory.mktemp("videos")
    write_walk(folder / "gehen.mp4")
    write_boxes(folder / "boxes.csv", list(range(0, 40, 5)), video="gehen.mp4")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mvrec.load(save_detector(tmp_path_factory.mktemp("lauf") / "best.ckpt"), device="cpu")


def by_hand(model, pixels: np.ndarray, frame: int, boxes: np.ndarray, *, stride: int = 2) -> np.ndarray:
    """The probabilities of boxes from full frames, scaled to a short side of 64 pixels."""
    numbers = np.clip(frame + (np.arange(4) - 2) * stride, 0, len(pixels) - 1)
    clip = torch.from_numpy(pixels[numbers]).permute(0, 3, 1, 2)
    height, width = pixels.shape[1:3]
    scaled = torch.nn.functional.interpolate(
        clip, size=(64, width * 64 // height), mode="bilinear", antialias=True, align_corners=False
    )
    x = model.protocol.normalisation(scaled.permute(1, 0, 2, 3)[None])
    scale = np.array([scaled.shape[3] / width, 64 / height] * 2)
    places = np.concatenate([np.zeros((len(boxes), 1)), boxes * scale], 1)
    with torch.no_grad():
        return model.backbone(x, torch.from_numpy(places).float()).double().sigmoid().numpy()


def test_each_person_gets_the_probabilities_of_the_network_at_the_key_frame(model, folder):
    with mvrec.open_video(folder / "gehen.mp4") as video:
        pixels = video.frames(range(40))
    for at_once in (1, 3):
        results = list(
            model.predict(folder / "gehen.mp4", boxes=folder / "boxes.csv", actions=RAW, views_per_forward=at_once)
        )
        assert [result.seconds for result in results] == pytest.approx(np.arange(8) / 2)
        for number, result in enumerate(results):
            expected = by_hand(model, pixels, 5 * number, boxes_at(5 * number))
            assert [person.box for person in result.people] == [tuple(box) for box in boxes_at(5 * number).tolist()]
            actual = np.stack([person.probabilities for person in result.people])
            assert np.abs(actual - expected).max() < 2e-3
            assert actual.std(0).max() > 0.1  # people differ
            assert result.people[0].label == ACTIONS[int(expected[0].argmax())]


def test_key_frames_are_a_second_apart_and_boxes_between_them_are_kept_for_drawing(model, folder):
    results = list(model.predict(folder / "gehen.mp4", boxes=folder / "boxes.csv"))
    assert [result.seconds for result in results] == [0, 1, 2, 3]
    assert [[sighting.seconds for sighting in result.sightings] for result in results][:2] == [[0, 0.5], [1, 1.5]]
    raw = list(model.predict(folder / "gehen.mp4", boxes=folder / "boxes.csv", actions=ActionKnobs(smooth=0)))
    means = np.mean([[person.probabilities for person in result.people] for result in raw[:3]], axis=0)
    assert np.allclose([person.probabilities for person in results[1].people], means)


@pytest.mark.parametrize("source", ["file", "array"])
def test_people_who_are_found_keep_their_numbers(model, folder, source):
    pixels = walking()
    files = folder / "gehen.mp4" if source == "file" else pixels
    knobs = ActionKnobs(every=1, detect_every=0.5, smooth=0)
    results = list(model.predict(files, people=squares, actions=knobs, fps=None if source == "file" else 10))
    assert [result.seconds for result in results] == [0, 1, 2, 3]
    for number, result in enumerate(results):
        assert [person.name for person in result.people] == ["1", "2"]
        assert [person.box_score for person in result.people] == pytest.approx([0.95, 0.9])
        assert np.abs(np.array([person.box for person in result.people]) - boxes_at(10 * number)).max() <= 2
    few = list(
        model.predict(files, people=squares, actions=ActionKnobs(min_score=0.92), fps=None if source == "file" else 10)
    )
    assert all(len(result.people) == 1 for result in few)


def test_arrays_take_boxes_by_seconds_and_names_of_a_list_stay(model, folder, tmp_path):
    (first, second) = model.predict(walking(), fps=10, boxes={0.5: boxes_at(5), 2: boxes_at(20)[:1]}, actions=RAW)
    assert (len(first.people), len(second.people), second.seconds) == (2, 1, 2)
    write_boxes(tmp_path / "b.csv", [0, 10], video=str(folder / "gehen.mp4"), persons=True)
    for result in model.predict(folder / "gehen.mp4", boxes=tmp_path / "b.csv"):
        assert [person.name for person in result.people] == ["A", "B"]


def test_people_outside_the_centre_get_no_action_and_that_is_said(model, folder, caplog):
    boxes = {0.0: [[0, 0, 20, 20], [60, 20, 100, 80]]}
    (result,) = model.predict(walking(), fps=10, boxes=boxes, actions=ActionKnobs(pixels="centre"))
    assert [person.box for person in result.people] == [(60, 20, 100, 80)]
    assert "1 box outside the network's view" in caplog.text
    (full,) = model.predict(walking(), fps=10, boxes=boxes)
    assert len(full.people) == 2


def test_a_key_frame_without_people_is_a_result_without_any(model, caplog):
    results = list(model.predict(walking(), fps=10, people=lambda frame: (np.zeros((0, 4)), [])))
    assert [(result.seconds, result.people, str(result)) for result in results][:1] == [
        (0, (), "array at 0.00 s: nobody")
    ]
    assert len(results) == 4
    assert "array: nobody is in its 4 frames looked at" in caplog.text


def test_rows_are_those_of_a_list_of_boxes(model, folder):
    result = next(model.predict(folder / "gehen.mp4", boxes=folder / "boxes.csv"))
    rows = result.as_rows(2)
    assert len(rows) == 4
    assert list(rows[0]) == ["path", "time", "x1", "y1", "x2", "y2", "label", "person", "score"]
    assert rows[0]["label"] == result.people[0].top(1)[0][0]
    assert [line["person"] for line in result.as_dicts(2)] == ["1", "2"]


def test_files_that_cannot_be_read_are_results_among_others(model, folder, tmp_path):
    (tmp_path / "kaputt.mp4").write_text("no video")
    files = [tmp_path / "kaputt.mp4", folder / "gehen.mp4"]
    results = list(model.predict(files, people=squares, actions=RAW))
    assert (results[0].error != "", results[0].people) == (True, ())
    assert [result.error for result in results[1:]] == [""] * 8
    with pytest.raises(DecodeError):
        results[0].check()


def test_a_video_without_boxes_in_the_list_is_an_error_among_several_and_ends_a_single_one(model, folder, tmp_path):
    other = write_walk(tmp_path / "other.mp4", 12)
    results = list(model.predict([other, folder / "gehen.mp4"], boxes=folder / "boxes.csv"))
    assert "boxes.csv: it has no box of " in results[0].error
    assert [result.error for result in results[1:]] == [""] * 4
    with pytest.raises(UserError, match=r"it has no box of .*other.mp4, only of gehen.mp4"):
        list(model.predict(other, boxes=folder / "boxes.csv"))


def test_boxes_of_cvat_are_those_of_its_frames_and_tracks_keep_their_names(model, folder, tmp_path):
    boxes = [
        f'<box frame="{frame}" outside="0" xtl="{left:g}" ytl="{top:g}" xbr="{right:g}" ybr="{bottom:g}"/>'
        for frame in range(5, 31)
        for left, top, right, bottom in boxes_at(frame)[:1]
    ]
    meta = "<meta><task><id>4</id><name>walk</name><source>gehen.mp4</source></task></meta>"
    path = tmp_path / "annotations.xml"
    path.write_text(f'<annotations>{meta}<track id="8" label="person">{"".join(boxes)}</track></annotations>')
    results = list(model.predict(folder / "gehen.mp4", boxes=path))
    assert [result.seconds for result in results] == pytest.approx([0.5, 1.5, 2.5])
    assert [len(result.sightings) for result in results] == [10, 10, 6]
    for result, frame in zip(results, (5, 15, 25), strict=True):
        assert [person.name for person in result.people] == ["4/8"]
        assert result.people[0].box == pytest.approx(boxes_at(frame)[0].tolist())
    assert [sighting.seconds for sighting in results[0].sightings] == pytest.approx(np.arange(5, 15) / 10)


def test_of_a_damaged_video_all_key_frames_before_the_damage_are_results(model, folder):
    results = list(model.predict(folder / "gehen.mp4", people=squares, decoder="walkers.Damaged"))
    assert [(result.seconds, len(result.people)) for result in results if not result.error] == [(0, 2), (1, 2), (2, 2)]
    assert "damaged" in results[-1].error
    assert len(results) == 4


def test_a_network_for_one_size_says_so(model, folder, monkeypatch):
    def fixed(x: torch.Tensor) -> list[torch.Tensor]:
        if x.shape[-2:] != (64, 64):
            raise AssertionError("wrong input size")
        return type(model.backbone).feature_maps(model.backbone, x)

    monkeypatch.setattr(model.backbone, "feature_maps", fixed)
    with pytest.raises(
        UserError, match=r"takes no frames of 64 x 106 pixels: look at their centre \(--pixels centre\)"
    ):
        list(model.predict(walking(), fps=10, people=squares))
    centre = ActionKnobs(pixels="centre")
    assert len(list(model.predict(walking(), fps=10, people=squares, actions=centre))) == 4


def test_wrong_requests_are_one_line(model, folder, tmp_path):
    video = folder / "gehen.mp4"
    for knobs, message in (
        ({}, "say where people are, with boxes or people: .*tells what people do, not where they are"),
        ({"boxes": {0: [[1, 2, 3, 4]]}, "people": squares}, "both are given"),
        ({"boxes": {9: [[1, 2, 3, 4]]}}, r"boxes\[9.0\]: .*gehen.mp4 has no such moment, only 4.00 s"),
        ({"window": 1.0, "people": squares}, "window and stride are not for action detectors"),
    ):
        with pytest.raises(UserError, match=message):
            list(model.predict(video, **knobs))
    with pytest.raises(UserError, match="every must be above 0"):
        ActionKnobs(every=0)
    with pytest.raises(UserError, match="pixels must be one of centre, full, got 'all'"):
        ActionKnobs(pixels="all")
    with pytest.raises(UserError, match="looks at key frames with boxes"):
        model.features(video)
    with pytest.raises(UserError, match="its task is action_detection, and explaining is for classification"):
        model.explain(video)
    with pytest.raises(UserError, match="views of key frames only: use predict, with boxes"):
        model.preprocess(walking(), fps=10)
    with pytest.raises(UserError, match=r"the rate of the frames .* is missing"):
        list(model.predict(walking(), people=squares))


def test_outputs_that_are_not_finite_end_it_in_one_line(tmp_path):
    model = mvrec.load(save_detector(tmp_path / "best.ckpt"), device="cpu")
    with torch.no_grad():
        model.backbone.head.projection.bias[0] = float("nan")
    with pytest.raises(UserError, match="outputs are not finite"):
        list(model.predict(walking(), fps=10, people=squares))


def test_clips_follow_the_rate_of_training(tmp_path, folder):
    clip = ClipSpec(num_frames=4, stride_frames=2, target_fps=5.0)  # two frames of the file each
    model = mvrec.load(save_detector(tmp_path / "best.ckpt", clip=clip), device="cpu")
    result = next(model.predict(walking(), fps=10, boxes={2.0: boxes_at(20)}))
    expected = by_hand(model, walking(), 20, boxes_at(20), stride=4)
    assert np.abs(np.stack([person.probabilities for person in result.people]) - expected).max() < 2e-3
