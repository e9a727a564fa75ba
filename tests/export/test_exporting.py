import json
import logging
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from exported_runs import NAMES, NETWORKS, network_node, protocol_for, save_run
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from video_files import numbered_frame, write_video

from mvrec import class_paths
from mvrec.errors import UserError, install_hint
from mvrec.export import exporting
from mvrec.export.exporting import Differences, Exported, _Sorted, check_request, export
from mvrec.export.model_card import card_of
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.models import Backbone, CloFormer, create_model
from mvrec.tasks.classification.outputs import ClassificationOutputs

ROOT = Path(__file__).parent.parent.parent


def loaded(path: Path, **knobs) -> Recogniser:
    return load_recogniser(path, device="cpu", **knobs)


def run_of(kind: str, folder: Path, **knobs) -> Recogniser:
    return loaded(save_run(folder / "run of spaces" / "best.ckpt", network_node(kind), **knobs))


def metadata(path: Path) -> dict:
    """What a file says of itself, read without mvrec."""
    if path.suffix == ".onnx":
        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["mvrec"])
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["mvrec"])
    files = {"mvrec.json": ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files["mvrec.json"])


def logits(path: Path, x: Tensor) -> Tensor:
    """What a file makes of an input, without mvrec where the format allows it."""
    if path.suffix == ".onnx":
        return torch.from_numpy(onnxruntime.InferenceSession(path).run(["logits"], {"input": x.numpy()})[0])
    with torch.inference_mode():
        return (torch.export.load(path).module() if path.suffix == ".pt2" else loaded(path).backbone)(x)


# Tracing takes seconds, and ONNX's conversion more; tests/models/test_contract_tools.py traces the other families.
QUICK = {(".onnx", "mvit_v1_video"), (".onnx", "one_stage"), (".pt2", "shunted")}
CASES = [
    pytest.param(suffix, kind, marks=pytest.mark.slow if (suffix, kind) not in QUICK else (), id=f"{kind}{suffix}")
    for suffix in (".onnx", ".pt2")
    for kind in (*NETWORKS, "one_stage")
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Recogniser, Exported]]:
    """A small network and what was made of it.

    MViTs are used on 4 frames of 32 x 32 pixels and built for wide clips of 6: graphs stretch their tables.
    """

    @cache
    def make(kind: str, suffix: str) -> tuple[Recogniser, Exported]:
        folder = tmp_path_factory.mktemp(kind)
        node = network_node(kind)
        protocol = protocol_for(node)
        if kind.startswith("mvit"):
            node["init_args"] |= {"image_size": [32, 64], **({"num_frames": 6} if kind.endswith("video") else {})}
        recogniser = loaded(save_run(folder / "run of spaces" / "best.ckpt", node, protocol=protocol))
        opset = 18 if (kind, suffix) == ("mvit_v1_video", ".onnx") else None
        return recogniser, export(recogniser, folder / "für alle" / f"a model{suffix}", opset=opset)

    return make


def check_file(recogniser: Recogniser, result: Exported) -> None:
    """Metadata are those of the network, and logits on noise and on one colour."""
    path, is_video = result.path, recogniser.is_video
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    card = metadata(path)
    assert card == result.card == card_of(recogniser)
    assert card["class_names"] == NAMES
    assert card["protocol"] == json.loads(json.dumps(recogniser.protocol.as_dict()))
    frames = [4] if is_video else []
    assert card["image_size"] == list(recogniser.backbone.input_shape[-2:])
    assert card["input"]["shape"] == ["batch", 3, *frames, 32, 32]
    assert card["input"]["layout"] == ("BCTHW" if is_video else "BCHW")
    output = {"name": "logits", "dtype": "float32", "shape": ["batch", 5], "activation": "softmax"}
    assert card["output"] == output
    assert list(result.differences.by_batch) == [1, 3]
    assert 0 <= max(result.differences.by_batch.values()) <= result.differences.limit
    noise = [torch.randn(n, 3, *frames, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 5)]
    # Of one colour: where tokens are sorted, they are equal, and the order is that of their places.
    for x in [*noise, torch.ones(2, 3, *frames, 32, 32)]:
        with torch.inference_mode():
            expected = recogniser.backbone(x)
        assert expected.std() > 0.1
        tolerance = 0 if path.suffix == ".safetensors" else 1e-4
        torch.testing.assert_close(logits(path, x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("suffix", "kind"), CASES)
def test_exported_graph_has_the_metadata_and_logits_of_its_network(suffix: str, kind: str, exported) -> None:
    check_file(*exported(kind, suffix))


@pytest.mark.parametrize("kind", NETWORKS)
def test_exported_weights_have_the_metadata_and_logits_of_their_network(kind: str, exported) -> None:
    recogniser, result = exported(kind, ".safetensors")
    check_file(recogniser, result)
    assert loaded(result.path).backbone.input_shape == recogniser.backbone.input_shape


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    "name",
    [*("cloformer_xxs", "shunted_t", "sgformer_s", "mvit_b_image", "mvit_v2_t", "mvit_b_16x4", "mvit_v2_s_16x4")],
)
def test_full_size_network_of_every_family_is_exported(name: str, suffix: str, tmp_path: Path) -> None:
    """With weights of ordinary size; docs/export.md has what this measured for all variants."""
    torch.manual_seed(0)
    network = create_model(name)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(noise, alpha=0.1)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    result = export(loaded(tmp_path / "weights.pth"), tmp_path / f"m{suffix}")
    assert result.card["name"] == name
    assert result.differences.largest_logit > 1
    assert max(result.differences.by_batch.values()) < 1e-4


