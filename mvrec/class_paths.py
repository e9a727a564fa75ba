"""Class paths: their form, the classes that a file may name, and their import.

Importing a module runs it, and jsonargparse calls functions in place of classes. So a file (a checkpoint or
weights) may name networks and data modules of mvrec, optimisers of torch, and classes of modules that the user has
named: in a config, in a flag, with `--trust`, or by `trust`.
"""

import copy
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mvrec.errors import DecodeError, PartError, UserError, nearest
from mvrec.files import at_home, sha256
from mvrec.machine import machine_fault

CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PLAIN_WORD = re.compile(r"[\w -]*")  # which names no function, file or mapping
TRUST = "--trust"
DEBUG = "--debug"
WHERE = f"; {DEBUG} shows where"
DEBUG_VARIABLE = "MVREC_DEBUG"  # which loader processes inherit
# Parts of jsonargparse's messages that say nothing about the value itself.
ATTEMPTS = re.compile(r"Expected an? |Not a valid subclass|Not of type|Does not validate against any")

_named: set[str] = set()
_folders: list[str] = []  # of the user's code, in the order of the search


class Place(NamedTuple):
    """A setting that holds a class.

    Attributes:
        noun: Its noun in messages.
        package: The package whose classes need no trust; "" for none.
        base: Class path of their base, if others of the package may not be named.
        home: Begin of the modules that define them.
        is_callable: Whether functions stand here too, so that any text of the form of a class path names one.
    """

    noun: str
    package: str
    base: str = ""
    home: str = ""
    is_callable: bool = False


class FileClass(NamedTuple):
    """A class that a file names: the setting and the class path, or the value in its place."""

    place: Place
    path: Any


PLACES = {
    "backbone": Place("network", "mvrec.models"),
    "optimizer": Place("optimiser", "torch.optim", "torch.optim.Optimizer", "torch.optim."),
    "lr_scheduler": Place(
        "schedule", "torch.optim.lr_scheduler", "torch.optim.lr_scheduler.LRScheduler", is_callable=True
    ),
    "loss": Place("loss", "torch.nn", "torch.nn.Module", "torch.nn.modules.loss", is_callable=True),
    "metrics": Place("metric", "torchmetrics", "torchmetrics.Metric", "torchmetrics.classification.", is_callable=True),
    **dict.fromkeys(("before_crop", "after_crop", "on_device"), Place("augmentation", "", is_callable=True)),
    "decoder": Place("decoder", "", is_callable=True),
    "data": Place("data module", "mvrec.data"),
    "_task": Place("task", "mvrec.tasks"),
}
ELSEWHERE = Place("class", "")
ONLY_IN_TRAINING = ("loss", "lr_scheduler", "before_crop", "after_crop", "on_device")
# Modules whose classes earlier versions named in configurations and checkpoints, and their present modules.
MOVED = {
    **{
        f"mvrec.data.{module}": f"mvrec.data.{folder}.{module}"
        for folder, modules in {
            "sets": "charades folder hmdb51 image_data imagenet kinetics recognition_data something_something ucf101 "
            "video_data",
            "generated": "digit_images moving_digits",
            "views": "protocol rand_augment sampling transforms",
        }.items()
        for module in modules.split()
    },
    **{
        f"mvrec.training.{module}": f"mvrec.{folder}.{module}"
        for folder, modules in {
            "cluster": "preflight watchdog",
            "runs": "checkpoint_files final_checkpoint position preemption progress resume run_checkpoints "
            "run_directory",
            "tasks.classification": "mixing",
        }.items()
        for module in modules.split()
    },
    "mvrec.models.baseline": "mvrec.models.baselines.wrapper",
    "mvrec.models.baselines": "mvrec.models.baselines.names",
    "mvrec.models.feature_pyramid": "mvrec.models.heads.feature_pyramid",
    "mvrec.models.mvit": "mvrec.models.mvit.mvit",
    "mvrec.models.mvit_variants": "mvrec.models.mvit.variants",
    "mvrec.models.pooling_attention": "mvrec.models.mvit.pooling_attention",
    "mvrec.tasks.classification": "mvrec.tasks.classification.task",
}


def is_class_path(value: Any) -> bool:
    """Return whether a value has the form `package.module.Class`, not `./folder` or `.5`."""
    return isinstance(value, str) and CLASS_PATH.fullmatch(value) is not None


def current(class_path: str) -> str:
    """Return this version's class path of a class."""
    module, _, name = class_path.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else class_path


