"""The front door from Python: files, arrays, lists and folders give the results of the command line."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recognisers import image_recogniser, video_recogniser
from video_files import write_video

import mvrec
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.errors import DecodeError, UserError
from mvrec.inference.model import Model, load
from mvrec.inference.recognising import recognise_files
from mvrec.inference.timeline.prediction import check_timeline
from mvrec.inference.timeline.segments import TimelineKnobs
from mvrec.tasks.regression.outputs import RegressionOutputs
from mvrec.tasks.regression.scale import ValueScale

EARLIER = Path(__file__).parents[1] / "golden/earlier_run"


def model_of(recogniser) -> Model:
    return Model(recogniser.backbone, recogniser.outputs, recogniser.protocol, recogniser.source)


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(video_recogniser(clip=ClipSpec(num_frames=4, stride_frames=2, target_fps=20)))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A file of 25 frames per second, and its frames."""
    path = write_video(tmp_path_factory.mktemp("my videos") / "läuft.mp4", num_frames=40, size=(48, 64), fps=25)
    with mvrec.open_video(path) as opened:
        return path, opened.frames(range(opened.num_frames))


@pytest.fixture(scope="module")
def image_model() -> Model:
    return model_of(image_recogniser())


def same(result, other):
    torch.testing.assert_close(result.output.probabilities, other.output.probabilities, atol=1e-6, rtol=0)
    return True


def test_all_names_of_the_package_are_there():
    assert [name for name in mvrec.__all__ if not hasattr(mvrec, name) or name not in dir(mvrec)] == []
    with pytest.raises(AttributeError, match="no attribute 'nett'"):
        mvrec.nett  # noqa: B018


def test_frames_of_any_kind_give_the_prediction_of_their_file(model, video):
    path, frames = video
    expected = model.predict(path)
    assert (expected.source, expected.span) == (str(path), (0.0, 1.6))
    with pytest.warns(UserWarning, match="pixels of float32 in 0..1"):
        scaled = model.predict(frames.astype(np.float32) / 255, fps=25)
    kinds = [
        torch.from_numpy(frames),
        frames.astype(np.int64),
        list(frames),
        [Image.fromarray(frame) for frame in frames],
    ]
    for result in (scaled, *(model.predict(kind, fps=25) for kind in (frames, *kinds))):
        assert same(result, expected)
        assert (result.source, result.span) == ("array", (0.0, 1.6))
    assert not torch.allclose(model.predict(frames, fps=5).output.probabilities, expected.output.probabilities)
    assert [result.source for result in model.predict(np.stack([frames, frames]), fps=25)] == ["array 0", "array 1"]
    windows = list(model.predict(frames, fps=25, window=1.0))
    assert [result.span for result in windows] == [(0.0, 1.0), (1.0, 1.6)]
    for window, other in zip(windows, recognise_files(model, [path], window_seconds=1.0), strict=True):
        assert same(window, other)


def test_rate_is_asked_for_only_where_it_decides(video):
    _, frames = video
    untimed = model_of(video_recogniser())
    result = untimed.predict(frames)
    assert result.span == (None, None)
    assert same(result, untimed.predict(frames, fps=3))
    with pytest.raises(UserError, match=r"uint8 \(40, 48, 64, 3\) is missing, and windows are in seconds: add fps"):
        untimed.predict(frames, window=1.0)


def test_several_come_in_order_and_a_file_that_cannot_be_read_is_a_result(model, video, tmp_path):
    path, frames = video
    (tmp_path / "list.csv").write_text(f"path\n{path}\n{path}\n", encoding="utf-8")
    sources = [path, frames[:30], "missing.mp4", str(path.parent), tmp_path / "list.csv"]
    names = [str(path), "array 1", "missing.mp4", str(path), str(path), str(path)]
    with pytest.raises(UserError, match="fps is the rate of frames in arrays; the file"):
        list(model.predict(sources, fps=25))
    untimed = model_of(video_recogniser())
    for several in (sources, iter(sources)):
        results = list(untimed.predict(several, views_per_forward=20))
        assert [result.source for result in results] == names
        assert [result.error for result in results] == ["", "", "no such file", "", "", ""]
    assert all(same(result, untimed.predict(path)) for result in (results[0], *results[3:]))
    assert results[2].as_dict() == {
        **{"path": "missing.mp4", "start_seconds": None, "end_seconds": None},
        "error": "no such file",
    }
    with pytest.raises(DecodeError, match=r"missing\.mp4: no such file"):
        results[2].top()
    assert [len(list(untimed.predict(str(path.parent)))), len(list(untimed.predict(f"{path.parent}/*.mp4")))] == [1, 1]


