"""Who may import whom, and how long things may grow."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mvrec").rglob("*.py"))

# A room may open the doors of these rooms of mvrec (its own always).
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "messages": set(),
    "signals": {"errors"},
    "files": set(),
    "class_paths": {"errors"},
    "limits": set(),
    "cli": {"__init__", "class_paths", "commands", "errors", "lightning_cli", "limits", "messages", "signals"},
    "config_check": {"class_paths", "errors", "files", "published"},
    "parse_errors": {"class_paths", "config_check", "errors"},
    "value_check": {"class_paths", "config_check", "errors", "files", "parse_errors"},
    "backbone_names": {"config_check", "errors", "models", "published"},
    "lightning_cli": {
        *(
            "backbone_names",
            "class_paths",
            "config_check",
            "data",
            "errors",
            "files",
            "inherited",
            "messages",
            "models",
            "parse_errors",
            "signals",
            "tasks",
            "training",
            "value_check",
        ),
    },
    "inherited": {
        "class_paths",
        "config_check",
        "data.presets",
        "errors",
        "files",
        "models.checkpoints",
        "starting_point",
        "training.checkpoint_files",
        "training.monitors",
    },
    "starting_point": {"class_paths", "errors", "files", "models", "published"},
    "commands": {
        "__init__",
        "data",
        "doctor",
        "errors",
        "evaluation",
        "files",
        "inference",
        "lightning_cli",
        "models",
        "published",
        "starting_point",
        "training",
    },
    "doctor": {"data", "errors", "limits"},
    "inference": {
        "__init__",
        "data",
        "errors",
        "evaluation",
        "files",
        "limits",
        "class_paths",
        "models",
        "published",
        "starting_point",
    },
    "tasks": {
        "files",
        "__init__",
        "data.batch",
        "data.class_names",
        "data.seeds",
        "errors",
        "evaluation",
        "models.backbone",
        "models.checkpoints",
        "training",
    },
    "training": {"__init__", "data.seeds", "errors", "files", "limits", "signals"},
    "evaluation": {"data.batch", "errors", "files"},
    "data": {"errors", "files", "limits"},
    "models": {"errors", "files", "published"},  # the architectures nothing but their bricks: see below
    "published": set(),
    "timm": {"models"},
}
# Words that only these files may use.
ONLY_IN = {
    "decord": {"data/decord_video.py"},
    "av": {
        "data/containers.py",
        "data/shown_pictures.py",
        "data/pyav_video.py",
        "data/frame_finder.py",
        "data/frame_times.py",
        "data/stream.py",
        "doctor/media.py",
        "data/moving_digits_video.py",
        "inference/overlay.py",
    },
    "torchcodec": {"data/torchcodec_video.py"},
    "pytorchvideo": {"data/pytorchvideo_sampling.py", "models/baselines.py"},
    "timm": {"timm.py", "models/baseline.py", "models/baselines.py"},
    "safetensors": {"models/checkpoints/files.py", "inference/model_card.py"},
    "onnx": {"inference/onnx_file.py"},
    "onnxscript": {"inference/onnx_file.py"},
    "onnxruntime": {"inference/onnx_file.py", "inference/exporting.py"},
    "huggingface_hub": {"inference/hub.py", "inference/hub_files.py"},
    "PIL": {"data/images.py", "data/digit_images.py", "inference/overlay.py"},
    "torch.distributed": {
        *("evaluation/scores.py", "training/launch_check.py", "training/preemption.py", "training/preflight.py"),
        *("training/run_directory.py", "training/sharding.py", "training/watchdog.py"),
    },
    "matplotlib": {"training/curves.py", "evaluation/figures.py"},
    "yaml": {"config_check.py", "lightning_cli.py"},
    "jsonargparse": {"lightning_cli.py", "inference/recogniser.py"},
}
# A file of these with the bricks beside it runs in anybody's notebook.
ARCHITECTURES = {"cloformer", "mvit", "mvit_variants", "sgformer", "shunted"}
BRICKS = {"attention", "backbone", "depthwise", "layers", "pooling_attention", "products", "recompute"}
AROUND_THEM = {"__init__", "baseline", "baselines", "feature_pyramid", "framewise", "macs", "zoo"}


def room(module: str) -> str:
    return module.removeprefix("mvrec").lstrip(".").split(".")[0] or "__init__"


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "mvrec")))
def test_imports_go_one_way(path):
    relative = path.relative_to(ROOT / "mvrec")
    own = relative.parts[0].removesuffix(".py")
    for name in imports(path):
        if name.split(".")[0] != "mvrec" or name in ("mvrec", "mvrec.__version__"):
            continue
        target = name.removeprefix("mvrec.")
        allowed = room(name) == own or any(target == door or target.startswith(f"{door}.") for door in MAY_IMPORT[own])
        assert allowed or target in ("models", "data"), f"{relative} must not import {name}"
        if target in ("models", "data") and room(name) != own:
            assert target in MAY_IMPORT[own] or any(d.startswith(f"{target}.") for d in MAY_IMPORT[own]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "mvrec")))
def test_libraries_stay_behind_their_door(path):
    relative = str(path.relative_to(ROOT / "mvrec"))
    for name in imports(path):
        for library, files in ONLY_IN.items():
            if name == library or name.startswith(f"{library}."):
                assert relative in files, f"{relative} imports {name}"


def test_every_file_of_models_has_its_place():
    assert {path.stem for path in (ROOT / "mvrec/models").glob("*.py")} == ARCHITECTURES | BRICKS | AROUND_THEM


@pytest.mark.parametrize("stem", sorted(ARCHITECTURES | BRICKS))
def test_architectures_are_plain_torch(stem):
    for name in imports(ROOT / f"mvrec/models/{stem}.py"):
        library, *inner = name.split(".")
        if library != "mvrec":
            assert library in ("torch", "torchvision") or library in sys.stdlib_module_names, name
            continue
        assert inner[0] == "models", name
        # Variants are rows of the architecture beside them.
        assert inner[1] in BRICKS or stem.startswith(inner[1]), f"{stem} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "mvrec")))
def test_nothing_grows_without_bound(path):
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


def test_what_recognises_files_loads_neither_lightning_nor_torchvision():
    code = (
        "import sys, mvrec.inference.recogniser\n"
        "heavy = {'timm', 'pytorchvideo', 'torchvision', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_zoo_loads_no_library_before_it_is_asked_for():
    code = (
        "import sys, mvrec.models\n"
        "names = {'timm', 'pytorchvideo', 'torchvision', 'lightning', 'jsonargparse', 'av', 'decord'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_promise_names_tests_that_are_there():
    rows = [line.split("|") for line in (ROOT / "docs/trust.md").read_text("utf-8").splitlines() if "`" in line]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py)?(?:::)?(test_\w+)?`", row[2])]
    assert len(named) > 50
    text = ""
    for path, test in named:
        text = (ROOT / "tests" / path).read_text("utf-8") if path else text
        assert not test or f"\ndef {test}(" in text, test
