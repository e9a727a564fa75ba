"""A comparison as text and as a table."""

from mvrec.compare.outcomes import interval_of
from mvrec.compare.result import ClassChange, Comparison, class_changes, configuration_changes
from mvrec.compare.scored import MEASURES, SEED, ScoredRun

MOST_CLASSES = 5
Cells = list[list[str]]


def pair_lines(result: Comparison) -> list[str]:
    """Return the comparison of two runs as lines for a terminal."""
    first, second = result.first, result.second
    noun = first.noun
    lines = [f"{first.counted} {noun}, the same in both runs; {first.scored_on}"]
    lines += [f"  {run.name}: {_own_score(run)}" for run in (first, second)]
    unit = unit_of(first)
    if result.interval is None:
        lines.append(f"  difference of {first.metric}: {difference_text(result.difference, unit)}")
    else:
        text = (
            f"{value_text(result.difference, unit, signed=True)}, 95 % interval {interval_text(result.interval, unit)}"
        )
        per = "" if result.num_groups is None else f", by {result.num_groups} whole files of which these are parts"
        measured = f"of {first.metric}" if first.measure == "score" else f"({MEASURES[first.measure or 'right']})"
        lines.append(f"  difference {measured}: {text}{per}")
    if result.test is not None:
        test = result.test
        uneven = f"only {first.name} right {test.only_first}, only {second.name} right {test.only_second}"
        note = "" if result.num_groups is None else " (as if parts of one file were independent)"
        lines.append(f"  {uneven}; McNemar's exact test: p = {test.p:.3g}{note}")
    elif result.p is not None:
        lines.append(f"  random swaps of the two runs' {noun} differ as much with p = {result.p:.3g}")
    lines += _class_lines(first, second)
    changes = configuration_changes((first, second))
    lines += [f"  {key}: {' -> '.join(values)}" for key, values in changes]
    if [key for key, _ in changes] == [SEED]:
        lines.append("  they differ by seed alone: such a difference comes from training again")
    return [*lines, result.verdict]


def _own_score(run: ScoredRun) -> str:
    interval = interval_of(run)
    extent = f" (95 % interval {interval_text(interval, unit_of(run))})" if interval else ""
    return f"{run.metric} {run.report.metric_text(run.metric, run.metrics[run.metric])}{extent}"


def _class_lines(first: ScoredRun, second: ScoredRun) -> list[str]:
    changed = [row for row in class_changes(first, second) if row.first != row.second]
    lines = [f"  {row.name}: {_change_text(row)}" for row in changed[:MOST_CLASSES]]
    if len(changed) > MOST_CLASSES:
        lines.append(f"  {len(changed) - MOST_CLASSES} more classes changed (--html FILE shows all)")
    return lines


def _change_text(row: ClassChange) -> str:
    if row.files is None:
        return f"{value_text(row.first, 'right')} -> {value_text(row.second, 'right')}"
    return f"{row.first:.0f} -> {row.second:.0f} of {row.files} right"


def difference_text(difference: float, unit: str | None, *, signed: bool = True) -> str:
    """Return a difference of two runs in the unit of their score."""
    return (
        value_text(difference, unit, signed=signed) if signed or unit != "right" else f"{100 * difference:.2f} points"
    )


def unit_of(run: ScoredRun) -> str | None:
    """Return "right" for shares, which readers get in percent."""
    is_share = run.measure == "right" or run.report.metric_text(run.metric, 0.5).endswith("%")
    return "right" if is_share and run.measure != "error" else None


def value_text(value: float, measure: str | None, *, signed: bool = False) -> str:
    """Return a value of files for readers: shares in percent, differences of shares in points."""
    sign = "+" if signed else ""
    if measure == "right":
        return f"{100 * value:{sign}.2f} {'points' if signed else '%'}"
    return f"{value:{sign}.4f}"


def interval_text(interval: tuple[float, float], measure: str | None) -> str:
    """Return both ends of an interval."""
    factor, digits = (100, 2) if measure == "right" else (1, 4)
    return f"{factor * interval[0]:.{digits}f} to {factor * interval[1]:.{digits}f}"
