"""Settings that a run takes over from files: a checkpoint that is tested or resumed, weights that it starts from."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvrec.class_paths import check_file_classes, reason
from mvrec.cli.config_check import CONFIG_FLAGS, Entry, class_path_of, resolve
from mvrec.data.views.presets import preset
from mvrec.errors import UserError, nearest
from mvrec.models.checkpoints.files import read_weights
from mvrec.runs.checkpoint_files import newest_checkpoint
from mvrec.runs.monitors import mode_of
from mvrec.runs.weights_origin import build_from, checkpoint_of, starting_point

CHECKPOINT_KEYWORDS = ("best", "last", "hpc")

log = logging.getLogger("mvrec")


def last_value(given: Sequence[Entry], key: str) -> Entry | None:
    """The entry of a key that counts, `None` where it is not set or set to null."""
    # A mapping has no value of its own: what it holds are entries too.
    entry = next((entry for entry in reversed(given) if entry.key == key and entry.value is not None), None)
    return None if entry is None or entry.value in ("", "null", "~") else entry


def forget_own_paths(given: Sequence[Entry]) -> list[str]:
    """Flags that undo where the configuration of another run says that run's own places.

    Earlier versions wrote them into `config.yaml`: with another --run_dir they would lead to the run it came from.

    Args:
        given: What configs and flags set.
    """
    chosen = last_value(given, "run_dir")
    undone = []
    for key in ("checkpoint.dirpath", "trainer.default_root_dir", "ckpt_path"):
        entry = last_value(given, key)
        if entry is None or chosen is None:
            continue
        config = entry.where.rpartition(":")[0]
        runs = [one.value for one in given if one.key == "run_dir" and config and one.where.startswith(f"{config}:")]
        if runs and runs[-1] and runs[-1] != chosen.value and Path(entry.value).is_relative_to(runs[-1]):
            undone.append(f"--{key}=null")
    return undone


def chosen_mode(given: Sequence[Entry], monitor: str | None) -> str | None:
    """Whether less or more of the monitored score is better: as its name says, unless the user says it beside it.

    Raises:
        UserError: The mode contradicts the name, and comes from elsewhere than the name.
    """
    entry = last_value(given, "checkpoint.mode")
    if entry is None or monitor is None or entry.value not in ("min", "max"):
        return None if entry is None else entry.value
    natural, named = mode_of(monitor), last_value(given, "checkpoint.monitor")
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


def resumed(given: Sequence[Entry], run_dir: Path) -> Path | None:
    """The checkpoint that `--resume auto` goes on from, `None` for a fresh start.

    Args:
        given: What configs and flags set.
        run_dir: The run's directory.
    """
    entry = last_value(given, "resume")
    if entry is None or entry.value != "auto":
        return None
    dirpath = last_value(given, "checkpoint.dirpath")
    folder = run_dir / "checkpoints" if dirpath is None else Path(dirpath.value)
    found = newest_checkpoint(folder)
    if found is None:
        log.info("resume: nothing to go on from in %s, a fresh start", folder)
        return None
    log.info("resume: going on from %s at step %d", found.path, found.step)
    return found.path


def named_checkpoint(arguments: Sequence[str]) -> list[str]:
    """`RUN_OR_CKPT --flags` as flags: a checkpoint of a run, the best one of a run directory, or a file of weights.

    Raises:
        UserError: There is no such file, or it is named twice.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    path, rest = checkpoint_of(arguments[0]), list(arguments[1:])
    flag = "--ckpt_path" if read_weights(path).model_settings else "--model.weights"
    if any(argument.partition("=")[0] == flag for argument in rest):
        raise UserError(f"{arguments[0]} and {flag} both name a checkpoint: one is enough")
    return [flag, str(path), *rest]


