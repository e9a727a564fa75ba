"""The results of the doctor's checks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "broken"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        group: Its group: "packages", "decoders", ...
        name: The checked part.
        status: "ok"; "note" for optional parts; "warning" for problems to come; "broken" for required parts that do not
            work.
        text: The finding.
        fix: The command or step that fixes it; empty if all is well.
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
    """Return the checks as lines of text, group by group."""
    rows = []
    width = max((len(check.name) for check in checks), default=0)
    for group in dict.fromkeys(check.group for check in checks):
        rows.append(group)
        for check in checks:
            if check.group != group:
                continue
            rows.append(f"  {check.status:<7}  {check.name:<{width}}  {check.text}".rstrip())
            if check.fix:
                rows.append(f"  {'':<7}  {'':<{width}}  fix: {check.fix}")
    return rows
