"""The job scripts with programs in place of Slurm's: what srun is given."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = {
    "scontrol": "echo NodeAddr=127.0.0.1",
    "srun": 'echo "${SRUN_CPUS_PER_TASK:-none} ${OMP_NUM_THREADS:-none} ${OMP_WAIT_POLICY:-none}"',
    "mvrec": "",
}


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({}, "none none none"),
        ({"SLURM_CPUS_PER_TASK": "12"}, "12 none none"),
        ({"SLURM_CPUS_PER_TASK": "12", "SRUN_CPUS_PER_TASK": "3"}, "3 none none"),
        ({"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"}, "none 5 ACTIVE"),
    ],
)
def test_srun_gets_the_cores_of_the_job_and_the_settings_of_the_user(tmp_path, environment, printed):
    for name, line in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fit", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
    job |= {"SLURM_NTASKS_PER_NODE": "1", "MVREC": str(tmp_path / "mvrec"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "slurm/fit.sbatch"), "demo"]
    done = subprocess.run(command, cwd=ROOT, env=job | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == printed
