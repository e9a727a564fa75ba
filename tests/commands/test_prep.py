"""`mvrec prep` and the scripts of data_prep/, which do the same."""

import subprocess
import sys
from pathlib import Path

import warm

from mvrec.commands.prep import JOBS

ROOT = Path(__file__).parent.parent.parent
NO_TORCH = """
import sys
from mvrec.cli.main import main
for line in sys.argv[1:]:
    try:
        main(["prep", *line.split()])
    except SystemExit as leaving:
        print("exit code", leaving.code)
assert "torch" not in sys.modules, "torch was imported"
"""


def test_help_lists_every_job(command):
    for arguments in ([], ["--help"]):
        code, out, _ = command("prep", *arguments)
        assert code == 0
        assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(JOBS)


def test_a_job_answers_help_and_a_missing_folder_without_torch():
    lines = [
        line for job in JOBS for line in (f"{job} --help", f"{job} nowhere{' out' * (job in ('resize', 'shard'))}")
    ]
    result = subprocess.run([sys.executable, "-c", NO_TORCH, *lines], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("exit code")] == [
        *("exit code 0", "exit code 2"),
    ] * len(JOBS)
    for job in JOBS:
        assert f"usage: mvrec prep {job} " in result.stdout
        assert f"mvrec prep {job}: error: nowhere" in result.stderr


def test_a_script_does_what_the_command_does(tmp_path):
    for job in JOBS:
        result = warm.run("--help", program=ROOT / f"data_prep/{job}.py", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"usage: mvrec prep {job} ")
    result = warm.run("nowhere", "out", program=ROOT / f"data_prep/{job}.py", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("mvrec prep shard: error: nowhere: ")
