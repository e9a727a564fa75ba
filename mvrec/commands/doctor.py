"""`mvrec doctor`: what works here, what does not, and how to fix it."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from mvrec import __version__
from mvrec.doctor.checks import Check, lines
from mvrec.errors import UserError
from mvrec.messages import CommandParser
from mvrec.ranges import POSITIVE, check_range

ALONE = 0  # --dist without a number: the processes were started by a launcher

# `mvrec doctor --dist N` starts N of these.
_ONE_OF_MANY = "import sys; from mvrec.commands.doctor import main; main(sys.argv[1:])"
_GRACE_SECONDS = 15  # for starting Python and importing torch, on top of the check's own time


def main(arguments: list[str]) -> None:
    """Check packages, decoders, machine and devices, and say how to fix what is broken.

    With --dist a launch is checked instead, in less than a minute: every process finds rank 0, all have the same
    versions, none shares a GPU, and together they add up a tensor. Start it as the training will be started
    (torchrun --no-python ... mvrec doctor --dist, srun mvrec doctor --dist), or give a number of processes to start
    here. The exit code is 0 where nothing that is needed is broken, else 1.
    """
    parser = CommandParser(prog="mvrec doctor", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--dist",
        type=_count,
        nargs="?",
        const=ALONE,
        metavar="N",
        help="check a launch of several processes: the one that this is started in, or N processes on this machine",
    )
    parser.add_argument("--timeout", type=float, default=50, metavar="SECONDS", help="for --dist (default: 50)")
    parser.add_argument("--backend", choices=("gloo", "nccl"), help="for --dist (default: nccl where there are GPUs)")
    options = parser.parse_args(arguments)
    # torch would print where in C++ a connection ended, which the report says in words.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    check_range("--timeout", options.timeout, POSITIVE)
    if options.dist is None:
        _look_around(as_json=options.json)
    elif options.dist == ALONE:
        _check_this_launch(options)
    else:
        _start_here(options)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of processes, 1 or more, and not {text!r}")
    return int(text)


# -- this machine -----------------------------------------------------------------------------------------------------


def all_checks() -> list[Check]:
    """Run all checks of one machine.

    A malicious release of Lightning must not be imported, so that where one is installed little else can be tried.
    """
    from mvrec.doctor.machine import device_checks, machine_checks
    from mvrec.doctor.packages import extra_checks, lightning_checks, package_checks

    dangers = lightning_checks()
    if any("malicious" in check.text for check in dangers):
        return [*dangers, *package_checks(load=False), *extra_checks(), *machine_checks()]
    packages = package_checks()
    checks = [*dangers, *packages, *extra_checks()]
    broken = {check.name for check in packages if check.status == "broken"}
    if "numpy" not in broken:
        from mvrec.doctor.media import media_checks

        checks += media_checks()
    checks += machine_checks()
    return checks if "torch" in broken else checks + device_checks()


def _look_around(*, as_json: bool) -> None:
    checks = all_checks()
    broken = [check for check in checks if check.status == "broken"]
    if as_json:
        content = {"mvrec": __version__, "ok": not broken, "checks": [check.as_dict() for check in checks]}
        print(json.dumps(content, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        for line in [f"mvrec {__version__}", *lines(checks), _summary(checks)]:
            print(line)  # noqa: T201
    if broken:
        sys.exit(1)


def _summary(checks: Sequence[Check]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in ("broken", "warning")}
    if not any(counts.values()):
        return "all is well"
    return f"broken: {counts['broken']}, warnings: {counts['warning']}; each has its fix above"


# -- a launch ---------------------------------------------------------------------------------------------------------


def _check_this_launch(options: argparse.Namespace) -> None:
    """Check the launch of this process; rank 0 prints the result, the others only without rank 0's verdict."""
    from mvrec.cluster.launch import launch_of
    from mvrec.cluster.launch_check import check_launch

    launch = launch_of(os.environ)
    if launch is None:
        raise UserError(
            "--dist: this process was started alone. Start it as the training will be (srun mvrec doctor --dist, "
            "torchrun --no-python --nproc-per-node 4 mvrec doctor --dist), or --dist N for N processes here"
        )
    report = check_launch(launch, timeout_seconds=options.timeout, backend=options.backend)
    if launch.rank == 0 or not report.processes:  # without a verdict of rank 0 each must speak for itself
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False) if options.json else "\n".join(report.lines())
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    if not report.ok:
        os._exit(1)  # threads that wait in a collective would keep the process


def _start_here(options: argparse.Namespace) -> None:
    """Start processes on this machine as torchrun would; rank 0 prints the result."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--dist", "--timeout", str(options.timeout)]
    flags += ["--json"] if options.json else []
    flags += ["--backend", options.backend] if options.backend else []
    shared = {"WORLD_SIZE": options.dist, "LOCAL_WORLD_SIZE": options.dist, "MASTER_ADDR": "127.0.0.1"}
    started = []
    try:
        for rank in range(options.dist):
            variables = {**shared, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
            environ = {**os.environ, **{name: str(value) for name, value in variables.items()}}
            environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
            command = [sys.executable, "-c", _ONE_OF_MANY, *flags]
            started.append(subprocess.Popen(command, env=environ))
        end = time.monotonic() + options.timeout + _GRACE_SECONDS
        codes = [_code(process, end) for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if any(codes):
        sys.exit(1)


def _code(process: "subprocess.Popen[bytes]", end: float) -> int | None:
    try:
        return process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return 1
