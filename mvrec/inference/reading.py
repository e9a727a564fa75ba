"""What reading a file may take in a command, as flags."""

import argparse

from mvrec.data.loading.guarded_files import readers
from mvrec.errors import UserError
from mvrec.processes import Limits

LARGEST = 1_000_000_000  # seconds or GiB: calls of the system do not take any number


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the flags, which have the names and defaults of the keys of training."""
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
        options: What `add_limits` has added.
        count: How many.

    Raises:
        UserError: A limit is out of range.
    """
    for name in ("decode_timeout", "decode_memory"):
        if not 0 <= getattr(options, name) <= LARGEST:
            raise UserError(f"--{name} must lie in 0..{LARGEST}, got {getattr(options, name):g}")
    readers.limits = Limits(options.decode_timeout or None, options.decode_memory or None)
    readers.start(count)
