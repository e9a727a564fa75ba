import json
import re
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
from mvrec.inference.recognising import recognise_files
from mvrec.models import Backbone, CloFormer, create_model
from mvrec.tasks.classification.outputs import ClassificationOutputs

ROOT = Path(__file__).parent.parent.parent
FRAMEWISE = "mvrec.models.Framewise"


def loaded(path: Path, **knobs) -> Recogniser:
    return load_recogniser(path, device="cpu", **knobs)


def run_of(kind: str, folder: Path, **knobs) -> Recogniser:
    return loaded(save_run(folder / "run of spaces" / "best.ckpt", network_node(kind), **knobs))


def opened(path: Path) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    """The metadata and the network of a file, without mvrec where the format allows it."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        card = session.get_modelmeta().custom_metadata_map["mvrec"]
        return json.loads(card), lambda x: torch.from_numpy(session.run(["logits"], {"input": x.numpy()})[0])
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["mvrec"]), loaded(path).backbone
    files = {"mvrec.json": ""}
    program = torch.export.load(path, extra_files=files)
    return json.loads(files["mvrec.json"]), program.module()


# Tracing takes seconds, and ONNX's conversion more; tests/models/test_contract.py traces the other families.
QUICK = {(".onnx", "mvit_v1_video"), (".onnx", "one_stage"), (".pt2", "shunted")}
CASES = [
    pytest.param(kind, suffix, marks=() if suffix == ".safetensors" or (suffix, kind) in QUICK else pytest.mark.slow)
    for suffix in (".onnx", ".pt2", ".safetensors")
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
        opset = 18 if suffix == ".onnx" and kind.startswith("mvit") else None
        return recogniser, export(recogniser, folder / "für alle" / f"a model{suffix}", opset=opset)

    return make


@pytest.mark.parametrize(("kind", "suffix"), CASES)
def test_exported_file_has_the_metadata_and_logits_of_its_network(kind: str, suffix: str, exported) -> None:
    recogniser, result = exported(kind, suffix)
    assert [file.name for file in result.path.parent.iterdir()] == [result.path.name]
    card, network = opened(result.path)
    assert card == result.card == card_of(recogniser)
    assert card["class_names"] == NAMES
    assert card["protocol"] == json.loads(json.dumps(recogniser.protocol.as_dict()))
    frames = [4] if recogniser.is_video else []
    assert card["image_size"] == list(recogniser.backbone.input_shape[-2:])
    assert card["input"]["shape"] == ["batch", 3, *frames, 32, 32]
    assert card["input"]["layout"] == ("BCTHW" if recogniser.is_video else "BCHW")
    output = {"name": "logits", "dtype": "float32", "shape": ["batch", 5], "activation": "softmax"}
    assert card["output"] == output
    assert list(result.differences.by_batch) == [1, 3]
    assert 0 <= max(result.differences.by_batch.values()) <= result.differences.limit
    noise = [torch.randn(n, 3, *frames, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 5)]
    # Of one colour: where tokens are sorted, they are equal, and the order is that of their places.
    for x in [*noise, torch.ones(2, 3, *frames, 32, 32)]:
        with torch.inference_mode():
            expected, logits = recogniser.backbone(x), network(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(logits, expected, rtol=0, atol=0 if suffix == ".safetensors" else 1e-4)
    if suffix == ".onnx":
        graph = onnx.load(result.path, load_external_data=False)
        versions = [entry.version for entry in graph.opset_import if entry.domain == ""]
        assert versions == [18 if kind.startswith("mvit") else 20]
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)
        assert graph.producer_name == "mvrec"
    if suffix == ".safetensors":
        assert network.input_shape == recogniser.backbone.input_shape


def test_weights_exported_again_are_equal_bit_for_bit(tmp_path: Path) -> None:
    recogniser = run_of("mvit_v2_video", tmp_path, multi_label=True)
    export(recogniser, tmp_path / "a.safetensors")
    card = export(loaded(tmp_path / "a.safetensors"), tmp_path / "b.safetensors").card
    assert card["output"]["activation"] == "sigmoid"
    assert card["converted_from"]["file"] == "a.safetensors"
    assert card["backbone"] == card_of(recogniser)["backbone"]
    again = loaded(tmp_path / "b.safetensors")
    assert (again.class_names, again.protocol, again.outputs.multi_label) == (tuple(NAMES), recogniser.protocol, True)
    views = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    expected = recogniser.probabilities(views)
    torch.testing.assert_close(again.probabilities(views), expected, rtol=0, atol=0)
    assert expected.sum(1).max() > 1.1  # sigmoids


@pytest.mark.parametrize("kind", ["framewise", "library", "fine-tuned"])
def test_network_around_a_network_survives_as_weights(kind: str, tmp_path: Path) -> None:
    create = "mvrec.models.create_model"
    class_path, arguments = {
        "framewise": (FRAMEWISE, {"backbone": network_node("cloformer"), "num_frames": 4, "pool": "max"}),
        "library": (create, {"name": "torchvision/squeezenet1_1", "num_classes": 3, "image_size": 64}),
        "fine-tuned": (create, {"name": "cloformer_xxs", "weights": None, "image_size": 64}),
    }[kind]
    frames = [4] if kind == "framewise" else []
    protocol = protocol_for({"init_args": {"image_size": 64, "num_frames": frames[0] if frames else None}})
    node = {"class_path": class_path, "init_args": arguments}
    source = save_run(tmp_path / "run.ckpt", node, names=["only", "two"], protocol=protocol)
    if kind == "fine-tuned":  # the file that it once started from is in the settings and not on this machine
        tree = torch.load(source)
        tree["hyper_parameters"]["backbone"]["init_args"]["weights"] = "/gone/weights.pth"
        torch.save(tree, source)
    recogniser = loaded(source)
    card = json.dumps(export(recogniser, tmp_path / "w.safetensors").card)
    source.unlink()
    assert not any(place in card for place in ("/gone", str(tmp_path)))
    again = loaded(tmp_path / "w.safetensors")
    assert (again.class_names, again.protocol) == (("only", "two"), protocol)
    x = torch.randn(2, 3, *frames, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again.backbone(x), recogniser.backbone(x), rtol=0, atol=0)


def test_weights_of_a_variant_get_its_name_and_published_input(tmp_path):
    torch.save({"model": create_model("cloformer_xxs", num_classes=3).state_dict()}, tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("eins\nzwei\ndrei\n")
    recogniser = loaded(tmp_path / "w.pth", classes=str(tmp_path / "names.txt"))
    card = export(recogniser, tmp_path / "w.safetensors").card
    assert (card["name"], card["class_names"]) == ("cloformer_xxs", ["eins", "zwei", "drei"])
    assert card["input"]["mean"] == [0.485, 0.456, 0.406]
    assert loaded(tmp_path / "w.safetensors").protocol == recogniser.protocol
    assert create_model("cloformer_xxs", weights=tmp_path / "w.safetensors").num_classes == 3  # as other weights


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


@pytest.mark.parametrize("inner", [None, "evil_module.Net", {"class_path": "evil_module.Net"}])
def test_class_path_put_into_a_card_is_refused_and_never_imported(inner, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('evil code ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"class_path": FRAMEWISE, "init_args": {"num_frames": 4, "backbone": inner}}
    node = node if inner else {"class_path": "evil_module.Net", "init_args": {}}
    recogniser = run_of("smallest", tmp_path)
    exporting.save_weights(tmp_path / "m.safetensors", recogniser.backbone, card_of(recogniser) | {"backbone": node})
    with pytest.raises(UserError, match=r"m.safetensors: its network is a evil_module.Net, and a file of weights may"):
        loaded(tmp_path / "m.safetensors")
    assert "evil_module" not in sys.modules


def test_file_whose_logits_differ_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for largest, limit in ((0.1, 1e-4), (9.9, 1e-4), (50.0, 5e-4)):
        assert Differences({1: 0.0}, largest, 0.0).limit == pytest.approx(limit)
    recogniser = run_of("smallest", tmp_path)
    path = tmp_path / "m.safetensors"
    path.write_text("from before")
    save, missing = exporting.save_weights, torch.full((1,), float("nan"))

    def spoiled(path: Path, network: Backbone, card: dict) -> None:
        network.head.bias.data[0] += 1e-2
        save(path, network, card)
        network.head.bias.data[0] -= 1e-2

    monkeypatch.setattr(exporting, "save_weights", spoiled)
    with pytest.raises(UserError, match=r"m.safetensors is not written: its logits in torch .* by 1.0e-02 \(limit"):
        export(recogniser, path)
    monkeypatch.setitem(exporting.WRITERS, ".safetensors", lambda *_: ("nowhere", lambda x: (missing, ())))
    with pytest.raises(UserError, match="by nan"):
        export(recogniser, path)
    assert path.read_text() == "from before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "run of spaces"]


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".pt2", ".safetensors"])
def test_full_disk_leaves_nothing_behind(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_size_limit: Callable[[int], None]
) -> None:
    recogniser = run_of("smallest", tmp_path)
    if suffix == ".pt2":  # tracing our network takes seconds
        program = torch.export.export(torch.nn.Linear(99, 99), (torch.ones(2, 99),))
        monkeypatch.setattr(exporting, "_traced", lambda recogniser: program)
    out = tmp_path / "out"
    file_size_limit(8192)
    with pytest.raises(UserError, match=rf"m{suffix}: cannot be written: .*(File too large|27)"):
        export(recogniser, out / f"m{suffix}")
    assert list(out.iterdir()) == []


def test_order_that_does_not_sort_is_refused() -> None:
    x, near = torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[1.0, 1.0 - 1e-6, 2.0]])
    for values, order in ((x, [[1, 2, 0]]), (near, [[0, 1, 2]])):
        with _Sorted([torch.tensor(order)]):
            ordered = values.sort(stable=True)
        assert ordered.indices.tolist() == order
        torch.testing.assert_close(ordered.values, values.sort().values)
    for order in ([[0, 1, 2]], [[1, 1, 0]]):
        with _Sorted([torch.tensor(order)]), pytest.raises(UserError, match="does not sort its tokens"):
            x.sort(stable=True)


def test_wrong_request_is_one_line_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for output, opset, message in (
        ("m.onx", None, r"--output must end in .onnx, .pt2, .safetensors, got '.*m.onx'; did you mean '.onnx'\?"),
        ("m.onnx", 17, r"--opset must lie in 18..23, got 17"),
        ("m.pt2", 18, "--opset is for .onnx"),
        ("folder.onnx", None, "--output is a folder"),
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
import json, sys
sys.modules.update(dict.fromkeys(["mvrec", "torch", "torchvision", "lightning"]))
for script, *arguments in json.load(sys.stdin):
    sys.argv[1:] = arguments
    exec(script, {})
    print()
"""
# Videos and images, each with changes of views, of the clip or the protocol, and whether there may be several classes.
VIDEOS = {
    "short and high.mp4": ({"num_frames": 7, "size": (150, 90), "fps": 24}, {}, {}, False),
    "odd rate.mp4": (
        *({"num_frames": 75, "size": (90, 150), "fps": Fraction(30000, 1001)}, {"num_clips": 1}, {"target_fps": None}),
        True,
    ),
    "square.mp4": ({"num_frames": 50, "size": (64, 64), "fps": 25}, {"num_clips": 3, "antialias": False}, {}, False),
}
IMAGES = {"ein bild.png": ((90, 150), False), "turned.jpg": ((151, 97), True)}


