"""What a check of this machine says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

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
        """Return plain values."""
        return asdict(self)


def lines(checks: Sequence[Check]) -> list[str]:
    """Return the checks for people, group by group."""
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
