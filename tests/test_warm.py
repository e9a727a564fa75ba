"""Processes of the warm server are like those that pay their imports."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import warm
from warm import run, run_ranks, start

SLEEP = "import time; print('ready', file=__import__('sys').stderr, flush=True); time.sleep(600)"


def test_warm_mvrec_answers_like_the_installed_command():
    for arguments in (["--version"], ["fitt"], ["fit", "--trainer.max_epoch=1"]):
        actual = run(*arguments)
        real = subprocess.run([sys.executable, "-m", "mvrec", *arguments], capture_output=True, text=True, check=False)
        assert (actual.returncode, actual.stdout, actual.stderr) == (real.returncode, real.stdout, real.stderr)
    installed = subprocess.run([Path(sys.executable).parent / "mvrec", "--version"], capture_output=True, text=True)
    assert installed.stdout == run("--version").stdout


def test_environment_folder_and_arguments_are_those_that_were_given(tmp_path, monkeypatch):
    monkeypatch.setenv("GONE", "1")
    (tmp_path / "own.py").write_text("print('imported')")
    script = tmp_path / "script.py"
    script.write_text("import os, sys, own\nprint(sys.argv[1:], os.getcwd(), os.environ.get('GONE'), __name__)")
    process = run("a b", program=script, cwd=tmp_path, env={"GONE": None})
    assert process.stdout == f"imported\n['a b'] {tmp_path} None __main__\n", process.stderr


def test_ranks_have_the_environment_of_torchrun():
    code = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE']); raise SystemExit(int(os.environ['RANK']))"
    processes = run_ranks(2, program=code)
    assert [(process.returncode, process.stdout) for process in processes] == [(0, "0 2\n"), (1, "1 2\n")]


def test_a_signal_ends_one_process_and_the_end_of_a_test_its_whole_group():
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    single, group = start(program=SLEEP), start(program=parent)
    for process in (single, group):
        process.wait_for("ready")
        assert process.poll() is None
        assert os.getpgid(process.pid) == process.pid
    single.send_signal(signal.SIGTERM)
    assert single.wait() == -signal.SIGTERM
    warm.end_started()
    assert group.returncode == -signal.SIGKILL
    assert warm._server.started == []
