"""Our messages as plain lines on stderr. Importing this module costs nothing."""

import logging
import sys

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


def _from_first_process(record: logging.LogRecord) -> bool:
    """News are the same on all processes of a run; warnings are not."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")  # which knows, where it is loaded
    rank = getattr(getattr(lightning, "rank_zero_only", None), "rank", 0)
    return record.levelno >= logging.WARNING or rank in (0, None)