def test_results_are_plain_values(model, video):
    path, _ = video
    result = model.predict(path)
    (name, probability), *_ = result.top(2)
    assert len(result.top(2)) == 2
    assert len(result.top()) == 3
    assert (result.label, name) == (name, max(zip(result.output.probabilities, "abc", strict=True))[1])
    place = {"path": str(path), "start_seconds": 0.0, "end_seconds": 1.6}
    assert result.as_row() == {**place, "class_1": name, "probability_1": probability, "error": ""}
    assert list(result.as_row(2)) == [*place, "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert json.loads(json.dumps(result.as_dict(1))) == {
        **place,
        "classes": [{"class": name, "probability": probability}],
    }
    assert str(result).startswith(f"{path}: {name} {100 * probability:.1f} %, ")


def test_images_are_files_arrays_and_those_of_pillow(image_model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels).convert("L").save(tmp_path / "grey.png")
    upright = image_model.under(replace(image_model.protocol, upright=True))
    expected = image_model.predict(tmp_path / "a.png")
    assert expected.span == (None, None)
    turned = upright.predict(tmp_path / "a.png")
    assert same(upright.predict(Image.open(tmp_path / "a.png")), turned)
    assert same(upright.predict(torch.from_numpy(pixels).rot90(-1)), turned)
    assert image_model.predict(Image.open(tmp_path / "a.png")).source == str(tmp_path / "a.png")
    results = list(image_model.predict([tmp_path / "a.png", pixels, Image.fromarray(pixels), tmp_path / "grey.png"]))
    assert all(same(result, expected) for result in results[:3])
    assert same(results[3], image_model.predict(Image.open(tmp_path / "grey.png")))
    assert len(list(image_model.predict(np.stack([pixels] * 20)))) == 20
    assert len(list(image_model.predict(tmp_path))) == 2


BAD_ARRAYS = {
    "video (3, 8, 40, 40)": r"\(T, H, W, 3\), got uint8 \(3, 8, 40, 40\): channels first\? .*transpose\(1, 2, 3, 0\)",
    "video (8, 3, 40, 40)": r"got uint8 \(8, 3, 40, 40\): channels first\? .*transpose\(0, 2, 3, 1\)",
    "video (8, 40, 40)": r"got uint8 \(8, 40, 40\): grey pixels\?",
    "video (8, 40, 40, 1)": r"got uint8 \(8, 40, 40, 1\): grey pixels\?",
    "video (8, 40, 40, 4)": r"got uint8 \(8, 40, 40, 4\): four channels\?",
    "video (8, 40, 40, 5)": r"got uint8 \(8, 40, 40, 5\)$",
    "video (40, 40, 3)": r"got uint8 \(40, 40, 3\): a single frame\?",
    "video (0, 40, 40, 3)": r"got uint8 \(0, 40, 40, 3\): it is empty",
    "video (2, 2, 8, 40, 40, 3)": r"got uint8 \(2, 2, 8, 40, 40, 3\)$",
    "image (3, 40, 40)": r"an image is an array \(H, W, 3\), got uint8 \(3, 40, 40\): channels first\? .*\(1, 2, 0\)",
    "image (40, 40)": r"got uint8 \(40, 40\): grey pixels\?",
}


def test_arrays_of_another_shape_are_one_line(model, image_model):
    for case, message in BAD_ARRAYS.items():
        noun, _, shape = case.partition(" ")
        array = np.zeros(tuple(map(int, shape.strip("()").split(", "))), np.uint8)
        with pytest.raises(UserError, match=message):
            model.predict(array, fps=25) if noun == "video" else image_model.predict(array)


