"""The score of a run in its report, with its context."""

import shlex

from mvrec.report.markup import Html, facts, folded, join, name_of, table, tag
from mvrec.report.sections import RunResults, TaskReport, chosen_on, mapping, number
from mvrec.tasks.score_text import split_text


def score_section(report: TaskReport) -> Html:
    """Return the score with its protocol and counts; of a run without one, how to get it."""
    results = report.results
    if not report.was_tested:
        return _not_tested(results)
    score = results.score
    counted = number(score.get("expected" if score.get("failed_are_wrong", True) else "scored"))
    metrics = {name: float(value) for name, value in mapping(score.get("metrics")).items() if number(value) is not None}
    cards = [
        _card(report, name, value, int(counted or 0)) for name, value in metrics.items() if report.in_headline(name)
    ]
    others = [
        (report.metric_title(name), report.metric_text(name, value))
        for name, value in metrics.items()
        if not report.in_headline(name)
    ]
    checkpoint = score.get("checkpoint")
    digest = score.get("checkpoint_sha256")
    return join(
        [
            tag("div", *cards, class_="cards"),
            folded(f"{len(others)} more figures", table(("figure", "value"), others, numeric={1})) if others else None,
            facts(
                [
                    ("Counts", _counts(report)),
                    ("Split", _split(results)),
                    ("Protocol", score.get("protocol_text")),
                    ("Checkpoint", tag("code", checkpoint) if checkpoint else None),
                    ("SHA-256", tag("code", digest) if digest else None),
                ]
            ),
            _folds(report),
        ]
    )


def _folds(report: TaskReport) -> Html:
    """Return the score of each run of a cross-validation."""
    folds = report.results.score.get("folds") or []
    if not folds:
        return Html("")
    rows = [
        (name_of(fold["run"]), fold.get("fold") or "", fold["files"], report.metric_text("top1", fold["top1"]))
        for fold in folds
    ]
    header = ("run", "fold", report.results.noun, report.metric_title("top1"))
    return join([tag("h3", f"The {len(rows)} runs"), table(header, rows, numeric={2, 3})])


def _card(report: TaskReport, name: str, value: float, counted: int) -> Html:
    chance = number(mapping(report.results.score.get("chance")).get(name))
    guess = None if chance in (None, 1) else tag("small", f"chance {report.metric_text(name, chance)}")
    return tag(
        "div",
        tag("small", report.metric_title(name)),
        tag("b", report.metric_text(name, value)),
        guess,
        tag("small", report.metric_note(name, value, counted)),
        class_="card",
    )


def _counts(report: TaskReport) -> str | None:
    results = report.results
    scored, expected = number(results.score.get("scored")), number(results.score.get("expected"))
    if scored is None or expected is None:
        return None
    failed = int(number(results.score.get("failed")) or 0)
    wrong = report.failed_samples()
    if not results.score.get("failed_are_wrong", True):
        wrong = "are left out of the score"
    not_finite = int(number(results.score.get("not_finite")) or 0)
    could_not = f"{failed - not_finite} could not be read" + (f" and {wrong}" if failed - not_finite else "")
    if not_finite:
        could_not += f", {not_finite} gave outputs that are not finite and {wrong}"
    return f"{int(scored)} of {int(expected)} {results.noun} scored, {could_not}"


def _split(results: RunResults) -> str | None:
    split = results.score.get("split")
    return None if split is None else f"{split} {split_text(str(split), chosen_on=chosen_on(results))}".strip()


def _not_tested(results: RunResults) -> Html:
    path = results.checkpoint
    if path is None:
        return tag("p", "This run was not tested, and it has no checkpoint to test yet.")
    command = f"mvrec test --ckpt_path {_quoted(str(path))}"
    again = f"mvrec report {_quoted(str(results.run_dir))}"
    return join([tag("p", "This run was not tested. To test it and render this report again:"), _code(command, again)])


def _code(*lines: str) -> Html:
    return tag("pre", "\n".join(lines))


def _quoted(text: str) -> str:
    return shlex.quote(text)
