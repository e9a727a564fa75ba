"""A search over ranges by Optuna's samplers and pruner, one process of `mvrec fit` per trial."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import need
from mvrec.messages import counted
from mvrec.runs.curves import read_columns
from mvrec.runs.monitors import mode_of
from mvrec.sweep.children import Children, Trial, last_error
from mvrec.sweep.finished import finish, say
from mvrec.sweep.values import Range, folder_name, read_ranges

if TYPE_CHECKING:
    import optuna

STUDY = "study.log"  # Optuna's journal, from which a search goes on


def search(values: Path, folder: Path, children: Children, *, num_trials: int) -> list[str]:
    """Search until a study has so many trials; return a line for each that failed.

    Args:
        values: The YAML file of ranges.
        folder: The folder of all runs.
        children: The runs.
        num_trials: Runs in all, those of an interrupted search included.

    Raises:
        UserError: Optuna is missing, or a range is none.
    """
    ranges = read_ranges(values)
    need("optuna", "optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY))), study_name="sweep", load_if_exists=True
    )
    earlier = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=len(earlier))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    unfinished = [trial for trial in earlier if not trial.state.is_finished()]
    for trial in unfinished:  # they go on as trials of the same values, in the same folders
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    objective = Objective(ranges, folder, children)
    done = sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in earlier)
    if done:
        say(f"{counted(done, 'trials')} finished earlier")
    study.optimize(objective, n_trials=max(0, num_trials - done), n_jobs=children.jobs, catch=(RuntimeError,))
    return objective.failed


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

    def __call__(self, trial: "optuna.Trial") -> float:
        """Train with the trial's values; return the score, negative if higher is better."""
        import optuna

        flags = [part for entry in self.ranges for part in (f"--{entry.key}", _text(_suggested(trial, entry)))]
        run = Trial(folder_name(flags), tuple(flags), self.folder / folder_name(flags))
        if self.children.is_ending:
            trial.study.stop()
            raise optuna.TrialPruned
        say(f"{run.folder} begins")
        reported: set[int] = set()

        def should_end() -> bool:
            for step, value in validations(run.folder):
                if step not in reported:
                    reported.add(step)
                    trial.report(value, step)
            return trial.should_prune()

        status = self.children.run(run, watch=should_end)
        if self.children.is_ending:
            trial.study.stop()
            raise KeyboardInterrupt  # leaves the trial unfinished: the next search resumes it
        scores = validations(run.folder)
        if status is None:
            finish(self.folder, run)
            say(f"{run.folder} pruned")
            raise optuna.TrialPruned
        if status or not scores:
            fault = f"{run.folder}: {last_error(run) if status else 'it has no validation score to search by'}"
            self.failed.append(fault)
            say(f"{fault}, exit status {status}")
            raise RuntimeError(fault)
        finish(self.folder, run)
        best = min(value for _, value in scores)
        say(f"{run.folder} finished, {abs(best):.4f}")
        return best


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
