"""The common user interface of the tools: arguments, progress, tables, one-line errors, exit codes."""

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from mvrec.errors import UserError
from mvrec.machine import visible_cores
from mvrec.messages import CommandParser
from mvrec.prep.jobs import stop

ALL_FINE, SOME_BAD, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130
_CAUSES = 10  # named in a table; report.json names every file


def parser(name: str, description: str) -> CommandParser:
    """Build a parser with the options of all tools."""
    built = CommandParser(
        prog=f"mvrec prep {name}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    built.add_argument("--workers", type=positive(int), default=visible_cores(), help="processes")
    built.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    return built


def add_limits(target: CommandParser, *, seconds: float) -> None:
    """Add the options for the limits of a file."""
    target.add_argument("--timeout", type=positive(float), default=seconds, help="seconds that one file may take")
    target.add_argument("--memory", type=positive(float), default=4.0, help="GiB that one file may take")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argument type: a number above 0."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse prints it in its message
    return parse


def size_in_bytes(text: str) -> int:
    """Parse a size such as `256MB`, `1GiB` or `5000`, as an argument type."""
    units = {"": 1, "B": 1}
    for power, letter in enumerate("KMGT", start=1):
        units |= {letter: 1000**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power}
    number = text.strip().upper().rstrip("BIKMGT")
    try:
        value = int(float(number) * units[text.strip().upper()[len(number) :].strip()])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256MB or 1GiB") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def progress(total: int, *, unit: str = "file", label: str = "") -> "tqdm[NoReturn]":
    """Return a bar with the remaining time, on stderr."""
    tqdm.monitor_interval = 0  # forks would inherit its thread
    return tqdm(total=total, unit=unit, desc=label or None, unit_scale=unit == "B", dynamic_ncols=True, mininterval=0.5)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return columns under their names; all but the first are right-aligned."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)


def causes_table(bad: Iterable[tuple[str, str, str]], *, noun: str) -> str:
    """Return the most frequent causes under their names, with an example of each, after a blank line; "" of nothing.

    Args:
        bad: Status, cause and file of each.
        noun: What is counted, in the plural.
    """
    causes: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for status, cause, path in bad:
        causes[status, cause] += 1
        examples.setdefault((status, cause), path)
    if not causes:
        return ""
    rows = [[f"{s}: {shown(c)}", count, shown(examples[s, c])] for (s, c), count in causes.most_common(_CAUSES)]
    more = f"\n... and {len(causes) - _CAUSES} more causes, see report.json" if len(causes) > _CAUSES else ""
    return "\n\n" + table(["cause", noun, "for example"], rows) + more


def shown(text: str | os.PathLike[str]) -> str:
    """Return a path for a terminal, which cannot print all characters: others are escaped."""
    name = os.fspath(text)
    return name if name.isprintable() else ascii(name)[1:-1]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Note Ctrl-C even if a library swallows the exception that it raises."""

    def note(number: int, frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    stop.clear()
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_tool(name: str, main: Callable[[list[str]], int], arguments: Sequence[str]) -> int:
    """Run a tool's `main` and return the exit code; an error is one line on stderr.

    Codes: 0 all good, 1 some files or the disk are bad, 2 wrong arguments or input, 130 interrupted.
    """
    try:
        with _interruptible():
            return main(list(arguments))
    except UserError as error:
        message, code = str(error), USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_BAD
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message, code = f"{where}{error.strerror or error}; the same command goes on from here", SOME_BAD
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
    return code
