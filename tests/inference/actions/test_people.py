"""The people in a video: from lists, arrays and detectors."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mvrec.data.listing.index import Sample
from mvrec.errors import UserError
from mvrec.inference.actions.detectors import TorchvisionDetector, _network, load_detector
from mvrec.inference.actions.people import DetectedPeople, GivenPeople, ListedPeople

HEAD = "path,time,x1,y1,x2,y2,label,person,score\n"


def listed(folder: Path, text: str, **knobs) -> ListedPeople:
    path = folder / "boxes.csv"
    path.write_text(HEAD + text)
    return ListedPeople(path, **knobs)


def test_rows_of_a_box_are_one_and_shares_become_pixels(tmp_path):
    people = listed(
        tmp_path, "v.mp4,1,0.1,0.2,0.5,0.6,run,,\nv.mp4,1,0.1,0.2,0.5,0.6,wave,,\nv.mp4,0.5,0,0,1,1,run,Ada,0.7\n"
    )
    sample = Sample(tmp_path / "v.mp4", 0)
    assert people.times(sample, 4.0) == [0.5, 1.0]
    sighting = people.sighting(sample, 1.0, (100, 200), None)
    assert sighting.corners.tolist() == pytest.approx(np.array([[20, 20, 100, 60]]), abs=1e-4)
    assert np.isnan(sighting.scores).all()
    first = people.sighting(sample, 0.5, (100, 200), None)
    assert (first.names, first.scores.tolist()) == (("Ada",), [pytest.approx(0.7)])


def test_boxes_are_cut_at_the_picture_and_those_with_a_low_score_or_without_area_are_left_out(tmp_path, caplog):
    text = "v,0,-5,10,20,400,,,0.9\nv,0,10,10,20,20,,,0.4\nv,0,30,10,20,20,,,0.9\nv,0,300,10,320,20,,,0.9\n"
    people = listed(tmp_path, text, min_score=0.5)
    assert people.sighting(Sample(Path("v.mp4"), 0), 0.0, (100, 200), None).corners.tolist() == [[0, 10, 20, 100]]
    assert "left out 1 box, the first:" in caplog.text
    assert "boxes.csv:4: the box has no area" in caplog.text
    assert "boxes.csv:5: the box lies outside the 200x100 pixels of v.mp4 and is left out" in caplog.text


def test_a_video_is_found_by_its_path_its_name_or_its_id(tmp_path):
    row = "0,1,1,9,9,,,\n"
    people = listed(tmp_path, "".join(f"{name},{row}" for name in ("a/v.mp4", "b/v.mp4", "c/w.mp4", "-5KQ66BBWC4")))
    for name in ("a/v.mp4", "b/v.mp4", "elsewhere/w.mp4", "x/-5KQ66BBWC4.mkv"):
        assert people.times(Sample(tmp_path / name, 0), 1.0) == [0.0]
    with pytest.raises(UserError, match=r"a/v.mp4, b/v.mp4 may each be other/v.mp4: name videos by their paths"):
        people.times(Sample(Path("other/v.mp4"), 0), 1.0)
    with pytest.raises(UserError, match=r"it has no box of z.mp4, only of a/v.mp4, b/v.mp4, c/w.mp4, ..."):
        people.times(Sample(Path("z.mp4"), 0), 1.0)


def test_times_outside_the_video_are_named_and_spans_choose(tmp_path, caplog):
    people = listed(tmp_path, "".join(f"v,{second},1,1,9,9,,,\n" for second in (901, 902, 903)))
    assert people.times(Sample(Path("v.mp4"), 0, 901.5, 903.0), 1000) == [902]
    assert not caplog.messages
    assert people.times(Sample(Path("v.mp4"), 0), 903) == [901, 902, 903]  # the end is the last frame
    assert not caplog.messages
    assert people.times(Sample(Path("v.mp4"), 0), 901.9) == [901]
    assert "boxes.csv:3: left out the boxes at 902 s and 1 time later: v.mp4 ends at 901.90 s" in caplog.text
    with pytest.raises(
        UserError, match=r"boxes.csv:2: no box of the list lies in the 60.00 s of v.mp4: .* 901 to 903 s"
    ):
        people.times(Sample(Path("v.mp4"), 0), 60)
    with pytest.raises(UserError, match=r"it has no box with a score of 0.9 or more"):
        listed(tmp_path, "v,0,1,1,9,9,,,0.5\n", min_score=0.9)


def test_a_detector_looks_every_few_seconds_and_its_answers_are_checked():
    frame = np.zeros((60, 80, 3), np.uint8)
    detector = lambda frame: (torch.tensor([[-3.0, 4, 30, 90], [1, 1, 9, 9], [5, 5, 5, 9]]), [0.9, 0.2, 0.99])  # noqa: E731
    people = DetectedPeople(detector, every=0.4, min_score=0.5)
    assert people.times(Sample(Path("v"), 0), 1.2) == pytest.approx([0, 0.4, 0.8])
    assert people.times(Sample(Path("v"), 0, 1.0, 1.5), 9) == pytest.approx([1.0, 1.4])
    sighting = people.sighting(Sample(Path("v"), 0), 0.0, (60, 80), frame)
    assert sighting.corners.tolist() == [[0, 4, 30, 60]]
    for answer, message in (
        (([[1, 2, 3]], [0.5]), "returned boxes that are no numbers"),
        (([[1, 2, 3, np.nan]], [0.5]), "some are not finite"),
        (([[1, 2, 3, 4]], [0.5, 0.6]), "returned 1 boxes and 2 scores"),
        (None, "raised TypeError"),
    ):
        with pytest.raises(UserError, match=message):
            DetectedPeople(lambda frame, answer=answer: answer).sighting(Sample(Path("v"), 0), 0.0, (60, 80), frame)


def test_given_boxes_are_checked():
    people = GivenPeople({0: [[0.1, 0.2, 0.5, 1.0]]})  # shares
    assert people.sighting(Sample(Path("v.mp4"), 0), 0, (100, 200), None).corners.tolist() == [[20, 20, 100, 100]]
    for box, message in (
        ([np.nan, 1, 2, 3], r"boxes\[2\]: its boxes must be finite"),
        ([9, 1, 2, 3], r"boxes\[2\]: the box \[9.0, 1.0, 2.0, 3.0\] has no area"),
        ([0.1, 0.1, 0.2, 0.2], r"boxes\[2\]: a box in shares of the frame, but that of boxes\[1\] is in pixels"),
    ):
        with pytest.raises(UserError, match=message):
            GivenPeople({1: [[1, 2, 30, 40]], 2: [box]})
    people = GivenPeople({1.0: [[1, 2, 3, 4]], 0: torch.zeros(0, 4)})
    assert people.times(Sample(Path("v"), 0), 2.0) == [0, 1]
    with pytest.raises(UserError, match=r"boxes\[1.0\]: v has no such moment, only 0.50 s"):
        people.times(Sample(Path("v"), 0), 0.5)
    with pytest.raises(UserError, match=r"boxes\[2\] are no numbers \(N, 4\)"):
        GivenPeople({2: [[1, 2, 3]]})


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of the smallest detector, with which it finds many things."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 2, 2]))
    torch.save(network.state_dict(), path := tmp_path_factory.mktemp("gewichte") / "w.pth")
    return path


def test_a_detector_of_torchvision_reads_its_weights_and_gives_the_boxes_of_people(weights):
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3).eval()
    network.load_state_dict(torch.load(weights))
    with torch.no_grad():
        (expected,) = network([torch.from_numpy(frame).permute(2, 0, 1) / 255])
    assert (expected["labels"] == 1).all()
    for person, count in ((1, 100), (2, 0)):
        detector = TorchvisionDetector("fasterrcnn_mobilenet_v3_large_320_fpn", weights, person=person)
        corners, scores = detector(frame)
        assert len(corners) == count
        assert torch.equal(corners, expected["boxes"][expected["labels"] == person])
        assert torch.equal(scores, expected["scores"][expected["labels"] == person])


def test_files_of_earlier_versions_of_torchvision_load_and_norms_add_what_they_were_trained_with():
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = network.state_dict()
    published = {  # names and norms of the file of 2019
        re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d|rpn\.head\.conv)(?:\.0)+\.", r"\1.", key): tensor
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "backbone.fpn.inner_blocks.0.weight" in published
    assert "rpn.head.conv.weight" in published
    for tensors, eps in ((published, 0.0), (dict(state), 1e-5)):
        loaded = _network("fasterrcnn_resnet50_fpn", tensors)
        assert {module.eps for module in loaded.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {eps}
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    with pytest.raises(UserError, match=r"these weights are not those of fasterrcnn_resnet50_fpn: the file lacks rpn"):
        _network("fasterrcnn_resnet50_fpn", {key: value for key, value in state.items() if key[:8] != "rpn.head"})


def test_a_wrong_detector_or_file_is_one_line(weights):
    with pytest.raises(UserError, match=r"no detector 'fasterrcnn', only .*fasterrcnn_resnet50_fpn, "):
        load_detector("fasterrcnn", weights)
    with pytest.raises(
        UserError,
        match=r"not those of retinanet_resnet50_fpn: size mismatch for backbone.fpn.inner_blocks.0.0.weight",
    ):
        load_detector("retinanet_resnet50_fpn", weights)
    with pytest.raises(UserError, match=r"add --detector_weights FILE"):
        load_detector("fasterrcnn_resnet50_fpn", None)
    with pytest.raises(UserError, match=r"w2.pth: no such file; did you mean"):
        load_detector("fasterrcnn_resnet50_fpn", weights.with_name("w2.pth"))


def test_a_detector_of_ones_own_is_called_with_its_weights(monkeypatch, tmp_path):
    (tmp_path / "own_boxes.py").write_text(
        "import numpy as np\n"
        "def find(weights):\n"
        "    score = float(weights)\n"
        "    return lambda frame: (np.ones((1, 4)), [score])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_detector("own_boxes.find", "0.25")(None)[1] == [0.25]
    with pytest.raises(UserError, match=r"own_boxes has no 'finds'; did you mean 'find'"):
        load_detector("own_boxes.finds", None)
    with pytest.raises(UserError, match=r"--detector: own_boxes.find raised ValueError"):
        load_detector("own_boxes.find", "x")
