"""The plan of a command line that names little more than a folder: its data module early, the rest later."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.cli.config_check import Entry, as_value, last_value
from mvrec.cli.parse_errors import said_of_key
from mvrec.data.listing.boxes.finding import has_boxes, release_of
from mvrec.data.listing.objects.finding import has_objects
from mvrec.data.listing.root import check_root, has_masks
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.plan.kinds import ANNOTATED, BOXED, DATA, MASKED, kind_of, lists_values

if TYPE_CHECKING:
    from mvrec.plan.learning import Choice
    from mvrec.plan.plan import Plan
    from mvrec.tasks.base import Task


SEGMENTATION = "Segmentation"  # the task of folders with masks
DETECTION = "ActionDetection"  # the task of folders with boxes
OBJECTS = "Detection"  # the task of images with objects
OF_CLASSES = ("label_smoothing", "mixing")  # arguments of the recipe `finetune` that only classification takes


def is_planned(command: str, settings: Sequence[Entry]) -> bool:
    """Return whether a run follows from its folder: something names a root, and nothing a data module.

    With a recipe, weights decide the network and the data module as they always have, but for objects in images, whose
    task and detector no recipe for all tasks can name.

    Args:
        command: "fit" and so on.
        settings: Entries of configs and flags.
    """
    root = last_value(settings, "data.root")
    if command != "fit" or last_value(settings, "data") is not None or root is None:
        return False
    weights, backbone = last_value(settings, "model.weights"), last_value(settings, "model.backbone")
    if weights is None or backbone is not None or not has_recipe(settings):
        return True
    return _has_objects(_task_name(settings), at_home(root.value))


def data_of_folder(settings: Sequence[Entry]) -> Entry:
    """Return the data module that a folder's files need; needs no torch.

    Raises:
        UserError: There is no such folder, or it does not say it.
    """
    root = last_value(settings, "data.root")
    assert root is not None
    try:
        if not is_annotations(at_home(root.value)):
            check_root(at_home(root.value))
        name = _with_places(settings, at_home(root.value)) or DATA[kind_of(at_home(root.value))]
    except UserError as error:
        raise UserError(said_of_key(str(error), settings)) from None
    return Entry("data", f"mvrec.data.{name}", root.where, is_class=True)


def _with_places(settings: Sequence[Entry], root: Path) -> str | None:
    """Return the data module of a folder's boxes or masks; `None` if the user names a task that does not learn them."""
    task = _task_name(settings)
    if _has_objects(task, root):
        return ANNOTATED
    if task in (None, DETECTION) and (release := release_of(root)):
        recipe = " --config ava_mvit_b_16x4" if release == "AVA" else f" --data {release} --model {DETECTION}"
        raise UserError(f"data.root: {str(root)!r} is the release of {release}, which is not planned: add{recipe}")
    if task in (None, DETECTION) and _has_boxes(settings, root):
        return BOXED
    return MASKED if task in (None, SEGMENTATION) and has_masks(root, splits=("train",)) else None


def _task_name(settings: Sequence[Entry]) -> str | None:
    """Return the name of the task's class that the user names."""
    named = next((entry for entry in reversed(settings) if entry.key == "model" and isinstance(entry.value, str)), None)
    return None if named is None else named.value.rpartition(".")[2]


def of_folders_task(settings: Sequence[Entry], task: Entry | None) -> list[Entry]:
    """Return the settings without those of recipes that only classification takes, for another task of a folder."""
    if task is None:
        return list(settings)
    unused = {f"model.{name}" for name in OF_CLASSES}
    return [entry for entry in settings if entry.where.startswith("-") or entry.key not in unused]


def _has_objects(task: str | None, root: Path) -> bool:
    """Return whether a folder has annotations of objects in images; where masks are too, they need the task's name."""
    if task not in (None, OBJECTS) or (task is None and root.is_dir() and has_masks(root, splits=("train",))):
        return False
    return has_objects(root)


def is_annotations(root: Path) -> bool:
    """Return whether a root is a file of annotations, which names its images."""
    return root.is_file() and has_objects(root)


def _has_boxes(settings: Sequence[Entry], root: Path) -> bool:
    """Return whether a folder has lists of boxes, or a flag names one elsewhere."""
    return last_value(settings, "data.boxes") is not None or has_boxes(root)


def task_of_folder(settings: Sequence[Entry]) -> Entry | None:
    """Return the task of a planned run with boxes or masks, or whose list has numbers; `None` for classes.

    A task that the user names stays.

    Needs no torch.
    """
    root = last_value(settings, "data.root")
    if root is None or any(entry.key == "model" and isinstance(entry.value, str) for entry in settings):
        return None
    if _has_objects(None, at_home(root.value)):
        return Entry("model", f"mvrec.tasks.{OBJECTS}", root.where, is_class=True)
    if _has_boxes(settings, at_home(root.value)):
        return Entry("model", f"mvrec.tasks.{DETECTION}", root.where, is_class=True)
    if has_masks(at_home(root.value), splits=("train",)):
        return Entry("model", f"mvrec.tasks.{SEGMENTATION}", root.where, is_class=True)
    if last_value(settings, "data.values") is None and not lists_values(at_home(root.value)):
        return None
    return Entry("model", "mvrec.tasks.Regression", root.where, is_class=True)


def planned_run_dir(settings: Sequence[Entry]) -> Path | None:
    """Return the directory of a planned run, named after its folder; `None` where a recipe or the user names it."""
    root = last_value(settings, "data.root")
    if root is None or last_value(settings, "run_dir") is not None or has_recipe(settings):
        return None
    return Path("runs") / (at_home(root.value).resolve().name or "unnamed")


