"""`mvrec prep`: jobs that make a raw download trainable."""

import sys
from importlib import import_module

from mvrec.errors import UserError, nearest

JOBS = {
    "index": "write the lists of a data set in any layout; count missing and repeated files",
    "check": "decode every file, name the bad ones, write lists without them",
    "resize": "write videos or images with a short side of 256 pixels, which train faster",
    "imagenet": "list or unpack the three tars of ImageNet",
    "shard": "pack many small files into few tars, which training reads in place",
}
HELP = "\n".join(
    [
        "usage: mvrec prep JOB ...\n",
        "make a raw download trainable; every job may be interrupted and repeated:",
        *(f"  {job:10} {text}" for job, text in JOBS.items()),
        "\n`mvrec prep JOB --help` tells more.",
    ]
)


def main(arguments: list[str]) -> None:
    """Run a job; leaves with its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)  # noqa: T201
        return
    job, *rest = arguments
    if job not in JOBS:
        raise UserError(f"unknown job {job!r}{nearest(job, JOBS)} (mvrec prep --help lists them)")
    from mvrec.prep.console import run_tool

    sys.exit(run_tool(f"mvrec prep {job}", import_module(f"mvrec.prep.{job}").main, rest))
