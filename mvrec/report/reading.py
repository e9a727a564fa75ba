"""Reading a run directory for its report, with nothing but the directory itself."""

from pathlib import Path

from mvrec.errors import UserError
from mvrec.files import sha256
from mvrec.report.sections import RunResults, TaskReport, chosen_on, read_groups, read_object, read_unreadable
from mvrec.tasks.outputs import outputs_of
from mvrec.tasks.score_text import split_text

KNOWN_FILES = (
    "config.yaml",
    "config_test.yaml",
    "environment.json",
    "data.json",
    "parameter_groups.json",
    "metrics.csv",
    "metrics.json",
    "predictions.csv",
)


def read_run(run_dir: Path, *, is_whole: bool = True) -> TaskReport:
    """Read a run directory by the reader of its task; skip damaged files with a note.

    Args:
        run_dir: The run directory.
        is_whole: Whether results of files are read, and checkpoints compared with the tested one; else only scores.

    Raises:
        UserError: The directory is missing or has no run, or its task is foreign code.
    """
    if not run_dir.is_dir():
        hint = "a run directory, not a file in it" if run_dir.exists() else "there is no such directory"
        raise UserError(f"{run_dir}: {hint}; mvrec report takes the directory that mvrec fit or test wrote to")
    if not any((run_dir / name).is_file() for name in KNOWN_FILES):
        raise UserError(f"{run_dir} is not a run directory: it has none of {', '.join(KNOWN_FILES)}")
    results = RunResults(run_dir)
    for name in ("config.yaml", "config_test.yaml"):
        text = results.read(name, lambda path: path.read_text(encoding="utf-8", errors="replace"))
        if text is not None:
            results.configs[name] = text
    results.environment = results.read("environment.json", read_object) or {}
    results.data = results.read("data.json", read_object) or {}
    results.parameter_groups = results.read("parameter_groups.json", read_groups) or []
    results.score = results.read("metrics.json", read_object) or {}
    results.validation = results.read("validation.json", read_object) or {}
    results.notes += [str(remark) for remark in results.validation.get("remarks") or ()]
    results.unreadable = results.read("unreadable.jsonl", read_unreadable) or []
    task = results.score if results.score.get("outputs") else results.environment
    report = outputs_of(task, source=str(run_dir)).report(results)
    if is_whole:
        report.read_files()
        _check_checkpoint(results)
    _check_extent(results)
    return report


def _check_checkpoint(results: RunResults) -> None:
    """Note that the score is of another checkpoint than the present one in the run directory."""
    digest, recorded = results.score.get("checkpoint_sha256"), results.score.get("checkpoint")
    if not digest or not recorded:
        return
    path = results.run_dir / "checkpoints" / Path(str(recorded)).name
    if not path.is_file():
        return
    if sha256(path) != digest:
        results.notes.append(
            f"the score is of another {path.name} than the one in checkpoints/ now: mvrec test --ckpt_path {path}"
        )


def _check_extent(results: RunResults) -> None:
    """Note that the score is of a part of a split, or of the files by which the checkpoint was chosen."""
    score, noun = results.score, results.noun
    if score.get("partial"):
        results.notes.append(
            f"only a part of the test: {score.get('expected')} of {score.get('of')} {noun}; the whole: mvrec test "
            f"{results.run_dir}"
        )
    if score.get("missing_folds"):
        results.notes.append(
            f"not all folds are here: without {', '.join(score['missing_folds'])} the score covers a part of the {noun}"
        )
    text = split_text(str(score.get("split") or "test"), chosen_on=chosen_on(results))
    if text and chosen_on(results):
        results.notes.append(f"the score is {text}: expect less on new {noun}")
