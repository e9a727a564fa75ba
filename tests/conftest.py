"""Fixtures for all tests: one thread, random states restored, a small data set of real videos."""

import contextlib
import io
import os
import random
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mvrec.machine import let_waiting_threads_sleep

let_waiting_threads_sleep()  # tests compute side by side
import torch  # noqa: E402
import warm  # noqa: E402

for folder in ("cli", "data", "models", "runs"):  # whose helpers serve the tests of other folders too
    sys.path.insert(0, str(Path(__file__).parent / folder))

ROOT = Path(__file__).parent.parent
# Every fast form is taken, on any machine and without seconds of measuring; also by processes that tests start.
os.environ.setdefault("MVREC_MEASURE", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests skip, with the reason, where there is no GPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums in another order are other floats: all tests, and the fixtures they share, count on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No test sees random numbers, processes (see `warm.py`) or a priority that another one left behind."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    warm.end_started()
    # SVT-AV1 makes a process of root a real-time one, next to which no other gets the processor.
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small moving digits data set: 12 classes of 3 training, 2 validation and 2 test videos."""
    from mvrec.data.generated.moving_digits_video import generate_moving_digits

    root = tmp_path_factory.mktemp("moving_digits") / "data"
    generate_moving_digits(root, clips_per_class={"train": 3, "val": 2, "test": 2})
    return root


@pytest.fixture(scope="session")
def no_pictures() -> Iterator[None]:
    """Runs in this process write an empty curves.png: to draw it costs a third of a small run."""
    from mvrec.runs import run_directory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_directory, "draw_curves", lambda metrics, output: output.touch())
        yield


@pytest.fixture(scope="session")
def tiny(digits: Path, no_pictures: None) -> list[str]:
    """Arguments of a run that takes a second: the demo's configuration on `digits` with a two-block network."""
    network = {"num_frames": 4, "embed_dim": 8, "depth": 2, "drop_path_rate": 0.2}
    network |= {"dim_mults": "{}", "head_mults": "{}", "q_strides": "{1: 2}"}
    data = {"root": digits, "clips_per_class": 3, "eval_clips_per_class": 2, "batch_size": 9, "num_workers": 0}
    values = {
        **{f"model.backbone.{key}": value for key, value in network.items()},
        **{f"data.{key}": value for key, value in data.items()},
        "data.clip.num_frames": 4,
        "trainer.max_epochs": 1,
        "trainer.log_every_n_steps": 1,
    }
    return ["--config", str(ROOT / "configs/demo.yaml"), *(f"--{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="session")
def small_data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of three classes."""
    root = tmp_path_factory.mktemp("three")
    for split in ("train", "val", "test"):
        for name in ("grow", "move_left", "orbit_clockwise"):
            shutil.copytree(digits / split / name, root / split / name)
    return root


@pytest.fixture(scope="session")
def small_run(tiny: list[str], small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on three classes."""
    from mvrec.cli.lightning import run

    arguments = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    settings = {
        "root": small_data,
        "size": 64,
        "val_views.short_side": 64,
        "test_views.short_side": 64,
        "decoder": "auto",
    }
    folder = tmp_path_factory.mktemp("runs") / "mine"
    flags = ["--data=mvrec.data.Kinetics", *(f"--data.{key}={value}" for key, value in settings.items())]
    run(["fit", *arguments, *flags, f"--run_dir={folder}", "--trainer.max_epochs=3", "--model.optimizer.lr=0.01"])
    return folder


@pytest.fixture(scope="session")
def digits_run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of `tiny` for two epochs: `arguments`, `folder` (copy it before you write into it), `err`."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("runs") / "digits"
    arguments = [*tiny, "--trainer.max_epochs=2", "--data.augment.rand_augment={num_ops: 2, magnitude: 9}"]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["fit", *arguments, f"--run_dir={folder}"])
    return SimpleNamespace(arguments=arguments, folder=folder, err=err.getvalue())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """The number of reads of each file of weights."""
    import safetensors

    counts: Counter[Path] = Counter()

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(file: Any, *args: Any, **knobs: Any) -> Any:
            counts[Path(file if isinstance(file, str | Path) else file.name)] += 1
            return function(file, *args, **knobs)

        monkeypatch.setattr(module, name, call)

    count(torch, "load")
    count(safetensors, "safe_open")
    return counts


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `mvrec ARGUMENTS` in this process; returns exit code, stdout and stderr."""
    from mvrec.cli.main import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def lean_parser() -> Iterator[None]:
    """One parser for all configurations of a file, without the checks before and after parsing: tests/cli has them."""
    from config_builds import one_parser
    from jsonargparse import ArgumentParser

    from mvrec.cli import lightning

    with one_parser(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning, "check_early", lambda arguments: None)
        patch.setattr(ArgumentParser, "validate", lambda self, *args, **knobs: None)
        yield


@pytest.fixture
def file_size_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the largest file of this process in bytes until the end of the test, as on a disk that gets full."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave halves of what it compiles
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
