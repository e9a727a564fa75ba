"""Settings that a run inherits from files: from a tested or resumed checkpoint, or from initial weights."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvrec.class_paths import check_file_classes, reason, without_training
from mvrec.cli.config_check import CONFIG_FLAGS, Entry, class_path_of, last_value, resolve
from mvrec.data.views.presets import preset
from mvrec.errors import UserError, nearest
from mvrec.files import at_home
from mvrec.models.checkpoints.files import read_weights
from mvrec.runs.checkpoint_files import newest_checkpoint
from mvrec.runs.monitors import mode_of
from mvrec.runs.weights_origin import build_from, checkpoint_of, starting_point

CHECKPOINT_KEYWORDS = ("best", "last", "hpc")

log = logging.getLogger("mvrec")


def forget_own_paths(settings: Sequence[Entry]) -> list[str]:
    """Return flags that undo the paths of another run in its configuration.

    Earlier versions wrote them into `config.yaml`: with another --run_dir they would lead to the first run.

    Args:
        settings: Entries of configs and flags.
    """
    run_dir = last_value(settings, "run_dir")
    undone = []
    for key in ("checkpoint.dirpath", "trainer.default_root_dir", "ckpt_path"):
        entry = last_value(settings, key)
        if entry is None or run_dir is None:
            continue
        config = entry.where.rpartition(":")[0]
        runs = [
            item.value for item in settings if item.key == "run_dir" and config and item.where.startswith(f"{config}:")
        ]
        if runs and runs[-1] and runs[-1] != run_dir.value and Path(entry.value).is_relative_to(runs[-1]):
            undone.append(f"--{key}=null")
    return undone


def chosen_mode(settings: Sequence[Entry], monitor: str | None) -> str | None:
    """Return whether a lower or higher monitored score is better: by its name, unless the user sets the mode with it.

    Raises:
        UserError: The mode contradicts the name, and comes from another place than the name.
    """
    entry = last_value(settings, "checkpoint.mode")
    if entry is None or monitor is None or entry.value not in ("min", "max"):
        return None if entry is None else entry.value
    natural, named = mode_of(monitor), last_value(settings, "checkpoint.monitor")
    if entry.value == natural:
        return natural
    worst = "highest" if natural == "min" else "lowest"
    if named is None or named.where.partition(":")[0].startswith("-") != entry.where.startswith("-"):
        raise UserError(
            f"{entry.where}: checkpoint.mode {entry.value} would keep the {worst} {monitor}: leave the mode out, it "
            f"follows from the name"
        )
    log.warning("best.ckpt will be the one with the %s %s, as checkpoint.mode %s says", worst, monitor, entry.value)
    return entry.value


def resumed(settings: Sequence[Entry], run_dir: Path) -> Path | None:
    """Return the checkpoint from which `--resume auto` resumes, `None` for a fresh start.

    Args:
        settings: Entries of configs and flags.
        run_dir: The run's directory.
    """
    entry = last_value(settings, "resume")
    if entry is None or entry.value != "auto":
        return None
    dirpath = last_value(settings, "checkpoint.dirpath")
    folder = run_dir / "checkpoints" if dirpath is None else Path(dirpath.value)
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        log.info("resume: nothing to go on from in %s, a fresh start", folder)
        return None
    log.info("resume: going on from %s at step %d", checkpoint.path, checkpoint.step)
    return checkpoint.path


def named_checkpoint(arguments: Sequence[str]) -> list[str]:
    """Convert `RUN_OR_CKPT --flags` to flags: a run's checkpoint, a run directory's best one, or a file of weights.

    Raises:
        UserError: The file is missing, or named twice.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    path, rest = checkpoint_of(arguments[0]), list(arguments[1:])
    flag = "--ckpt_path" if read_weights(path).model_settings else "--model.weights"
    if any(argument.partition("=")[0] == flag for argument in rest):
        raise UserError(f"{arguments[0]} and {flag} both name a checkpoint: one is enough")
    return [flag, str(path), *rest]