def has_recipe(settings: Sequence[Entry]) -> bool:
    """Return whether a config says how to learn."""
    return any(entry.key.startswith("model.optimizer") and not entry.where.startswith("-") for entry in settings)


def plan_of(settings: Sequence[Entry], *, task: "type[Task]") -> "Plan":
    """Return the plan for the folder that a command line names.

    Args:
        settings: Entries of configs and flags.
        task: The task, which may not take all settings of classification.

    Raises:
        UserError: Nothing can be learned from its files.
    """
    from mvrec.plan.plan import make_plan
    from mvrec.runs.weights_origin import starting_point
    from mvrec.tasks.classification.task import Classification
    from mvrec.tasks.regression.task import Regression

    root, weights = last_value(settings, "data.root"), last_value(settings, "model.weights")
    assert root is not None
    start = None
    if weights is not None and last_value(settings, "model.backbone") is None:
        start = starting_point(weights.value, where=weights.where)
    try:
        plan = make_plan(
            at_home(root.value),
            overrides(settings),
            start=start,
            has_recipe=has_recipe(settings),
            has_classes=task is Classification,
            values=_columns(settings) if issubclass(task, Regression) else None,
            masks=task.__name__ == SEGMENTATION,
            boxes=_of_lists(settings) if task.__name__ == DETECTION else None,
            objects=_of_annotations(settings) if task.__name__ == OBJECTS else None,
        )
    except UserError as error:
        raise UserError(said_of_key(str(error), settings)) from None
    return replace(plan, choices=_of_task(plan.choices, task))


def _columns(settings: Sequence[Entry]) -> list[str]:
    """Return the columns that `data.values` names; none by default."""
    from mvrec.data.listing.row_targets import value_columns

    named = last_value(settings, "data.values")
    columns = None if named is None else as_value(named.value) if isinstance(named.value, str) else named.value
    return value_columns(columns) or []


def _of_lists(settings: Sequence[Entry]) -> dict[str, Any]:
    """Return the arguments of `VideoBoxes` about its lists that are set."""
    named = {
        name: last_value(settings, f"data.{name}") for name in ("boxes", "classes", "every", "attributes", "bad_boxes")
    }
    return {
        name: as_value(entry.value) if isinstance(entry.value, str) else entry.value
        for name, entry in named.items()
        if entry is not None
    }


def _of_annotations(settings: Sequence[Entry]) -> dict[str, Any]:
    """Return the arguments of `ObjectFolder` about its annotations that are set."""
    entry = last_value(settings, "data.bad_boxes")
    return {} if entry is None else {"bad_boxes": entry.value}


def overrides(settings: Sequence[Entry]) -> dict[str, Any]:
    """Return the last values of the keys that are set, without mappings."""
    return {entry.key: entry.value for entry in settings if last_value(settings, entry.key) is not None}


def plan_text(plan: "Plan", *, config: Any, settings: Sequence[Entry], task: Any, trainer: Any, run_dir: Path) -> str:
    """Return a plan in words, as the run is built in the end.

    Args:
        plan: The plan.
        config: The settings of the command, after parsing.
        settings: Entries of the user's configs and flags.
        task: The task with its network.
        trainer: The trainer.
        run_dir: The directory of the run.
    """
    from mvrec.data.views.geometry import height_and_width
    from mvrec.plan.text import Resolved, lines_of, told
    from mvrec.plan.timing import seconds_per_view

    def value(key: str) -> Any:
        node = config
        for name in key.split("."):
            node = _below(_below(node, "init_args") or node, name)
        return node

    network, seconds = task.backbone, None
    if trainer.is_global_zero and not plan.findings.num_objects:  # most of a detector's time is not the network's
        sides = height_and_width(value("data.size"))
        shape = (3, value("data.clip.num_frames"), *sides) if plan.findings.is_video else (3, *sides)
        seconds = seconds_per_view(network, shape, on_gpu=bool(plan.machine.gpu))
    resolved = Resolved(
        value,
        frozenset(overrides(settings)),
        type(network).__name__,
        sum(tensor.numel() for name, tensor in network.named_parameters() if not name.startswith("head.")),
        seconds,
        trainer.world_size,
        str(run_dir),
    )
    return told(lines_of(plan, resolved), str(value("data.root")))


def _below(node: Any, name: str) -> Any:
    """Return a part of a mapping, a namespace or a dataclass; `None` without it."""
    return node.get(name) if hasattr(node, "get") else getattr(node, name, None)


def _of_task(choices: "Sequence[Choice]", task: type) -> "tuple[Choice, ...]":
    """Return the settings that a task takes: another one than classification may have no label smoothing."""
    makers = [vars(kind)["__init__"] for kind in task.__mro__ if "__init__" in vars(kind)]
    names = {name for make in makers for name in getattr(make, "__annotations__", ())}
    parts = [(choice, choice.key.split(".")) for choice in choices]
    return tuple(choice for choice, path in parts if path[0] != "model" or path[1] in names)


def settings_of(settings: Sequence[Entry]) -> "list[Choice]":
    """Return what the user sets as choices, in the order of taking effect."""
    from mvrec.plan.learning import Choice

    set_values = [(entry.key, entry.value) for entry in settings if entry.value is not None]
    return [Choice(key, as_value(str(value)), "as you set") for key, value in set_values]
