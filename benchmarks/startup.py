"""The cost of starting: commands, `mvrec fit` up to its first training step, and building every network.

python benchmarks/startup.py [--quick] [--json [PATH]]

CPU seconds (user and system) on one thread, medians. Commands run in processes of their own, after one that fills the
file cache. `mvrec fit` trains the demo on videos that are made beforehand, and reads the clock when the first optimiser
step ends, including the check of one validation batch. The cost of imports alone is measured in another
process, which imports all that the run had imported by then and nothing else. Loader processes count apart.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from results import figures

ROOT = Path(__file__).resolve().parents[1]
MVREC = str(Path(sys.executable).with_name("mvrec"))
CLIPS_PER_CLASS = {"train": 10, "val": 2, "test": 2}
HELP_GOAL, MISTAKE_GOAL, REPORT_GOAL, FIT_GOAL, BUILD_GOAL = 0.15, 1.5, 3.0, 12.0, 2.0  # seconds
PEERS = {  # the same networks elsewhere
    "mvit_b_16x4": "torchvision/mvit_v1_b",
    "mvit_v2_s_16x4": "torchvision/mvit_v2_s",
    "mvit_v2_t": "timm/mvitv2_tiny",
    "mvit_v2_s": "timm/mvitv2_small",
    "mvit_v2_b": "timm/mvitv2_base",
    "mvit_v2_l": "timm/mvitv2_large",
}

# The clock of the first step, what has been imported by then, and what the loader processes have taken; see `Fit`.
FIRST_STEP = """
import json, os, sys, time
from pathlib import Path

def others():
    found = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == os.getsid(0) and int(path.parent.name) != os.getpid():
            found += sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
    return found

def note(*_):
    taken = time.process_time()
    report = Path(sys.argv[1])
    if not report.exists():
        report.write_text(json.dumps({"total": taken, "loaders": others(), "modules": list(sys.modules)}))

from mvrec.cli.main import main
from mvrec.runs.signals import requests
requests.listen()
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(note)
main(sys.argv[2:])
"""
IMPORTS = """
import importlib, json, sys, time
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except Exception:  # made by the run, such as its main module, or not to be imported by this name
        pass
print(time.process_time())
"""
MISTAKE = """
import contextlib
from mvrec.cli.main import main
with contextlib.suppress(SystemExit):
    main(["fit", "--config", "demo", "--trainer.max_epoch", "3"])
"""
BUILDS = """
import json, sys, time
import torch
torch.set_num_threads(1)
repeats, wanted = json.load(sys.stdin)

def maker(name):
    library, _, short = name.rpartition("/")
    if library == "torchvision":
        from torchvision.models import video
        return getattr(video, short)
    if library == "timm":
        import timm
        return lambda: timm.create_model(short)
    from mvrec.models import create_model
    return lambda: create_model(name)

found = {}
for name in wanted:
    build, times = maker(name), []
    for _ in range(repeats):
        begin = time.process_time()
        build()
        times.append(time.process_time() - begin)
    found[name] = times