def checkpoint_file(arguments: Sequence[str], settings: Sequence[Entry], command: str) -> list[str]:
    """Replace a run directory as `--ckpt_path` by its checkpoint: for `fit` the newest, else the best.

    Raises:
        UserError: It has no undamaged checkpoint.
    """
    entry = last_value(settings, "ckpt_path")
    if entry is None or entry.value in CHECKPOINT_KEYWORDS or not at_home(entry.value).is_dir():
        return list(arguments)
    run_dir = at_home(entry.value)
    if command != "fit":
        return [*arguments, "--ckpt_path", str(checkpoint_of(run_dir, where=entry.where))]
    newest = newest_checkpoint(run_dir / "checkpoints")
    if newest is None:
        raise UserError(f"{entry.where}: {run_dir} has no checkpoint from which training can resume")
    return [*arguments, "--ckpt_path", str(newest.path)]


def expand_evaluation(arguments: Sequence[str], settings: Sequence[Entry], defaults: dict[str, Any]) -> list[str]:
    """Replace `--protocol NAME` and `--data.classes checkpoint` by their values.

    Args:
        arguments: The command line.
        settings: Entries of configs and flags.
        defaults: Settings of files, from `inherited`.

    Raises:
        UserError: No such protocol, or one for another kind of data; no checkpoint that names its classes.
    """
    arguments = list(arguments)
    data = defaults.get("data") or {}
    if (entry := last_value(settings, "data.classes")) is not None and entry.value == "checkpoint":
        arguments.append(f"--data.classes={json.dumps(_class_names_of(settings, entry.where), ensure_ascii=False)}")
    if (entry := last_value(settings, "protocol")) is None:
        return arguments
    protocol = preset(entry.value, where=entry.where)
    kind = _kind_of_data(settings, data)
    if kind is not None and kind != protocol.kind.noun:
        raise UserError(f"{entry.where}: {entry.value} is a protocol for {protocol.kind.noun}s, the data are {kind}s")
    named = last_value(settings, "data.size")
    text = str(named.value) if named is not None else ""  # the parser refuses what is no number
    size = int(text) if text.isdecimal() else data.get("init_args", {}).get("size", 224)
    return _with_flags(arguments, list(_as_flags("--data", protocol.settings(size))))


def _with_flags(arguments: list[str], values: list[str]) -> list[str]:
    """Insert flags after `--protocol`, so that later flags win, or after the configs if one of them has it."""
    names = [argument.partition("=")[0] for argument in arguments]
    anchors = ("--protocol",) if "--protocol" in names else CONFIG_FLAGS
    place = max(number for number, name in enumerate(names) if name in anchors)
    place += 1 if "=" in arguments[place] else 2
    return [*arguments[:place], *values, *arguments[place:]]


