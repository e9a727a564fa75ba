"""Our messages as plain lines on stderr, an error the last one. Importing this module costs nothing."""

import logging
import re
import sys
from typing import NoReturn

USAGE_ERROR = 2

log = logging.getLogger("mvrec")


class StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time, which progress bars and tests exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.stream = sys.stderr
        super().emit(record)


def show_messages() -> None:
    """Print what is logged, from news on, unless that is so already."""
    if log.handlers:
        return
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("mvrec: %(message)s"))
    handler.addFilter(_from_first_process)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


# Lightning's news that come only when they are asked for: profiler, verbose callbacks, model summaries, finders.
ASKED_FOR = re.compile(
    r"profiler|early_stopping|model_checkpoint|model_summary|stochastic_weight_avg|lr_finder|batch_size_scaling"
)


def show_lightning_messages() -> None:
    """Print Lightning's messages from warnings on, and the news that the user has asked for."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_was_asked_for)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def fail(message: str) -> NoReturn:
    """Print one line on stderr and leave with the exit code of a usage error."""
    print(f"mvrec: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(USAGE_ERROR)


def _was_asked_for(record: logging.LogRecord) -> bool:
    # A message for the first process only has the name of Lightning's helper, and the place of who called it.
    return record.levelno >= logging.WARNING or ASKED_FOR.search(f"{record.name} {record.filename}") is not None


def _from_first_process(record: logging.LogRecord) -> bool:
    """News are the same on all processes of a run; warnings are not."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")  # which knows, where it is loaded
    rank = getattr(getattr(lightning, "rank_zero_only", None), "rank", 0)
    return record.levelno >= logging.WARNING or rank in (0, None)
