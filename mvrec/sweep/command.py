"""`mvrec sweep`: a run for every line of a file of values, or a search over ranges."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mvrec.errors import UserError, need
from mvrec.files import at_home
from mvrec.messages import CommandParser, counted
from mvrec.ranges import COUNT, check_range

if TYPE_CHECKING:
    from mvrec.sweep.children import Children

INTERRUPTED = 130  # a shell's code of a process that Ctrl-C has ended


def main(arguments: list[str]) -> None:
    """Train with each line of a file of flags, such as `--model.optimizer.lr 1e-3`, and compare the runs.

    Each run has a folder of its own, named by its flags. The same command again goes on: finished runs are skipped,
    interrupted ones resume. A run that fails does not end the others. `slurm/sweep.sbatch` takes the same file. Further
    flags count for all runs: mvrec sweep CONFIG VALUES --data.root FOLDER.

    With `--search optuna` the file has ranges in YAML, such as `model.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}`
    or `data.batch_size: {choices: [8, 16]}`, and validation scores prune runs.
    """
    parser = CommandParser(prog="mvrec sweep", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", help="the configuration of all runs, a file or a recipe")
    parser.add_argument("values", type=at_home, metavar="VALUES", help="the file of flags, or of ranges")
    parser.add_argument("--run_dir", type=at_home, metavar="DIR", help="the folder of all runs (default: runs/VALUES)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--search", choices=("optuna",), help="search ranges instead of lines")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="runs of a search in all (default: 20)")
    options, flags = parser.parse_known_args(arguments)
    check_range("--jobs", options.jobs, COUNT)
    check_range("--trials", options.trials, COUNT)
    if flags and not flags[0].startswith("--"):
        raise UserError(f"unexpected {flags[0]!r}: mvrec sweep takes a configuration, a file of values and flags")
    folder = options.run_dir or Path("runs") / options.values.stem

    from mvrec.runs.run_lock import RunLock
    from mvrec.sweep.children import Children
    from mvrec.sweep.finished import begin, configs

    configs(options.config, flags)  # whether all exist, before anything is written
    children = Children(options.config, flags, jobs=options.jobs)
    work = _work(options.values, folder, children, trials=options.trials * bool(options.search))
    lock = RunLock(folder)
    lock.acquire()
    try:
        begin(folder, options.config, flags)
        failed = _ending_by_signals(work, children)
    finally:
        lock.release()
    if children.is_ending:
        print("mvrec: interrupted; the same command goes on")  # noqa: T201
        raise SystemExit(INTERRUPTED)
    print("\n".join(table(folder)))  # noqa: T201
    if failed:
        print(f"mvrec: {counted(len(failed), 'runs')} failed: {'; '.join(failed)}")  # noqa: T201
        raise SystemExit(1)


def _work(values: Path, folder: Path, children: "Children", *, trials: int) -> Callable[[], list[str]]:
    """Return what runs everything, once the file of values is read."""
    if trials:
        from mvrec.sweep.search import search
        from mvrec.sweep.values import read_ranges

        ranges = read_ranges(values)
        need("optuna", "optuna")
        return lambda: search(ranges, folder, children, num_trials=trials)
    from mvrec.sweep.lines import run_lines
    from mvrec.sweep.values import read_lines

    lines = read_lines(values, folder)
    return lambda: run_lines(lines, folder, children)


def _ending_by_signals(work: Callable[[], list[str]], children: "Children") -> list[str]:
    """Do the work; Ctrl-C and a cluster's signal let the runs write a checkpoint and end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: children.end()) for number in numbers]
    try:
        return work()
    except KeyboardInterrupt:  # raised by a search that ends
        return []
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def table(folder: Path) -> list[str]:
    """Return the tables of `mvrec compare` over the finished runs of a folder, by their last validation."""
    from mvrec.compare.command import read_runs
    from mvrec.compare.tables import tables
    from mvrec.sweep.finished import finished_runs

    finished = finished_runs(folder)
    if not finished:
        return [f"no run in {folder} has finished"]
    runs, notes = read_runs([folder / name for name in finished], is_validation=True, is_strict=False)
    for run in runs:
        if finished[run.folder.name].is_pruned:
            run.name += " (pruned)"
    return [line for part in tables(runs) for line in (*part.lines, "")][:-1] + notes