def scores(use: Recogniser, file: Path) -> list[float]:
    return next(recognise_files(use, [file])).output.probabilities.tolist()


def used_otherwise(recogniser: Recogniser, result: Exported, file: Path, multi_label: bool, **changes) -> Recogniser:
    """The same network, and its export next to a file with metadata to match, with another protocol or activation."""
    outputs = ClassificationOutputs(recogniser.class_names, multi_label=multi_label)
    other = replace(recogniser, outputs=outputs, protocol=replace(recogniser.protocol, **changes))
    graph = onnx.load(result.path)
    card = result.card | {"protocol": other.protocol.as_dict(), "multi_label": multi_label}
    onnx.helper.set_model_props(graph, {"mvrec": json.dumps(card)})
    onnx.save(graph, file.with_suffix(".onnx"))
    return other


def test_documented_scripts_give_the_probabilities_of_mvrec(exported, tmp_path: Path) -> None:
    assert [script.count("\n") <= 15 for script in SCRIPTS] == [True, True]
    assert max(len(line) for script in SCRIPTS for line in script.splitlines()) <= 120
    uses: dict[Path, Recogniser] = {}
    recogniser, result = exported("mvit_v1_video", ".onnx")
    for name, (video, views, clip, multi_label) in VIDEOS.items():
        file = write_video(tmp_path / name, **video)
        changes = {
            "views": replace(recogniser.protocol.views, **views),
            "clip": replace(recogniser.protocol.clip, **clip),
        }
        uses[file] = used_otherwise(recogniser, result, file, multi_label, **changes)
    recogniser, result = exported("one_stage", ".onnx")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for name, (size, upright) in IMAGES.items():
        file = tmp_path / name
        Image.fromarray(numbered_frame(5, size)).save(file, exif=exif)
        uses[file] = used_otherwise(recogniser, result, file, upright, upright=upright)

    cases = [(SCRIPTS[not use.is_video], str(file.with_suffix(".onnx")), str(file)) for file, use in uses.items()]
    command = [sys.executable, "-I", "-c", ALONE]
    knobs = {"capture_output": True, "text": True, "env": {"PYTHONIOENCODING": "utf-8"}}
    process = subprocess.run(command, input=json.dumps(cases), check=False, **knobs)
    assert process.returncode == 0, process.stderr
    for (file, use), answer in zip(uses.items(), process.stdout.strip().split("\n\n"), strict=True):
        lines = [line.partition(" ") for line in answer.splitlines()]
        printed = {name: float(probability) for probability, _, name in lines}
        expected = dict(zip(use.class_names, scores(use, file), strict=True))
        # Without antialias Pillow rounds down, which makes a grey level, and noise and a steep head make much of it.
        tolerance = 0.02 if file.stem == "square" else 0.002
        best = max(expected.values())
        assert best - min(expected.values()) > 5 * tolerance, file  # or it would say nothing
        assert expected[next(iter(printed))] > best - tolerance, file
        assert list(printed.values()) == sorted(printed.values(), reverse=True), file
        assert printed == pytest.approx(expected, rel=0, abs=tolerance), file
