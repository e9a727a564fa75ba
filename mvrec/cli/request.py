"""A command line of `fit`, `validate`, `test` or `predict`, read as far as that takes no parser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mvrec.cli.backbone_names import check_backbones
from mvrec.cli.config_check import CONFIG_FLAGS, Entry, entries, expand_configs, expand_flags, flags, trust_named
from mvrec.cli.help.hints import stray_hint
from mvrec.cli.run_defaults import (
    expand_evaluation,
    forget_own_paths,
    inherited,
    last_value,
    named_checkpoint,
    resumed,
)
from mvrec.cli.task_choice import names_task, task_class, without_task
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.runs.run_directory import is_run
from mvrec.tasks.base import Task
from mvrec.tasks.classification.task import Classification


class Request(NamedTuple):
    """A command line, read as far as that takes no parser.

    Attributes:
        command: "fit" and so on.
        arguments: The rest, with names and protocols written out, and without the task.
        given: What configs and flags set.
        from_files: What a checkpoint or weights say, as defaults of the parser.
        task: What is trained or scored.
    """

    command: str
    arguments: Sequence[str]
    given: Sequence[Entry]
    from_files: dict[str, Any]
    task: type[Task]


def read_request(args: Sequence[str]) -> Request:
    """Read configs, flags, and the files that they name.

    Raises:
        UserError: Bad input.
    """
    command, *arguments = args
    _check_strays(command, arguments)
    arguments = list(expand_flags(list(expand_configs(arguments))))
    arguments += forget_own_paths(entries(arguments)) if command == "fit" else []
    if command != "fit":
        arguments = named_checkpoint(arguments)
    given = entries(arguments)
    if command in ("fit", "validate") and (named := last_value(given, "protocol")) is not None:
        raise UserError(f"{named.where}: a protocol is for test and predict, {command} has data.val_views")
    check_backbones(given)
    trust_named(given, configs=[at_home(value) for name, value in flags(arguments) if name in CONFIG_FLAGS])
    checkpoint = last_value(given, "ckpt_path")
    found = resumed(given, _run_dir_of(given, arguments)) if command == "fit" else None
    if found is not None:  # wins over a checkpoint that the first start began with
        arguments += ["--ckpt_path", str(found)]
        checkpoint = Entry("ckpt_path", str(found), "--resume auto")
    from_files = inherited(given, checkpoint=checkpoint)
    named_task = next((entry for entry in reversed(given) if names_task(entry)), None)
    task = _task(named_task, from_files.pop("model", None), checkpoint)
    if command != "fit":
        arguments = expand_evaluation(arguments, given, from_files)
        given = entries(arguments)
    given = [entry for entry in given if not names_task(entry)]
    return Request(command, list(without_task(arguments)), given, from_files, task)


def _check_strays(command: str, arguments: Sequence[str]) -> None:
    """Refuse arguments that are neither a flag nor its value; commands other than `fit` take one, which comes first."""
    rest = iter(arguments)
    if command != "fit" and arguments and not arguments[0].startswith("-"):
        next(rest)
    previous = ""
    for argument in rest:
        is_value = previous.startswith("-") and "=" not in previous
        if not argument.startswith("--") and argument not in ("-c", "-h") and not is_value:
            raise UserError(stray_hint(argument, accepts_checkpoint=command != "fit"))
        previous = "" if is_value and not argument.startswith("--") else argument


def _task(named: Entry | None, saved: str | None, checkpoint: Entry | None) -> type[Task]:
    """The task that is named, or that of a checkpoint, which must be the same."""
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


def _run_dir_of(given: Sequence[Entry], arguments: Sequence[str]) -> Path:
    """Where the run goes, known before anything is parsed."""
    if (run_dir := last_value(given, "run_dir")) is not None:
        return at_home(run_dir.value)
    checkpoint = last_value(given, "ckpt_path")
    configs = [value for name, value in flags(arguments) if name in CONFIG_FLAGS]
    return default_run_dir(Namespace(ckpt_path=checkpoint.value if checkpoint else None, config=configs))


def missing_data(given: Sequence[Entry]) -> str:
    """Say that no data module is named, and how to name one."""
    text = "which data? --data VideoFolder (or another of mvrec.data)"
    weights, backbone = last_value(given, "model.weights"), last_value(given, "model.backbone")
    if weights is None:
        return f"{text}, or --model.weights FILE, whose network says it"
    if backbone is None:
        return f"{text}: {weights.value} does not say it"
    return f"{text}: {weights.value} says it only where model.backbone is left out ({backbone.where})"


def default_run_dir(config: Namespace) -> Path:
    """The run that a checkpoint or a resolved configuration belongs to, else `runs/<name of the last config file>`."""
    checkpoint = config.get("ckpt_path")
    if checkpoint and Path(checkpoint).parent.name == "checkpoints":
        return Path(checkpoint).parent.parent
    configs = config.get("config") or []
    if configs and Path(str(configs[0])).name == "config.yaml" and is_run(Path(str(configs[0])).parent):
        return Path(str(configs[0])).parent
    return Path("runs") / (Path(str(configs[0])).stem if configs else "unnamed")
