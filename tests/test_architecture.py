"""Limits of the code: which module may import which, and the size of files, folders and functions."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mvrec").rglob("*.py"))

# From the ground up: a file imports from its own room and from the rooms above its own in this list.
FLOORS = (
    *("__init__", "errors", "messages", "published", "seeds", "files", "fast_forms", "machine", "processes"),
    *("array_pickles", "class_paths", "recipes", "ranges", "run_data", "lightning_private", "weights"),
    *("models", "timm"),
    *("data.views.pixel_operations", "data.views.geometry", "data.views.targets"),
    *("data.listing", "data.video", "data.views", "data.loading", "data.sets", "data.generated", "data"),
    *("cluster", "training", "runs"),
    *("report.markup", "report.charts", "report.style", "report.file_results", "report.sections"),
    *(
        "tasks.chance",
        "tasks.scores",
        "tasks.score_text",
        "tasks.start",
        "tasks.outputs",
        "tasks.regions",
        "tasks.ranked_claims",
        "tasks.maps_heads",
        "tasks.base",
    ),
    *("tasks.classification", "tasks.regression", "tasks.segmentation", "tasks.action_detection", "tasks.detection"),
    *("tasks", "report"),
    *("inference", "export", "doctor", "prep"),
    *("plan", "cli", "script", "commands", "compare", "sweep", "serve", "looking", "probe", "cli.main", "__main__"),
)
# What the order allows and the design does not: these rooms meet only in tasks, inference and what stands on them.
STRANGERS = {
    "data": {"models", "timm"},
    "cluster": {"models", "data", "files"},
    "training": {"models", "data", "cluster", "files"},
    "runs": {"data", "cluster", "training"},
    "tasks": {"cluster", "data.video", "data.sets", "data.generated"},
    "inference": {
        "cluster",
        "training",
        "report",
        "tasks.base",
        "tasks.classification",
        "tasks.regression",
        "tasks.segmentation",
        "tasks.action_detection",
        "tasks.detection",
    },
    "export": {
        "cluster",
        "training",
        "report",
        "tasks.base",
        "tasks.classification",
        "tasks.regression",
        "tasks.segmentation",
        "tasks.action_detection",
        "tasks.detection",
    },
    "prep": {"models", "cluster", "training", "runs", "tasks", "report", "inference", "export", "doctor"},
    "doctor": {"models", "cluster", "training", "runs", "tasks", "inference", "export"},
}
# Libraries that only these files may import.
ONLY_IN = """
decord: data/video/decord prep/sources
av: data/video/containers data/video/shown_pictures data/video/pyav data/video/frame_finder data/video/frame_times
av: data/video/stream doctor/media data/generated/moving_digits_video inference/overlay prep/sources prep/transcode
torchcodec: data/video/torchcodec
pytorchvideo: data/views/pytorchvideo_sampling models/baselines/names
timm: timm models/baselines/wrapper models/baselines/names
pyarrow: export/feature_table
safetensors: models/checkpoints/files export/model_card
onnx: export/onnx_file
onnxscript: export/onnx_file
onnxruntime: export/onnx_file export/exporting export/detectors/writing
huggingface_hub: export/hub inference/hub_files
PIL: data/loading/images data/loading/masks data/generated/digit_images data/generated/digit_scenes
PIL: inference/overlay inference/objects/box_drawing plan/media prep/transcode
torch.distributed: tasks/scores cluster/heartbeat cluster/launch_check cluster/preflight cluster/watchdog
torch.distributed: runs/preemption runs/run_directory training/sharding training/non_finite
matplotlib: runs/curves tasks/classification/figures
yaml: compare/scored sweep/values cli/config_check cli/lightning plan/as_yaml data/listing/objects/forms
jsonargparse: cli/lightning cli/jsonargparse_private cli/input_size cli/request inference/recogniser
"""
# The only files that may touch private names of other libraries, and which; that of a seam has them all.
SEAMS = {"lightning_private.py", "cli/jsonargparse_private.py"}
PRIVATE = {
    "data/loading/loader.py": {"_shutdown_workers"},  # before Python waits for them at its end
    "data/loading/workers.py": {"_on_queue_feeder_error", "_new_shared_fd_cpu"},  # batches without files or lost errors
    "data/loading/batch.py": {"_pytree"},  # Lightning's own way through a batch
    "models/baselines/wrapper.py": {"_metadata"},  # versions of modules, which torch keeps next to a state dict
    "models/heads/detection": {"_utils"},  # torchvision's coder, matcher and sampler of boxes
    "models/fast": {
        *("_softmax_backward_data", "_linear_pointwise", "_convolution_pointwise"),
        *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    },
}
# Names that begin so and are documented.
PUBLIC = {"_replace", "_asdict", "_fields", "_exit", "_current_frames"}
# A file of these with the bricks next to it runs in anybody's notebook.
ARCHITECTURES = {"cloformer", "mvit.mvit", "mvit.variants", "sgformer", "shunted"}
BRICKS = {"backbone", "layers", "mvit.plan", "mvit.pooling_attention", "pyramid"}


def room(module: str) -> str:
    """The longest name in `FLOORS` that a module of mvrec begins with."""
    name = module.removeprefix("mvrec").lstrip(".")
    while name and name not in FLOORS:
        name = name.rpartition(".")[0]
    return name or "__init__"


def module_of(path: Path) -> str:
    return ".".join(("mvrec", *path.relative_to(ROOT / "mvrec").with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def home(name: str) -> str:
    """The module in which an imported name is."""
    return name if name in MODULES else name.rpartition(".")[0]


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a file, parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(path: Path) -> Iterator[str]:
    """The modules of mvrec that a file imports, itself excluded."""
    for name in imports(path):
        if name.split(".")[0] == "mvrec" and home(name) != module_of(path):
            yield home(name)


def test_imports_go_one_way():
    for path in FILES:
        module = module_of(path)
        if module == "mvrec":  # the front door, whose names are imported when they are used
            continue
        own_room = room(module)
        for target in arrows(path):
            other = room(target)
            assert FLOORS.index(other) <= FLOORS.index(own_room), f"{module} is below {target} and must not import it"
            stranger = next(
                (rooms for name, rooms in STRANGERS.items() if f"{own_room}.".startswith(f"{name}.")), set()
            )
            assert not any(f"{other}.".startswith(f"{name}.") for name in stranger), f"{module} imports {target}"


def test_no_imports_run_in_a_circle():
    waiting = {module_of(path): set(arrows(path)) - {"mvrec"} for path in FILES}
    while free := {module for module, targets in waiting.items() if not targets & waiting.keys()}:
        waiting = {module: targets for module, targets in waiting.items() if module not in free}
    assert not waiting


def test_libraries_stay_behind_their_door():
    rows = [line.partition(": ") for line in ONLY_IN.strip().splitlines()]
    for path in FILES:
        relative = str(path.relative_to(ROOT / "mvrec").with_suffix(""))
        allowed = {library for library, _, files in rows if relative in files.split()}
        strange = {library for library, _, _ in rows} - allowed
        for name in imports(path):
            assert not any(f"{name}.".startswith(f"{library}.") for library in strange), f"{relative} imports {name}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC | {"_"}


def own_names(path: Path) -> Iterator[str]:
    """Names that a file gives to things of its own."""
    for node in nodes(path):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
            ):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self")):
                yield name


def asked_names(path: Path) -> Iterator[str]:
    """Names that a file asks objects for, or imports."""
    for node in nodes(path):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=name), *_]):
                yield str(name)
    for name in imports(path):
        yield from name.split(".")


def test_private_names_of_libraries_stay_behind_their_seam():
    own_room = {name for path in FILES for name in own_names(path)}
    for path in FILES:
        relative = str(path.relative_to(ROOT / "mvrec"))
        if relative not in SEAMS:
            strange = {name for name in asked_names(path) if is_private(name)} - own_room
            allowed = PRIVATE.get(relative) or PRIVATE.get(str(Path(relative).parent), set())
            assert strange <= allowed, f"{relative}: go through one of {SEAMS}"


def test_architectures_import_torch_and_bricks_only():
    imported = [(stem, name) for stem in ARCHITECTURES | BRICKS for name in imports(MODULES[f"mvrec.models.{stem}"])]
    for stem, name in imported:
        library = name.split(".")[0]
        brick = home(name).removeprefix("mvrec.models.")
        # Variants are rows of the architecture next to them.
        actual = library == "mvrec" and (brick in BRICKS or (stem, brick) == ("mvit.variants", "mvit.mvit"))
        assert actual or library in {"torch", "torchvision"} | sys.stdlib_module_names, f"{stem} imports {name}"


def test_networks_do_not_know_what_makes_them_quick():
    """`models/fast` may be deleted, and its callers' one line with it; whoever reads MViT reads 1,050 lines."""
    for path in FILES:
        if path.parent.name != "fast":
            assert not re.search(r"torch\.ops\.(?!aten\.sort)", path.read_text()), path
            if "models" in path.parts and path.name not in ("__init__.py", "zoo.py", "macs.py"):
                assert not [name for name in imports(path) if name.startswith("mvrec.models.fast")], path
    folder = ROOT / "mvrec/models/mvit"
    assert sum(path.read_text().count("\n") for path in folder.glob("*.py")) <= 1050


def test_nothing_grows_without_bound():
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= 15, folder
    for path in FILES:
        assert path.read_text().count("\n") <= 450, path
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


def test_the_package_networks_and_recognisers_are_imported_without_heavy_libraries():
    code = """
import sys, mvrec
assert not {"torch", "numpy", "lightning"} & set(sys.modules), "mvrec"
import mvrec.models
heavy = {"timm", "pytorchvideo", "torchvision", "lightning"}
assert not (heavy | {"jsonargparse", "av", "decord"}) & set(sys.modules), "mvrec.models"
mvrec.load
assert not heavy & set(sys.modules), f"the recogniser imports {heavy & set(sys.modules)}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