print(json.dumps(found))
"""


class Row(NamedTuple):
    """A line of the table: CPU seconds of every run, and their limit."""

    label: str
    runs: list[float]
    goal: float | None = None
    peer: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(self.runs)

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "reached" if self.seconds < self.goal else "missed"


class Fit(NamedTuple):
    """CPU seconds of `mvrec fit` up to its first step: of the process, of its imports alone, of its loaders."""

    total: float
    imports: float
    loaders: float

    @property
    def beyond(self) -> float:
        return self.total - self.imports


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(words: list[str], *, stdin: str | None = None) -> tuple[float, str]:
    """Return CPU seconds of a process and all that it waited for, and what it printed.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, check=False, env=environment(), start_new_session=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:3])[:80]} failed: {' '.join(done.stderr.split())[-300:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def python(code: str, *words: str, stdin: str | None = None) -> tuple[float, str]:
    return run([sys.executable, "-c", code, *words], stdin=stdin)


# -- commands --------------------------------------------------------------------------------------------------------


def measure_commands(repeats: int) -> list[Row]:
    """Measure and show our commands, and the imports that they build on."""
    commands: dict[str, tuple[list[str], float | None]] = {
        "mvrec --help": ([MVREC, "--help"], HELP_GOAL),
        "mvrec models": ([MVREC, "models"], None),
        "mvrec fit with an unknown key": ([sys.executable, "-c", MISTAKE], MISTAKE_GOAL),
        "imports of mvrec fit": ([sys.executable, "-c", "import mvrec.cli.lightning"], None),
        "imports of mvrec report": ([sys.executable, "-c", "import mvrec.commands.report"], None),
        "mvrec fit --help": ([MVREC, "fit", "--help"], None),
        "import torch": ([sys.executable, "-c", "import torch"], None),
        "import lightning": ([sys.executable, "-c", "import lightning"], None),
    }
    return [measure_command(label, words, goal, repeats) for label, (words, goal) in commands.items()]


def measure_command(label: str, words: list[str], goal: float | None, repeats: int) -> Row:
    """Measure and show one command, after a run that fills the file cache."""
    run(words)
    row = Row(label, [run(words)[0] for _ in range(repeats)], goal)
    show([row])
    return row


# -- fit -------------------------------------------------------------------------------------------------------------


def fit_flags(data: Path, folder: Path) -> list[str]:
    flags = {
        "config": ROOT / "configs/demo.yaml",
        "data.root": data,
        "data.clips_per_class": CLIPS_PER_CLASS["train"],
        "data.eval_clips_per_class": CLIPS_PER_CLASS["val"],
        "trainer.max_steps": 1,
        "run_dir": folder,
    }
    return ["fit", *(f"--{name}={value}" for name, value in flags.items())]


def measure_fit(data: Path, folder: Path) -> Fit:
    """Measure one run in a new folder, then its imports alone."""
    report = folder.with_suffix(".json")
    python(FIRST_STEP, str(report), *fit_flags(data, folder))
    figures = json.loads(report.read_text())
    _, printed = python(IMPORTS, stdin=json.dumps(figures["modules"]))
    return Fit(figures["total"], float(printed.split()[-1]), figures["loaders"])


def fit_rows(fits: list[Fit]) -> list[Row]:
    return [
        Row("mvrec fit on the demo, up to the end of the first step", [fit.total for fit in fits]),
        Row("of these, imports", [fit.imports for fit in fits]),
        Row("of these, beyond imports", [fit.beyond for fit in fits], FIT_GOAL),
        Row("in addition, loader processes by then", [fit.loaders for fit in fits]),
    ]


def make_data(root: Path) -> None:
    """Generate a small number of the demo's videos, as its data module does."""
    code = "import json, sys; from mvrec.data.generated.moving_digits_video import generate_moving_digits as make; "
    python(f"{code}make(sys.argv[1], clips_per_class=json.loads(sys.argv[2]))", str(root), json.dumps(CLIPS_PER_CLASS))


# -- builds ----------------------------------------------------------------------------------------------------------


def build_rows(seconds: dict[str, list[float]]) -> list[Row]:
    """Return a row per network of mvrec, with its peer's median."""
    rows = []
    for name, runs in seconds.items():
        if "/" in name:
            continue
        other = PEERS.get(name, "")
        peer = f"{other} {statistics.median(seconds[other]):.2f}" if other in seconds else ""
        rows.append(Row(f"build {name}", runs, BUILD_GOAL, peer))
    return rows


def measure_builds(repeats: int) -> list[Row]:
    """Measure all networks of the zoo in one process."""
    from mvrec.published import list_models

    names = [*list_models(), *PEERS.values()]
    return build_rows(json.loads(python(BUILDS, stdin=json.dumps([repeats, names]))[1]))


# -- the command -----------------------------------------------------------------------------------------------------


def show(rows: list[Row]) -> None:
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        span = f"{min(row.runs):.2f} to {max(row.runs):.2f}"
        print(f"| {row.label} | {row.seconds:.2f} | {span} | {row.peer} | {goal} | {row.verdict} |", flush=True)


def as_figure(row: Row) -> figures.Row:
    return figures.Row(row.label, peer=row.peer, mvrec=row.seconds, unit="CPU s", low=min(row.runs), high=max(row.runs),
                       goal=row.goal)  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="everything once")
    figures.add_option(parser)
    options = parser.parse_args(words)
    measured = figures.Figures.of(options, "startup", packages=("torch", "lightning", "torchvision", "timm"))
    print(f"{measured.title}; one thread, CPU seconds, medians\n")
    print("| what | CPU s | from, to | peer | goal, below | |\n|---|---|---|---|---|---|", flush=True)
    repeats = 1 if options.quick else 5
    rows = measure_commands(repeats)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_data(data)
        runs = [Path(folder) / f"run-{number}" for number in range(1 if options.quick else 4)]
        fits_measured = [measure_fit(data, run) for run in runs]
        fits = fit_rows(fits_measured if options.quick else fits_measured[1:])  # the first one fills the file cache
        show(fits)
        report = [MVREC, "report", str(runs[0])]
        rows.append(measure_command("mvrec report of a run without mistakes to show", report, REPORT_GOAL, repeats))
    builds = measure_builds(1 if options.quick else 3)
    show(builds)
    rows += [*fits, *builds]
    missed = [row.label for row in rows if row.verdict == "missed"]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals are reached")
    measured.add(*map(as_figure, rows))


if __name__ == "__main__":
    main()