def renewed(settings: Any) -> Any:
    """Return a copy of a file's settings with the class paths of this version."""
    if isinstance(settings, dict):
        return {name: renewed(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return type(settings)(renewed(value) for value in settings)
    return current(settings) if isinstance(settings, str) else copy.deepcopy(settings)


def trust(*modules: str) -> None:
    """Allow files to name classes of these modules and their submodules, for the rest of the process."""
    _named.update(modules)


def search_folder(folder: Path) -> None:
    """Import modules from a folder that the user has named, after all that is installed."""
    name = str(folder.resolve())
    if name not in _folders:
        _folders.append(name)
    if name not in sys.path:
        sys.path.append(name)  # last, so that a torch.py next to a configuration does not replace torch


def take_trusted(arguments: Sequence[str]) -> list[str]:
    """Trust the modules that `--trust MODULE` names, and return the other arguments.

    A module may also be given by its file or folder, which need not be on Python's path.

    Raises:
        UserError: No module's name or file follows the flag.
    """
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag != TRUST:
            left.append(argument)
            continue
        module = value if equals else next(rest, "")
        if module.endswith(".py") or os.sep in module:
            module = _module_at(at_home(module))
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(f"{TRUST} needs a module, such as my_models or folder/my_models.py, got {module!r}")
        trust(module)
    return left


def take_debug(arguments: Sequence[str]) -> list[str]:
    """Print tracebacks in this process and its children if `--debug` is given; return the other arguments."""
    os.environ.pop(DEBUG_VARIABLE, None)
    if DEBUG in arguments:
        os.environ[DEBUG_VARIABLE] = "1"
    return [argument for argument in arguments if argument != DEBUG]


def debugging() -> bool:
    """Return whether to print tracebacks of faults that are one line otherwise."""
    return DEBUG_VARIABLE in os.environ


@contextmanager
def calling(key: str, part: Any, note: str = "") -> Iterator[None]:
    """Turn an exception of a user's part into one line with its key and name; `--debug` prints the traceback.

    Args:
        key: The key of the part, such as "model.loss".
        part: The part.
        note: Facts about the call that may explain the exception.

    Raises:
        PartError: The part raised an exception that is no fault of the machine, of a file, or one line already.
    """
    try:
        yield
    except (DecodeError, MemoryError, UserError):
        raise
    except Exception as error:
        if machine_fault(error) is not None or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
            raise
        if debugging():
            traceback.print_exc()
        text = " ".join(str(error).split())
        problem = f"{type(error).__name__}{f': {text}' if text else ''}{f' ({note})' if note else ''}"
        raise PartError(f"{key}: {path_of(part)} raised {problem}{WHERE}") from error


def path_of(part: Any) -> str:
    """Return the class path of a function, class, or object's class."""
    target = part if hasattr(part, "__qualname__") else type(part)
    return f"{target.__module__}.{target.__qualname__}"


def _module_at(path: Path) -> str:
    """Return the name of a module or package at a path, and add its folder to the search."""
    if not (path.is_file() if path.suffix == ".py" else path.is_dir()):
        raise UserError(f"{TRUST}: there is no module {str(path)!r}")
    search_folder(path.parent)
    return path.stem


def _is_below(class_path: str, modules: Iterable[str]) -> bool:
    module = class_path.rpartition(".")[0]
    return any(module == name or module.startswith(f"{name}.") for name in modules)


def imported(class_path: str) -> Any:
    """Import the class, function or module that a class path names.

    Raises:
        UserError: Its module cannot be imported, or has no such name.
    """
    module, _, name = current(class_path).rpartition(".")
    try:
        home = importlib.import_module(module)
    except Exception as error:  # the import runs foreign code, which may raise any error
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if _lacks(error, module):
            problem = f"no module {error.name} {_searched()}"  # type: ignore[attr-defined]
            raise UserError(f"{class_path} cannot be imported: {problem}: {_give_file(module)}") from error
        raise UserError(f"{class_path} cannot be imported ({problem})") from error
    if not hasattr(home, name):
        raise UserError(f"{module} has no {name!r}{nearest(name, dir(home))}")
    return getattr(home, name)


def import_problem(class_path: str) -> str:
    """Return why a class path cannot be imported; "" if it can."""
    try:
        imported(class_path)
    except UserError as error:
        return str(error)
    return ""


def check_file_classes(tree: Mapping[str, Any], *, source: str, origins: Mapping[str, Any] | None = None) -> None:
    """Check the classes that a file names before any of them is imported, then check that they can be imported.

    Args:
        tree: The file's settings, with `backbone`, `optimizer` or `data`.
        source: The file, for messages.
        origins: The record of `own_files`, for messages.

    Raises:
        UserError: A class is missing, or in a module that a file may not have imported.
    """
    classes = list(_file_classes(tree, ELSEWHERE))
    for place, path in classes:
        if not is_class_path(path):
            raise UserError(f"{source}: its {place.noun} is {path!r}: give a class such as package.module.Class")
        if not _is_below(path, [*filter(None, [place.package]), *_named]):
            origin = (origins or {}).get(path, {}).get("file")
            note = f" (the run had it from {origin})" if origin else ""
            raise UserError(f"{source}: its {place.noun} is {path}, {_why_not(place, path)}{note}")
    for place, path in classes:
        try:
            target = imported(path)
        except UserError as error:
            raise UserError(f"{source}: its {place.noun} cannot be used: {error}") from error
        if place.base and not _is_below(path, _named) and not _is_kind(target, place):
            article = "an" if place.noun[0] in "aeiou" else "a"
            raise UserError(f"{source}: its {place.noun} is {path}, which is not {article} {place.noun}")


def own_files(tree: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return file and SHA-256 of the modules of one's own that settings name, by class path.

    Modules that are installed, and those without a file, are left out.
    """
    installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    record = {}
    for _, path in _file_classes(tree, ELSEWHERE):
        module = sys.modules.get(path.rpartition(".")[0]) if is_class_path(path) else None
        file = getattr(module, "__file__", None)
        if file and not path.startswith("mvrec.") and not file.startswith(installed):
            record[path] = {"file": file, "sha256": sha256(Path(file))}
    return record


def without_training(settings: Any) -> Any:
    """Return settings without the parts that only training uses, which an evaluation need not have."""
    if isinstance(settings, dict):
        return {name: None if name in ONLY_IN_TRAINING else without_training(value) for name, value in settings.items()}
    return settings


def _file_classes(node: Any, place: Place) -> Iterator[FileClass]:
    if isinstance(node, list | tuple):
        for item in node:
            yield from _file_classes(item, place)
    if place.is_callable and isinstance(node, str) and not PLAIN_WORD.fullmatch(node):
        yield FileClass(place, node)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        key = str(name).rpartition(".")[2]  # jsonargparse reads dots in a key as levels
        below = PLACES.get(key, place)
        # jsonargparse would read a text here as a class path, settings, or a file with settings.
        is_text = key in PLACES and not below.is_callable and not isinstance(value, dict | None)
        if key == "class_path" or is_text:
            yield FileClass(below, value)
        else:
            yield from _file_classes(value, below)


def _is_kind(target: Any, place: Place) -> bool:
    """Return whether an import is a class that a place may hold without trust."""
    base = imported(place.base)  # slow to import, and not needed for every file
    return isinstance(target, type) and issubclass(target, base) and f"{target.__module__}.".startswith(place.home)


def _why_not(place: Place, path: str) -> str:
    module = path.rpartition(".")[0]
    package = module.partition(".")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:  # find_spec imports nothing
        return f"and there is no module {package} {_searched()}: {_give_file(module)}"
    exception = f", only one of {place.package}" if place.package else ""
    return f"and a file may not name code of others, which would run{exception}: add {TRUST} {module} if you trust it"


def _searched() -> str:
    """Return the folders that were searched for modules, as text."""
    return f"in {', '.join(_folders)} or the installed packages" if _folders else "among the installed packages"


def _give_file(module: str) -> str:
    """Return the advice how to name a module's file."""
    package, _, below = module.partition(".")
    return f"put it next to the --config, or add {TRUST} FOLDER/{package}{'' if below else '.py'}"


def _lacks(error: Exception, module: str) -> bool:
    """Return whether the module itself is missing, not one of its imports."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def reason(error: BaseException) -> str:
    """Return what a constructor refused, without the pages that jsonargparse wraps around it."""
    problem = re.search(r"Problem with given class_path '([\w.]+)':\n((?: {6,}.*\n)+)", f"{error}\n")
    if problem is not None:
        return f"{problem.group(1)}: {' '.join(problem.group(2).split())}"
    while error.__context__ is not None and not isinstance(error, UserError):  # a UserError is complete
        error = error.__context__
    return attempts(str(error)) or str(error)


def attempts(message: str) -> str:
    """Return the first of jsonargparse's attempts that says something about the value; "" if none does."""
    tried = re.findall(r"^ {2}- (.*(?:\n {4,}(?!- ).*)*)", message, flags=re.MULTILINE)
    return next((" ".join(text.split()) for text in tried if not ATTEMPTS.match(text)), "")
