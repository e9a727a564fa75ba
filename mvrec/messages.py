"""Log messages as plain lines on stderr; an error comes last, also one of arguments. No heavy import."""

import argparse
import logging
import re
import sys
from typing import NoReturn

from mvrec.errors import UserError, nearest

USAGE_ERROR = 2

log = logging.getLogger("mvrec")


def counted(count: int, nouns: str) -> str:
    """Return a number with its noun: "2 images", "1 image".

    Args:
        count: The number.
        nouns: Words whose first one is the noun in the plural, such as "images without mask".
    """
    noun, blank, rest = nouns.partition(" ")
    single = noun[:-2] if noun.endswith(("xes", "sses")) else noun[:-1]
    return f"{count} {single if count == 1 else noun}{blank}{rest}"


class StderrHandler(logging.StreamHandler):
    """A handler that writes to the current `sys.stderr`, which progress bars and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.stream = sys.stderr
        super().emit(record)


def show_messages() -> None:
    """Log INFO and above to stderr; a second call changes nothing."""
    if log.handlers:
        return
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("mvrec: %(message)s"))
    handler.addFilter(_from_first_process)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


# INFO messages of Lightning that the user has requested: profiler, verbose callbacks, model summaries, finders.
ASKED_FOR = re.compile(
    r"profiler|early_stopping|model_checkpoint|model_summary|stochastic_weight_avg|lr_finder|batch_size_scaling"
)


def show_lightning_messages() -> None:
    """Print Lightning's warnings, and the INFO messages that the user has requested."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_was_asked_for)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with the code of a usage error."""
    print(f"mvrec: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(USAGE_ERROR)


def _was_asked_for(record: logging.LogRecord) -> bool:
    # A rank-zero message carries the name of Lightning's helper module and the file name of its caller.
    return record.levelno >= logging.WARNING or ASKED_FOR.search(f"{record.name} {record.filename}") is not None


def _from_first_process(record: logging.LogRecord) -> bool:
    """Return whether to print a record: INFO on rank 0 only, because it is the same on all; warnings on every rank."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")  # knows the rank if it is loaded
    rank = getattr(getattr(lightning, "rank_zero_only", None), "rank", 0)
    return record.levelno >= logging.WARNING or rank in (0, None)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Raise the error with the way to the help."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = re.findall(r"--[\w-]+", self.format_usage())
        raise UserError(f"{message}{nearest(unknown[1], flags) if unknown else ''} ({self.prog} --help)")