def _as_flags(prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _as_flags(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}={json.dumps(value) if isinstance(value, bool) else value}"


def _kind_of_data(settings: Sequence[Entry], data: dict[str, Any]) -> str | None:
    entry = last_value(settings, "data")
    path = data.get("class_path") if entry is None else class_path_of(entry)
    module = resolve(path)
    return getattr(getattr(module, "kind", None), "noun", None)


def _class_names_of(settings: Sequence[Entry], where: str) -> list[str]:
    source = last_value(settings, "ckpt_path") or last_value(settings, "model.weights")
    names = read_weights(source.value).details.get("class_names") if source is not None else None
    if not names:
        raise UserError(f"{where}=checkpoint: there is no checkpoint that names its classes")
    return list(names)


def inherited(settings: Sequence[Entry], *, checkpoint: Entry | None, training: bool = True) -> dict[str, Any]:
    """Return the settings of model and data in files as parser defaults, which flags and configs override.

    Args:
        settings: Entries of configs and flags.
        checkpoint: The path of a checkpoint to test or resume; it knows all, so weights to start from are not read.
        training: Whether the command trains; others need no loss, schedule or augmentation.

    Raises:
        UserError: A file is missing or of another kind.
    """
    if checkpoint is not None and checkpoint.value not in CHECKPOINT_KEYWORDS:
        return checkpoint_defaults(Path(checkpoint.value), where=checkpoint.where, training=training)
    weights = last_value(settings, "model.weights")
    if weights is None or last_value(settings, "model.backbone") is not None:
        return {}
    start = starting_point(weights.value, where=weights.where)
    log.info("start from %s", start.summary)
    return {"model.backbone": start.backbone, "data": _for_named_data(start.data, settings)}


def _for_named_data(data: dict[str, Any], settings: Sequence[Entry]) -> dict[str, Any]:
    """Return the data settings of weights for the data module that the user names: those of its arguments.

    The defaults of a module of another kind would stay otherwise, such as an augmentation that boxes do not follow.
    """
    entry = last_value(settings, "data")
    path = None if entry is None else class_path_of(entry)
    names = getattr(resolve(path), "__signature__", None)
    if path is None or names is None:
        return data
    shared = {name: value for name, value in data["init_args"].items() if name in names.parameters}
    return {"class_path": path, "init_args": shared}


def of_same_data(settings: dict[str, Any], planned: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of weights for a plan whose data are of another class: of its arguments the normalisation."""
    data, other = settings.get("data") or {}, (planned.get("data") or {}).get("class_path")
    if other is None or data.get("class_path") in (None, other):
        return settings
    arguments = data.get("init_args") or {}
    shared = {name: arguments[name] for name in ("normalisation",) if name in arguments}
    return {**settings, "data": {"class_path": other, "init_args": shared}}


def checkpoint_defaults(path: Path, *, where: str, training: bool = True) -> dict[str, Any]:
    """Return the settings of a checkpoint's model and data as parser defaults; see `inherited`.

    Raises:
        UserError: The file is missing, or not a checkpoint of mvrec.
    """
    if not path.is_file():
        others = [str(other) for other in path.parent.glob("*.ckpt")] if path.parent.is_dir() else []
        raise UserError(f"{where}: checkpoint {str(path)!r} does not exist{nearest(str(path), others)}")
    try:
        stored = read_weights(path)
    except UserError as error:
        raise UserError(f"{where}: cannot read {error}") from error
    if not stored.is_checkpoint:
        raise UserError(f"{where}: {path} is not a checkpoint that `mvrec fit` has written")
    saved, data = stored.model_settings, stored.data_settings
    if not training:
        saved, data = without_training(saved), without_training(data)
    task = {"_task": saved["_class_path"]} if "_class_path" in saved else {}
    check_file_classes({**saved, **task, "data": data}, source=f"{where}: {path}", origins=stored.details.get("parts"))
    defaults = {f"model.{key}": value for key, value in saved.items() if not key.startswith("_")}
    build_from(str(path), defaults.get("model.backbone"))
    defaults["model.weights"] = None  # a checkpoint has its own
    if saved.get("_class_path") is not None:
        defaults["model"] = saved["_class_path"]
    seed = stored.details.get("config", {}).get("seed_everything")
    if isinstance(seed, int):
        defaults["seed_everything"] = seed
    return {**defaults, "data": data} if data else defaults


def recorded_trainer(checkpoint: Entry) -> dict[str, Any]:
    """Return the trainer's settings of a checkpoint's run, as parser defaults."""
    if checkpoint.value in CHECKPOINT_KEYWORDS:
        return {}
    config = read_weights(checkpoint.value).details.get("config") or {}
    return {f"trainer.{key}": value for key, value in (config.get("trainer") or {}).items() if value is not None}


def deep_merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one, in which the second wins."""
    merged = dict(first)
    for key, value in second.items():
        below = merged.get(key)
        merged[key] = deep_merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def set_file_defaults(parser: Any, values: dict[str, Any]) -> None:
    """Set a file's settings, of any version or author, as defaults of jsonargparse's parser.

    Raises:
        UserError: The parser refuses them.
    """
    try:
        parser.set_defaults(values)
        parser.get_defaults()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"settings of the checkpoint do not fit this version of mvrec: {reason(error)}") from error
