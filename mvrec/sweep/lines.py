"""The runs of a file of flags, one after the other or several at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mvrec.messages import counted
from mvrec.sweep.children import Children, Trial, last_error
from mvrec.sweep.finished import finish, finished_runs, say


def run_lines(trials: Sequence[Trial], folder: Path, children: Children) -> list[str]:
    """Run all trials that have not finished; return a line for each that failed."""
    finished, failed = finished_runs(folder), []
    waiting = [trial for trial in trials if trial.name not in finished or finished[trial.name].is_pruned]
    if len(waiting) < len(trials):
        say(f"{counted(len(trials) - len(waiting), 'runs')} finished earlier")
    with ThreadPoolExecutor(children.jobs) as pool:
        runs = {pool.submit(_run, trial, children): trial for trial in waiting}
        for future in as_completed(runs):
            trial, status = runs[future], future.result()
            if status == 0:
                say(f"{trial.folder} finished, {finish(folder, trial)} of {len(trials)}")
            elif status is not None:
                failed.append(f"{trial.folder}: {last_error(trial)}")
                say(f"{failed[-1]}, exit status {status}")
    return failed


def _run(trial: Trial, children: Children) -> int | None:
    if children.is_ending:
        return None
    say(f"{trial.folder} begins")
    return children.run(trial)
