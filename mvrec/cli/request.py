"""A command line of `fit`, `validate`, `test` or `predict`, read without a parser."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import Namespace

from mvrec.cli.backbone_names import check_baselines
from mvrec.cli.config_check import (
    CONFIG_FLAGS,
    Entry,
    entries,
    expand_configs,
    expand_flags,
    flags,
    last_value,
    trust_named,
)
from mvrec.cli.planning import is_planned, of_folders_task, plan_of, planned_run_dir, task_of_folder
from mvrec.cli.run_defaults import (
    checkpoint_file,
    deep_merged,
    expand_evaluation,
    forget_own_paths,
    inherited,
    named_checkpoint,
    of_same_data,
    recorded_trainer,
    resumed,
)
from mvrec.cli.task_choice import named_task, names_task, task_class, without_task
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.runs.run_directory import is_run
from mvrec.tasks.base import Task
from mvrec.tasks.classification.task import Classification

if TYPE_CHECKING:
    from mvrec.plan.plan import Plan


class Request(NamedTuple):
    """A command line, read without a parser.

    Attributes:
        command: "fit" and so on.
        arguments: The rest, with names and protocols written out, and without the task.
        settings: Entries of configs and flags.
        from_files: Settings of a checkpoint, weights or a plan, as defaults of the parser.
        task: The task to train or score.
        plan: The plan of a run that only its folder describes.
    """

    command: str
    arguments: Sequence[str]
    settings: Sequence[Entry]
    from_files: dict[str, Any]
    task: type[Task]
    plan: "Plan | None" = None


def read_request(args: Sequence[str]) -> Request:
    """Read configs, flags, and the files that they name.

    Raises:
        UserError: Bad input.
    """
    command, *arguments = args
    arguments = list(expand_flags(list(expand_configs(arguments))))
    arguments += forget_own_paths(entries(arguments)) if command == "fit" else []
    if command != "fit":
        arguments = named_checkpoint(arguments)
    arguments = checkpoint_file(arguments, entries(arguments), command)
    settings = entries(arguments)
    planned = is_planned(command, settings)
    if planned and (run_dir := planned_run_dir(settings)) is not None:
        arguments.append(f"--run_dir={run_dir}")
    check_baselines(settings)
    trust_named(settings, configs=[at_home(value) for name, value in flags(arguments) if name in CONFIG_FLAGS])
    checkpoint = last_value(settings, "ckpt_path")
    checkpoint_path = resumed(settings, _run_dir_of(entries(arguments), arguments)) if command == "fit" else None
    if checkpoint_path is not None:  # wins over a checkpoint that the first start began with
        arguments += ["--ckpt_path", str(checkpoint_path)]
        checkpoint = Entry("ckpt_path", str(checkpoint_path), "--resume auto")
    from_files = inherited(settings, checkpoint=checkpoint, training=command == "fit")
    named = named_task(settings)
    if named is None and planned and checkpoint is None:
        named = task_of_folder(settings)
        settings = of_folders_task(settings, named)
    task = _task(named, from_files.pop("model", None), checkpoint)
    plan = plan_of(settings, task=task) if planned and checkpoint is None else None
    if plan is not None:
        from_files = deep_merged(of_same_data(from_files, plan.defaults()), plan.defaults())
    elif planned and checkpoint is not None:  # goes on with the plan of its start, whatever the folder holds by now
        from_files |= recorded_trainer(checkpoint)
    if command != "fit":
        arguments = expand_evaluation(arguments, settings, from_files)
        settings = entries(arguments)
    settings = [entry for entry in settings if not names_task(entry)]
    return Request(command, list(without_task(arguments)), settings, from_files, task, plan)


def _task(named: Entry | None, saved: str | None, checkpoint: Entry | None) -> type[Task]:
    """Return the named task, or that of a checkpoint; both must agree."""
    task = Classification if named is None else task_class(named.value, where=named.where)
    if saved is None or checkpoint is None:
        return task
    of_checkpoint = task_class(saved, where=checkpoint.where)
    if named is not None and of_checkpoint.name != task.name:
        raise UserError(
            f"{named.where}: the task is {task.name}, and the checkpoint {checkpoint.value} is of the task "
            f"{of_checkpoint.name}"
        )
    return of_checkpoint


def _run_dir_of(settings: Sequence[Entry], arguments: Sequence[str]) -> Path:
    """Return the run directory, before anything is parsed."""
    if (run_dir := last_value(settings, "run_dir")) is not None:
        return at_home(run_dir.value)
    checkpoint = last_value(settings, "ckpt_path")
    configs = [value for name, value in flags(arguments) if name in CONFIG_FLAGS]
    return default_run_dir(Namespace(ckpt_path=checkpoint.value if checkpoint else None, config=configs))


def default_run_dir(config: Namespace) -> Path:
    """Return the run of a checkpoint or resolved configuration, else `runs/<name of the last config file>`."""
    checkpoint = config.get("ckpt_path")
    if checkpoint and Path(checkpoint).parent.name == "checkpoints":
        return Path(checkpoint).parent.parent
    configs = config.get("config") or []
    if configs and Path(str(configs[0])).name == "config.yaml" and is_run(Path(str(configs[0])).parent):
        return Path(str(configs[0])).parent
    return Path("runs") / (Path(str(configs[0])).stem if configs else "unnamed")