def test_arrays_of_other_values_are_one_line(model):
    frames = np.full((8, 40, 40, 3), 200, np.uint8)
    rows = [
        (frames.astype(np.float32), r"float32 \(8, 40, 40, 3\) has values 200..200: give uint8"),
        (frames.astype(np.float32) - 201, r"has values -1..-1, as after normalising"),
        (frames * np.float32("nan"), "not finite"),
        (frames.astype(np.uint16) * 20, r"uint16 .* has values 4000..4000"),
        (frames > 0, "bool .* are no pixels"),
        ([frames[0], frames[1, :20]], r"frame 0 is uint8 \(40, 40, 3\), frame 1 is uint8 \(20, 40, 3\)"),
        ([], "the list is empty"),
        ([1, 2], "entry 0 of the list is a int"),
        ({"a": 1}, "a dict is neither a file, an array"),
    ]
    for value, message in rows:
        with pytest.raises(UserError, match=message):
            list(model.predict(value, fps=25))
    with pytest.raises(
        UserError, match=r"rate of the frames uint8 \(8, 40, 40, 3\) is missing, and clips are at 20 fps"
    ):
        model.predict(frames)
    for fps in (0, float("nan"), "25"):
        with pytest.raises(UserError, match="fps must be a number of frames per second above 0"):
            model.predict(frames, fps=fps)


def test_features_are_a_vector_per_file_or_what_extract_writes(model, video):
    path, frames = video
    views = model.features(path, pool="all").values
    assert views.shape == (9, 16)
    vector = model.features(frames, fps=25)
    assert (vector.span, vector.values.dtype) == ((0.0, 1.6), np.float32)
    np.testing.assert_allclose(np.asarray(vector), views.mean(0), atol=1e-6)
    expected = model.backbone.forward_features(model.normalised(model.views(path)))
    np.testing.assert_allclose(views, expected.detach().numpy(), atol=1e-6)
    assert model.features(path, stage=-1, pool="none").values.shape[:2] == (9, 16)
    good, bad = model.features([path, "missing.mp4"])
    np.testing.assert_allclose(np.stack([good]), np.asarray(vector)[None], atol=1e-6)
    with pytest.raises(DecodeError, match=r"missing\.mp4: no such file"):
        np.asarray(bad)
    with pytest.raises(UserError, match="pool must be one of none, spatial, all, views"):
        model.features(path, pool="max")


def test_preprocess_gives_what_the_network_takes(model, image_model, video):
    path, frames = video
    x = model.preprocess(frames, fps=25)
    assert (x.shape, x.dtype) == ((9, 3, 4, 32, 32), torch.float32)
    probabilities = model.backbone(x).softmax(1).mean(0)
    torch.testing.assert_close(probabilities.double(), model.predict(path).output.probabilities, atol=1e-6, rtol=0)
    assert model.preprocess(np.stack([frames, frames]), fps=25).shape[0] == 18
    network = torch.nn.Sequential(image_model.preprocess, image_model.backbone)
    assert network(np.zeros((50, 70, 3), np.uint8)).shape == (1, 3)
    assert str(next(image_model.preprocess.to("meta").buffers()).device) == "meta"


def test_heat_is_an_array_and_a_picture_that_the_command_writes(model, image_model, video, tmp_path):
    path, frames = video
    heat = model.explain(path, class_name="b", method="cam", clip=0, crop=2)
    assert (heat.heat.shape, heat.heat.dtype, heat.heat.min(), heat.heat.max()) == ((4, 32, 32), np.float32, 0, 1)
    assert (heat.class_name, heat.method, heat.span[0]) == ("b", "cam", 0.0)
    assert heat.probability == dict(heat.top())["b"]
    again = model.explain(frames, fps=25, class_name="b", method="cam", clip=0, crop=2)
    np.testing.assert_allclose(again.heat, heat.heat, atol=1e-5)
    assert np.array_equal(again.frames, model.views(path)[2].permute(1, 2, 3, 0).numpy())
    for name in ("heat.png", "heat.mp4"):
        heat.save(tmp_path / "new" / name, full_frame=True)
        assert (tmp_path / "new" / name).stat().st_size > 1000
    picture = image_model.explain(np.zeros((50, 70, 3), np.uint8))
    assert (picture.heat.shape, picture.frames.shape) == ((32, 32), (32, 32, 3))
    assert [result.error for result in model.explain([path, "missing.mp4"])] == ["", "no such file"]
    with pytest.raises(UserError, match=r"the output must end in \.png"):
        picture.save(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="'d' is not one of the 3 classes"):
        model.explain(path, class_name="d")


