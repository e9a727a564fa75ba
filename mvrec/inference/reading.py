"""Flags for the limits of reading a file in a command."""

import argparse

from mvrec.data.loading.guarded_files import readers
from mvrec.processes import Limits
from mvrec.ranges import COUNT_OR_NONE, check_range


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the flags, with the names and defaults of the keys of training."""
    limits = Limits()
    parser.add_argument(
        *("--decode_timeout",),
        type=float,
        default=limits.seconds,
        metavar="S",
        help="seconds without an answer after which a file counts as unreadable; 0: no limit (default: %(default)g)",
    )
    parser.add_argument(
        *("--decode_memory",),
        type=float,
        default=limits.memory,
        metavar="GIB",
        help="memory that reading a file may take; 0: no limit (default: %(default)g)",
    )


def start_readers(options: argparse.Namespace, *, count: int = 1) -> None:
    """Start the processes that read files, before a network is loaded.

    Args:
        options: Parsed flags of `add_limits`.
        count: The number of processes.

    Raises:
        UserError: A limit is out of range.
    """
    for name in ("decode_timeout", "decode_memory"):
        check_range(f"--{name}", getattr(options, name), COUNT_OR_NONE)
    readers.limits = Limits(options.decode_timeout or None, options.decode_memory or None)
    readers.start(count)
