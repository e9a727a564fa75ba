"""`mvrec prep` and the scripts of data_prep/, which do the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from mvrec.commands.prep import JOBS

ROOT = Path(__file__).parent.parent.parent
NO_TORCH = """
import sys
from mvrec.cli.main import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_job(command, arguments):
    code, out, _ = command("prep", *arguments)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(JOBS)


def test_an_unknown_job_is_one_line_with_the_nearest_name(command):
    code, out, err = command("prep", "rezise")
    assert (code, out) == (2, "")
    assert err == "mvrec: error: unknown job 'rezise'; did you mean 'resize'? (mvrec prep --help lists them)\n"


def test_a_job_answers_help_and_a_missing_folder_without_torch():
    for job in JOBS:
        result = subprocess.run([sys.executable, "-c", NO_TORCH, "prep", job, "--help"], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"usage: mvrec prep {job} ")
        arguments = [job, "nowhere", *(["out"] if job in ("resize", "shard") else [])]
        result = subprocess.run([sys.executable, "-c", NO_TORCH, "prep", *arguments], capture_output=True, text=True)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith(f"mvrec prep {job}: error: nowhere")


def test_a_script_does_what_the_command_does(tmp_path):
    for job in JOBS:
        script = [sys.executable, ROOT / f"data_prep/{job}.py"]
        result = subprocess.run([*script, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"usage: mvrec prep {job} ")
    result = subprocess.run([*script, "nowhere", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("mvrec prep shard: error: nowhere: ")