def test_threads_that_share_a_model_get_the_answers_of_one(model, video):
    path, frames = video
    expected = [model.predict(path), model.predict(frames[:20], fps=25)]
    results: dict[int, list] = {}
    heats: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        sources = [path, frames[:20]] * 4
        results[number] = [model.predict(source, fps=None if source is path else 25) for source in sources]
        heats[number] = model.explain(path).heat

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    heat = model.explain(path).heat
    for number in range(3):
        np.testing.assert_allclose(heats[number], heat, atol=1e-4)
    assert all(same(got, expected[place % 2]) for some in results.values() for place, got in enumerate(some))


def test_a_run_is_loaded_silently_with_other_classes_or_another_protocol(capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mvrec"), "handlers", [])  # a command of another test leaves its own
    monkeypatch.setattr(logging.getLogger("mvrec"), "level", logging.NOTSET)
    model = load(EARLIER, device="cpu")
    assert model.class_names
    assert repr(model).startswith(f"<{EARLIER}")
    assert load(EARLIER, protocol="slowfast-5x1", device="cpu").protocol.num_views == 5
    names = [f"class {number}" for number in range(len(model.class_names))]
    assert load(EARLIER, classes=names, device="cpu").class_names == tuple(names)
    assert capfd.readouterr() == ("", "")


def test_a_network_of_the_zoo_is_loaded_by_name_with_weights(tmp_path):
    network = mvrec.create_model("cloformer_xxs", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "my weights.pth")
    model = mvrec.load("cloformer_xxs", weights=tmp_path / "my weights.pth", classes=list("abcde"), device="cpu")
    assert model.class_names == tuple("abcde")
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.backbone(x), network.eval()(x))


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    rows = [
        (("mvit_b_16x4",), {}, r"mvit_b_16x4 has no weights yet: add weights=FILE"),
        (("mvit_b_16x5",), {"weights": "x.pth"}, "for a network by name; did you mean 'mvit_b_16x4'"),
        ((tmp_path / "nothing",), {}, "there is no checkpoint"),
        ((EARLIER,), {"device": "cuda:99"}, "there is no device 'cuda:99' here"),
        ((EARLIER,), {"protocol": "slowfast-5x2"}, "no protocol 'slowfast-5x2'; did you mean 'slowfast-5x1'"),
        ((EARLIER,), {"classes": ["a"]}, "has 1 names"),
        (
            ("mvit_b_16x4",),
            {"weights": EARLIER},
            r"not those of mvit_b_16x4 .*; mvrec\.load\('.*last\.ckpt'\)\.backbone",
        ),
    ]
    for arguments, knobs, message in rows:
        with pytest.raises(UserError, match=message):
            load(*arguments, **{"device": "cpu", **knobs})


def test_a_network_without_a_timeline_is_called_what_it_is():
    recogniser = video_recogniser()
    detector = replace(recogniser, protocol=KeyFrameProtocol(size=32, pixels="full"))
    regressor = replace(recogniser, outputs=RegressionOutputs(ValueScale(["speed"], [0.0], [1.0])))
    for other, kind in (
        (image_recogniser(), "a network for images"),
        (detector, "an action detector, which tells what each person does when"),
        (regressor, "for regression"),
    ):
        with pytest.raises(UserError, match=f"a timeline is of the classes of a video, and weights is {kind}$"):
            check_timeline(other, TimelineKnobs())
