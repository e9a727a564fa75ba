"""What a check of this machine says, and how a check is run that may crash or hang."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mvrec.processes import how_it_ended

Status = Literal["ok", "note", "warning", "broken"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's.

    Attributes:
        group: What it belongs to: "packages", "decoders", ...
        name: What was looked at.
        status: "ok"; "note" for what is optional; "warning" for what will hurt; "broken" for what is needed and does
            not work.
        text: What was found.
        fix: The command or step that mends it; nothing where all is well.
    """

    group: str
    name: str
    status: Status
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def lines(checks: Sequence[Check]) -> list[str]:
    """The checks for people, group by group."""
    found = []
    width = max((len(check.name) for check in checks), default=0)
    for group in dict.fromkeys(check.group for check in checks):
        found.append(group)
        for check in checks:
            if check.group != group:
                continue
            found.append(f"  {check.status:<7}  {check.name:<{width}}  {check.text}".rstrip())
            if check.fix:
                found.append(f"  {'':<7}  {'':<{width}}  fix: {check.fix}")
    return found


class TrialError(Exception):
    """A trial did not come to an end of its own; says how it ended."""


def apart(trial: Callable[..., Any], *arguments: Any, seconds: float = 60) -> Any:
    """Run a function in a process of its own, so that native code that crashes or hangs is a finding and not the end.

    Args:
        trial: A function of a module.
        arguments: What it takes.
        seconds: How long it may take.

    Returns:
        What it returns.

    Raises:
        TrialError: It crashed, hung, or raised something.
    """
    context: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, trial, arguments), daemon=True)
    with warnings.catch_warnings():
        # That it may hang is what the time limit is for.
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise TrialError(f"gave no answer for {seconds:g} s")
        kind, value = ours.recv()
    except EOFError:
        process.join(10)
        raise TrialError(how_it_ended(process.exitcode)) from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if kind == "raised":
        raise TrialError(value)
    return value


def _answer(pipe: Any, trial: Callable[..., Any], arguments: Sequence[Any]) -> None:
    # Encoders and decoders tell of themselves at length, past Python.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        pipe.send(("returned", trial(*arguments)))
    except Exception as error:  # it travels as text
        pipe.send(("raised", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
