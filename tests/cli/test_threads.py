"""Threads of a run: how they wait for one another."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mvrec import machine
from mvrec.doctor.machine import machine_checks
from mvrec.machine import WAITING, WAITING_VARIABLES, let_waiting_threads_sleep

(TORCH,) = find_spec("torch").submodule_search_locations
RUNTIME = Path(TORCH) / "lib/libgomp.so.1"
LOAD = f"import ctypes, sys; assert 'torch' not in sys.modules; ctypes.CDLL({str(RUNTIME)!r})"
ENTRIES = {
    "command": f"""
from mvrec.cli import main as cli
cli.COMMANDS["models"] = lambda *_: exec({LOAD!r})
cli.main(["models"])
""",
    "script": f"from mvrec import script; {LOAD}",
}


@pytest.mark.skipif(not RUNTIME.exists(), reason="this torch has no GNU OpenMP")
@pytest.mark.parametrize(
    ("entry", "of_user", "spins"), [("command", "", "10000"), ("script", "", "10000"), ("command", "77", "77")]
)
def test_the_runtime_of_torch_is_loaded_with_the_policy(entry, of_user, spins):
    environment = {name: value for name, value in os.environ.items() if name not in WAITING_VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **({"GOMP_SPINCOUNT": of_user} if of_user else {})}
    done = subprocess.run([sys.executable, "-c", ENTRIES[entry]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize("name", WAITING_VARIABLES)
def test_a_policy_of_the_user_and_an_imported_torch_change_nothing(monkeypatch, name):
    monkeypatch.setattr(machine, "set_by_mvrec", {})
    for environment, loaded in (({name: "x"}, ()), ({}, ("torch",))):
        before = dict(environment)
        let_waiting_threads_sleep(environment, loaded)
        assert environment == before
    assert machine.set_by_mvrec == {}


@pytest.mark.parametrize(
    ("environment", "by_mvrec", "status", "text"),
    [
        ({}, False, "warning", "spin and slow down work next to them: no variable sets it"),
        ({"OMP_WAIT_POLICY": "active"}, False, "warning", "OMP_WAIT_POLICY=active, set by the environment"),
        ({"OMP_WAIT_POLICY": "passive"}, False, "ok", "sleep: OMP_WAIT_POLICY=passive, set by the environment"),
        ({"GOMP_SPINCOUNT": "infinite"}, False, "warning", "GOMP_SPINCOUNT=infinite"),
        (
            {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
            False,
            "warning",
            "=300000, set by the",
        ),
        (WAITING, True, "ok", "set by mvrec"),
        (WAITING, False, "ok", "set by the environment"),
    ],
)
def test_doctor_names_the_policy_and_its_origin(monkeypatch, environment, by_mvrec, status, text):
    monkeypatch.setattr(machine, "set_by_mvrec", dict(WAITING) if by_mvrec else {})
    (check,) = [check for check in machine_checks(environ=environment) if check.name == "waiting threads"]
    assert (check.status, text in check.text) == (status, True), check
    assert ("GOMP_SPINCOUNT=10000" in check.fix) == (status == "warning")