def expand_evaluation(arguments: Sequence[str], given: Sequence[Entry], defaults: dict[str, Any]) -> list[str]:
    """Put the values in for which `--protocol NAME` and `--data.classes checkpoint` stand.

    Args:
        arguments: The command line.
        given: What configs and flags set.
        defaults: What files say, as `inherited` returns it.

    Raises:
        UserError: No such protocol, or one for another kind of data; no checkpoint that names its classes.
    """
    arguments = list(arguments)
    data = defaults.get("data") or {}
    if (entry := last_value(given, "data.classes")) is not None and entry.value == "checkpoint":
        arguments.append(f"--data.classes={json.dumps(_class_names_of(given, entry.where), ensure_ascii=False)}")
    if (entry := last_value(given, "protocol")) is None:
        return arguments
    chosen = preset(entry.value, where=entry.where)
    kind = _kind_of_data(given, data)
    if kind is not None and kind != chosen.kind.noun:
        raise UserError(f"{entry.where}: {entry.value} is a protocol for {chosen.kind.noun}s, the data are {kind}s")
    named = last_value(given, "data.size")
    size = int(named.value) if named is not None else data.get("init_args", {}).get("size", 224)
    return _with_flags(arguments, list(_as_flags("--data", chosen.settings(size))))


def _with_flags(arguments: list[str], values: list[str]) -> list[str]:
    """Flags behind `--protocol`, so that what comes later wins, or behind the configs where one of them has it."""
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


def _kind_of_data(given: Sequence[Entry], data: dict[str, Any]) -> str | None:
    chosen = last_value(given, "data")
    path = data.get("class_path") if chosen is None else class_path_of(chosen)
    module = resolve(path)
    return getattr(getattr(module, "kind", None), "noun", None)


def _class_names_of(given: Sequence[Entry], where: str) -> list[str]:
    source = last_value(given, "ckpt_path") or last_value(given, "model.weights")
    names = read_weights(source.value).details.get("class_names") if source is not None else None
    if not names:
        raise UserError(f"{where}=checkpoint: there is no checkpoint that names its classes")
    return list(names)


def inherited(given: Sequence[Entry], *, checkpoint: Entry | None) -> dict[str, Any]:
    """What files say of model and data, as parser defaults: flags and configs win over them.

    Args:
        given: What configs and flags set.
        checkpoint: The path of a checkpoint to test or resume; it knows all, so weights to start from are not read.

    Raises:
        UserError: A file that is missing or of another kind.
    """
    if checkpoint is not None and checkpoint.value not in CHECKPOINT_KEYWORDS:
        return checkpoint_defaults(Path(checkpoint.value), where=checkpoint.where)
    weights = last_value(given, "model.weights")
    if weights is None or last_value(given, "model.backbone") is not None:
        return {}
    start = starting_point(weights.value, where=weights.where)
    log.info("start from %s", start.summary)
    return {"model.backbone": start.backbone, "data": start.data}


def checkpoint_defaults(path: Path, *, where: str) -> dict[str, Any]:
    """How the model and the data of a checkpoint were configured, as parser defaults.

    Raises:
        UserError: No file, or no checkpoint of ours.
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
    task = {"_task": saved["_class_path"]} if "_class_path" in saved else {}
    check_file_classes({**saved, **task, "data": data}, source=f"{where}: {path}")
    defaults = {f"model.{key}": value for key, value in saved.items() if not key.startswith("_")}
    build_from(str(path), defaults.get("model.backbone"))
    defaults["model.weights"] = None  # a checkpoint has its own
    if saved.get("_class_path") is not None:
        defaults["model"] = saved["_class_path"]
    seed = stored.details.get("config", {}).get("seed_everything")
    if isinstance(seed, int):
        defaults["seed_everything"] = seed
    return {**defaults, "data": data} if data else defaults


def set_file_defaults(parser: Any, values: dict[str, Any]) -> None:
    """Let a parser of jsonargparse take over what a file says, which may be of another version or made by others.

    Raises:
        UserError: The parser does not take it.
    """
    try:
        parser.set_defaults(values)
        parser.get_defaults()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"settings of the checkpoint do not fit this version of mvrec: {reason(error)}") from error