def test_graph_is_one_file_of_the_requested_opset(exported) -> None:
    _, result = exported("mvit_v1_video", ".onnx")
    graph = onnx.load(result.path, load_external_data=False)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)
    assert graph.producer_name == "mvrec"


def test_weights_exported_twice_are_equal_bit_for_bit(tmp_path: Path) -> None:
    recogniser = run_of("mvit_v2_video", tmp_path, multi_label=True)
    export(recogniser, tmp_path / "a.safetensors")
    again = loaded(tmp_path / "a.safetensors")
    assert (again.class_names, again.protocol, again.outputs.multi_label) == (tuple(NAMES), recogniser.protocol, True)
    exported = export(again, tmp_path / "b.safetensors")
    assert exported.card["output"]["activation"] == "sigmoid"
    assert exported.card["converted_from"]["file"] == "a.safetensors"
    assert exported.card["backbone"] == card_of(recogniser)["backbone"]
    views = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    wanted = recogniser.probabilities(views)
    torch.testing.assert_close(loaded(tmp_path / "b.safetensors").probabilities(views), wanted, rtol=0, atol=0)
    assert wanted.sum(1).max() > 1.1  # sigmoids


def test_network_around_a_network_survives_as_weights(tmp_path: Path) -> None:
    create = "mvrec.models.create_model"
    framewise = {"backbone": network_node("cloformer"), "num_frames": 4, "pool": "max"}
    library = {"name": "torchvision/squeezenet1_1", "num_classes": 3, "image_size": 64}
    fine_tuned = {"name": "cloformer_xxs", "weights": None, "image_size": 64}
    for number, (kind, arguments) in enumerate(
        (("mvrec.models.Framewise", framewise), (create, library), (create, fine_tuned))
    ):
        node = {"class_path": kind, "init_args": arguments}
        frames = [4] if arguments is framewise else []
        protocol = protocol_for({"init_args": {"image_size": 64, **({"num_frames": 4} if frames else {})}})
        source = save_run(tmp_path / "run.ckpt", node, names=["only", "two"], protocol=protocol)
        if arguments is fine_tuned:  # the file that it once started from is in the settings and not on this machine
            tree = torch.load(source)
            tree["hyper_parameters"]["backbone"] = {**node, "init_args": {**arguments, "weights": "/gone/weights.pth"}}
            torch.save(tree, source)
        recogniser, path = loaded(source), tmp_path / f"{number}.safetensors"
        card = json.dumps(export(recogniser, path).card)
        source.unlink()
        assert not any(place in card for place in ("/gone", str(tmp_path)))
        again = loaded(path)
        assert (again.class_names, again.protocol) == (("only", "two"), protocol)
        x = torch.randn(2, 3, *frames, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(again.backbone(x), recogniser.backbone(x), rtol=0, atol=0)


def test_weights_of_a_variant_get_its_name_and_published_input(tmp_path, caplog):
    network = create_model("cloformer_xxs", num_classes=3)
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("eins\nzwei\ndrei\n")
    recogniser = loaded(tmp_path / "w.pth", classes=str(tmp_path / "names.txt"))
    card = export(recogniser, tmp_path / "w.safetensors").card
    assert (card["name"], card["class_names"]) == ("cloformer_xxs", ["eins", "zwei", "drei"])
    assert card["input"]["mean"] == [0.485, 0.456, 0.406]
    assert loaded(tmp_path / "w.safetensors").protocol == recogniser.protocol
    with caplog.at_level(logging.INFO):  # by its name too, as other weights
        other = create_model("cloformer_xxs", weights=tmp_path / "w.safetensors")
    assert "tensors loaded" in caplog.text
    assert other.num_classes == 3


class Foreign(CloFormer):
    """A network that is not mvrec's, and cannot be traced either: what it computes depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.sum() > 0 else 1)


def test_network_that_is_not_mvrecs_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_paths, "_named", {__name__})
    node = network_node("smallest") | {"class_path": f"{__name__}.Foreign"}
    recogniser = loaded(save_run(tmp_path / "r.ckpt", node))
    with pytest.raises(UserError, match=r"its network is a test_exporting.Foreign, not of mvrec.models"):
        export(recogniser, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"r.ckpt: torch.export cannot trace this Foreign: "):
        export(recogniser, tmp_path / "m.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["r.ckpt"]


def test_class_path_put_into_a_card_is_refused_and_never_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('evil code ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recogniser = run_of("cloformer", tmp_path)
    evil = {"class_path": "evil_module.Net", "init_args": {}}
    framewise = "mvrec.models.Framewise"
    for node in (
        evil,
        {"class_path": framewise, "init_args": {"num_frames": 4, "backbone": "evil_module.Net"}},
        {"class_path": framewise, "init_args": {"num_frames": 4, "backbone": {"class_path": "evil_module.Net"}}},
    ):
        path = tmp_path / "m.safetensors"
        exporting.save_weights(path, recogniser.backbone, card_of(recogniser) | {"backbone": node})
        with pytest.raises(
            UserError, match=r"m.safetensors: its network is a evil_module.Net, and a file of weights may"
        ):
            loaded(path)
        assert "evil_module" not in sys.modules


def test_file_whose_logits_differ_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for largest, limit in ((0.1, 1e-4), (9.9, 1e-4), (50.0, 5e-4)):
        assert Differences({1: 0.0}, largest, 0.0).limit == pytest.approx(limit)
    recogniser = run_of("cloformer", tmp_path)
    path = tmp_path / "m.safetensors"
    path.write_text("from before")
    save = exporting.save_weights
    for value, message in (
        (1e-2, r"m.safetensors is not written: its logits in torch .* by 1.0e-02 \(limit"),
        (float("nan"), "NaN"),
    ):

        def spoiled(path: Path, network: Backbone, card: dict, value: float = value) -> None:
            head = network.head.bias
            before = head.detach().clone()
            head.data[0] += value
            save(path, network, card)
            head.data.copy_(before)

        monkeypatch.setattr(exporting, "save_weights", spoiled)
        with pytest.raises(UserError, match=message):
            export(recogniser, path)
        assert path.read_text() == "from before"
    nothing = torch.full((1,), float("nan"))
    monkeypatch.setitem(exporting.WRITERS, ".pt2", lambda *_: ("nowhere", lambda x: (nothing, ())))
    with pytest.raises(UserError, match="by nan"):
        export(recogniser, tmp_path / "m.pt2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "run of spaces"]


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".pt2", ".safetensors"])
def test_full_disk_leaves_nothing_behind(suffix: str, tmp_path: Path) -> None:
    recogniser = run_of("smallest", tmp_path)
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(UserError, match=rf"m{suffix}: cannot be written: .*(File too large|27)"):
            export(recogniser, out / f"m{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(out.iterdir()) == []


def test_order_that_does_not_sort_is_refused() -> None:
    x = torch.tensor([[0.3, 0.1, 0.2]])
    with _Sorted([torch.tensor([[1, 2, 0]])]):
        given = x.sort(stable=True)
    assert given.indices.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(given.values, torch.tensor([[0.1, 0.2, 0.3]]))
    near = torch.tensor([[1.0, 1.0 - 1e-6, 2.0]])
    with _Sorted([torch.tensor([[0, 1, 2]])]):
        assert near.sort(stable=True).indices.tolist() == [[0, 1, 2]]
    for wrong in ([[0, 1, 2]], [[1, 1, 0]]):
        with _Sorted([torch.tensor(wrong)]), pytest.raises(UserError, match="does not sort its tokens"):
            x.sort(stable=True)


def test_wrong_request_is_one_line_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for output, opset, message in (
        ("m.onx", None, r"--output must end in .onnx, .pt2, .safetensors, got '.*m.onx'; did you mean '.onnx'\?"),
        ("model", None, "--output must end in .onnx"),
        ("m.onnx", 17, r"--opset must lie in 18..23, got 17"),
        ("m.pt2", 18, "--opset is for .onnx"),
        ("folder.onnx", None, "--output is a folder"),
        ("r.safetensors", None, "--output is the source itself"),
        ("folder.onnx/../r.safetensors", None, "--output is the source itself"),
    ):
        with pytest.raises(UserError, match=message):
            check_request(tmp_path / output, source=tmp_path / "r.safetensors", opset=opset)
    find = exporting.need.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else find(name))
    message = f"this needs onnx and onnxscript and onnxruntime: {install_hint('export')}"
    with pytest.raises(UserError, match=re.escape(message)):
        check_request(tmp_path / "m.onnx", source=tmp_path / "r.ckpt")
    check_request(tmp_path / "m.pt2", source=tmp_path / "r.ckpt")


SCRIPTS = re.findall(r"```python\n(import json, sys.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
# Nothing of ours, nor what it is built on, can be imported.
ALONE = """
import sys
sys.modules.update(dict.fromkeys(["mvrec", "torch", "torchvision", "lightning"]))
exec(compile(open(sys.argv.pop(1)).read(), "script", "exec"))
"""


def run_script(script: str, network: Path, file: Path) -> dict[str, float]:
    """The classes that a script prints, with their probabilities, the likeliest first."""
    path = network.parent / "script.py"
    path.write_text(script)
    command = [sys.executable, "-I", "-c", ALONE, str(path), str(network), str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONIOENCODING": "utf-8"})
    assert result.returncode == 0, result.stderr
    lines = [line.partition(" ") for line in result.stdout.splitlines()]
    return {name: float(probability) for probability, _, name in lines}


def used_otherwise(recogniser: Recogniser, result: Exported, path: Path, **changes: Any) -> Recogniser:
    """The same network with another protocol or kind of classes, and its file with metadata that say so."""
    several = changes.pop("multi_label")
    other = replace(recogniser, outputs=ClassificationOutputs(recogniser.class_names, multi_label=several), **changes)
    graph = onnx.load(result.path)
    card = result.card | {"protocol": other.protocol.as_dict(), "multi_label": several}
    onnx.helper.set_model_props(graph, {"mvrec": json.dumps(card)})
    onnx.save(graph, path)
    return other


def check_script(script: str, recogniser: Recogniser, network: Path, file: Path, *, tolerance: float) -> None:
    wanted = dict(zip(recogniser.class_names, recogniser.score(file).tolist(), strict=True))
    found = run_script(script, network, file)
    best = max(wanted.values())
    assert best - min(wanted.values()) > 5 * tolerance  # or it would say nothing
    assert wanted[next(iter(found))] > best - tolerance
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found == pytest.approx(wanted, rel=0, abs=tolerance)


# Videos, each with changes of views and of the clip, and whether there may be several classes.
USES = {
    "short and high": ({"num_frames": 7, "size": (150, 90), "fps": 24}, {}, {}, False),
    "odd rate": (
        *({"num_frames": 75, "size": (90, 150), "fps": Fraction(30000, 1001)}, {"num_clips": 1}, {"target_fps": None}),
        True,
    ),
    "square": ({"num_frames": 50, "size": (64, 64), "fps": 25}, {"num_clips": 3, "antialias": False}, {}, False),
}


@pytest.mark.parametrize("use", USES)
def test_documented_script_for_videos_gives_the_probabilities_of_mvrec(use: str, exported, tmp_path: Path) -> None:
    assert [script.count("\n") <= 15 for script in SCRIPTS] == [True, True]
    assert max(len(line) for script in SCRIPTS for line in script.splitlines()) <= 120
    recogniser, result = exported("mvit_v1_video", ".onnx")
    video, views, clip, multi_label = USES[use]
    file = write_video(tmp_path / f"{use}.mp4", **video)
    protocol = recogniser.protocol
    protocol = replace(protocol, views=replace(protocol.views, **views), clip=replace(protocol.clip, **clip))
    other = used_otherwise(recogniser, result, tmp_path / "m.onnx", protocol=protocol, multi_label=multi_label)
    # Without antialias Pillow rounds down, which makes a grey level, and noise and a steep head make much of it.
    tolerance = 0.002 if protocol.views.antialias else 0.02
    check_script(SCRIPTS[0], other, tmp_path / "m.onnx", file, tolerance=tolerance)


@pytest.mark.parametrize(("size", "suffix", "upright"), [((90, 150), "png", False), ((151, 97), "jpg", True)])
def test_documented_script_for_images_gives_the_probabilities_of_mvrec(size, suffix, upright, exported, tmp_path):
    recogniser, result = exported("one_stage", ".onnx")
    protocol = replace(recogniser.protocol, upright=upright)
    other = used_otherwise(recogniser, result, tmp_path / "m.onnx", protocol=protocol, multi_label=upright)
    file = tmp_path / f"ein bild.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(numbered_frame(5, size)).save(file, exif=exif)
    check_script(SCRIPTS[1], other, tmp_path / "m.onnx", file, tolerance=0.002)
