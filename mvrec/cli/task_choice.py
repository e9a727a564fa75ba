"""The task of a command line: the class path of `model`, a checkpoint's, or else classification.

The parser is built for one task, whose arguments then stand directly below `model`, as if it had been the only one. So
`class_path` and `init_args` of `model` are read here, and put back where a configuration is written.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from mvrec import tasks
from mvrec.class_paths import imported, is_class_path
from mvrec.cli.config_check import Entry, class_path_of, reads_as_null
from mvrec.cli.planning import OF_CLASSES
from mvrec.errors import UserError, nearest
from mvrec.published import PUBLISHED
from mvrec.tasks.base import Task
from mvrec.tasks.classification.task import Classification

FLAGS = ("--model", "--model.class_path")
NESTED = "--model.init_args."


def names_task(entry: Entry) -> bool:
    """Return whether an entry names a task."""
    if entry.key != "model" or not isinstance(entry.value, str):
        return False
    is_mapping = entry.value.lstrip().startswith("{")
    return entry.is_class or class_path_of(entry) is not None or not (is_mapping or reads_as_null(entry.value))


def named_task(settings: Sequence[Entry]) -> Entry | None:
    """Return the entry that names the task; `None` without one."""
    return next((entry for entry in reversed(settings) if names_task(entry)), None)


def task_class(name: str, *, where: str) -> type[Task]:
    """Return the task of a class path, or of a bare name of mvrec's.

    Raises:
        UserError: The task does not exist.
    """
    if name.isidentifier():
        if name not in tasks.__all__:
            hint = (
                f"; a network is named by --model.backbone {name}"
                if name in PUBLISHED
                else nearest(name, tasks.__all__)
            )
            raise UserError(f"{where}: there is no task {name!r}{hint}")
        name = f"mvrec.tasks.{name}"
    if not is_class_path(name):
        raise UserError(f"{where}: a task such as Classification or package.module.Class is expected, got {name!r}")
    try:
        target = imported(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not (isinstance(target, type) and issubclass(target, Task)) or target is Task:
        raise UserError(f"{where}: {name} is not a task: give a subclass of mvrec.tasks.Task")
    return target


def path_of(task: type[Task]) -> str:
    """Return the class path of a task, the public one for mvrec's."""
    public = task.__name__ in tasks.__all__ and getattr(tasks, task.__name__) is task
    return f"mvrec.tasks.{task.__name__}" if public else f"{task.__module__}.{task.__qualname__}"


def without_task(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the flags without those of the task's name, with the task's arguments directly below `model`."""
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in FLAGS and not value.startswith("{"):
            if not equals:
                next(rest, None)
        elif argument.startswith(NESTED):
            yield f"--model.{argument.removeprefix(NESTED)}"
        else:
            yield argument


def flattened(config: Any, task: type[Task] = Classification) -> Any:
    """Return a loaded configuration with the task's arguments directly below `model`.

    Where it names no task, those of classification alone are left out for another one, which a folder has decided.
    """
    model = config.get("model") if isinstance(config, dict) else None
    if isinstance(model, dict) and "class_path" in model:
        return {**config, "model": model.get("init_args") or {}}
    if isinstance(model, dict) and task is not Classification:
        return {**config, "model": {name: value for name, value in model.items() if name not in OF_CLASSES}}
    return {name: value for name, value in config.items() if name != "model"} if isinstance(model, str) else config


def with_task(config: dict[str, Any], task: type[Task]) -> dict[str, Any]:
    """Return a configuration that names its task, unless it is classification."""
    if task is Classification or not {"model", "trainer"} <= config.keys():  # arguments of a class are written alike
        return config
    return {**config, "model": {"class_path": path_of(task), "init_args": config["model"]}}
