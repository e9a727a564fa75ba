"""A search over ranges by Optuna's samplers and pruner, one process of `mvrec fit` per trial."""

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mvrec.errors import UserError
from mvrec.messages import USAGE_ERROR, counted
from mvrec.runs.curves import read_columns
from mvrec.runs.monitors import mode_of
from mvrec.sweep.children import Children, Trial, last_error
from mvrec.sweep.finished import finish, finished_runs, say
from mvrec.sweep.values import Range, folder_name

if TYPE_CHECKING:
    import optuna

STUDY = "study.log"  # Optuna's journal, from which a search goes on
INTERRUPTED = "interrupted"  # an attribute of trials


def search(ranges: list[Range], folder: Path, children: Children, *, num_trials: int) -> list[str]:
    """Search until a study has so many trials; return a line for each that failed.

    Args:
        ranges: What to search.
        folder: The folder of all runs.
        children: The runs.
        num_trials: Runs in all, those of an interrupted search included.

    Raises:
        UserError: The folder holds a search of other choices.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of each run that fails, with a traceback
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY))), study_name="sweep", load_if_exists=True
    )
    earlier = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=len(earlier))
    study.pruner = optuna.pruners.MedianPruner(
        n_startup_trials=4, n_warmup_steps=2
    )  # the first validation is mostly chance
    for values in _interrupted(earlier, set(finished_runs(folder))):
        study.enqueue_trial(values)
    objective = Objective(ranges, folder, children)
    done = sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in earlier)
    if done:
        say(f"{counted(done, 'trials')} finished earlier")
    study.optimize(objective, n_trials=max(0, num_trials - done), n_jobs=children.jobs, catch=(RuntimeError,))
    _say_the_best(study)
    return objective.failed


def _interrupted(earlier: "list[optuna.trial.FrozenTrial]", finished: set[str]) -> list[dict[str, Any]]:
    """Return the values of trials that an end of the search has interrupted, and that do not wait for their turn yet.

    They go on as new trials of the same values, in the same folders.

    Args:
        earlier: All trials.
        finished: Names of the folders of finished runs.
    """
    waiting = [trial.system_attrs.get("fixed_params") for trial in earlier if trial.state.name == "WAITING"]
    values: list[dict[str, Any]] = []
    for trial in earlier:
        is_interrupted = trial.state.name == "RUNNING" or trial.user_attrs.get(INTERRUPTED, False)
        name = folder_name(_flags(trial.params))
        if is_interrupted and name not in finished and trial.params not in [*waiting, *values]:
            values.append(trial.params)
    return values


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in (f"--{key}", _text(value))]


def _say_the_best(study: "optuna.Study") -> None:
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if finished:
        best = min(finished, key=lambda trial: trial.value if trial.value is not None else math.inf)
        values = " ".join(_flags(best.params))
        say(f"the best validation of all trials, {abs(best.value or 0.0):.4f}, has {values}")


class Objective:
    """A trial of a study: a training with suggested values, and its best validation score.

    Args:
        ranges: What to search.
        folder: The folder of all runs.
        children: The runs.
    """

    def __init__(self, ranges: list[Range], folder: Path, children: Children) -> None:
        self.ranges, self.folder, self.children = ranges, folder, children
        self.failed: list[str] = []
        self.is_refused = False
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def __call__(self, trial: "optuna.Trial") -> float:
        """Train with the trial's values; return the score, negative if higher is better."""
        import optuna

        flags = _flags({entry.key: self._suggested(trial, entry) for entry in self.ranges})
        run = Trial(folder_name(flags), tuple(flags), self.folder / folder_name(flags))
        with self._lock_of(run):  # trials at the same time may have the same values
            if self.children.is_ending:
                self._interrupt(trial)
            earlier = finished_runs(self.folder).get(run.name)
            if earlier is not None and not validations(run.folder):  # someone has removed it
                earlier = None
            is_pruned = earlier.is_pruned if earlier else self._train(run, trial)
        scores = validations(run.folder)
        if is_pruned:
            raise optuna.TrialPruned
        if earlier:
            say(f"{run.folder} was tried before")
        return min(value for _, value in scores)

    def _train(self, run: Trial, trial: "optuna.Trial") -> bool:
        """Train; return whether the pruner has ended the run early."""
        say(f"{run.folder} begins")
        reported = 0

        def should_end() -> bool:
            nonlocal reported
            scores = validations(run.folder)[reported:]
            for _, value in scores:
                # The number of the validation, not its step: batches of another size make other steps.
                reported += 1
                trial.report(value, reported)
            return bool(scores) and trial.should_prune()

        status = self.children.run(run, watch=should_end)
        if self.children.is_ending:
            self._interrupt(trial)
        should_end()  # of the last validations too, by which the pruner judges others
        scores = validations(run.folder)
        if status is not None and (status or not scores):
            fault = f"{run.folder}: {last_error(run) if status else 'it has no validation score to search by'}"
            self.failed.append(fault)
            say(f"{fault}, exit status {status}")
            if status == USAGE_ERROR and not finished_runs(self.folder):
                self._refuse(trial)
            raise RuntimeError(fault)
        finish(self.folder, run, is_pruned=status is None)
        if status is None:
            say(f"{run.folder} pruned after {counted(len(scores), 'validations')}")
        else:
            say(f"{run.folder} finished, {abs(min(value for _, value in scores)):.4f}")
        return status is None

    def _interrupt(self, trial: "optuna.Trial") -> NoReturn:
        """End the search; the next one resumes the trial."""
        trial.set_user_attr(INTERRUPTED, True)
        trial.study.stop()
        raise KeyboardInterrupt

    def _refuse(self, trial: "optuna.Trial") -> None:
        """End the search: a fault of configuration, flags or keys is that of every trial."""
        trial.study.stop()
        if not self.is_refused:
            say("no other trial begins, because each would be refused like this one")
        self.is_refused = True

    def _suggested(self, trial: "optuna.Trial", entry: Range) -> Any:
        try:
            return _suggested(trial, entry)
        except ValueError:  # Optuna's, for choices that an earlier search did not have
            raise UserError(
                f"{self.folder} holds a search with other choices of {entry.key}: choose another folder with --run_dir"
            ) from None

    def _lock_of(self, run: Trial) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(run.name, threading.Lock())


def _suggested(trial: "optuna.Trial", entry: Range) -> Any:
    if entry.choices:
        return trial.suggest_categorical(entry.key, entry.choices)
    if entry.step is not None:
        return trial.suggest_int(entry.key, int(entry.low), int(entry.high), step=entry.step)
    return trial.suggest_float(entry.key, entry.low, entry.high, log=entry.log)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def validations(folder: Path) -> list[tuple[int, float]]:
    """Return step and score of each validation so far, negative if higher is better: the first score of the task."""
    path = folder / "metrics.csv"
    try:
        columns = read_columns(path) if path.is_file() else {}
    except (ValueError, KeyError, TypeError):  # a row is being written
        return []
    names = [name for name in columns if name.startswith("val/") and name != "val/loss"] or ["val/loss"]
    steps, values = columns.get(names[0], ([], []))
    sign = 1 if mode_of(names[0]) == "min" else -1
    return [(step, sign * value) for step, value in zip(steps, values, strict=True)]
