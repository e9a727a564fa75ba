"""`mvrec compare`: which of several runs is better, and how sure that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home, write_atomically, write_csv
from mvrec.messages import CommandParser

if TYPE_CHECKING:
    from mvrec.compare.scored import ScoredRun
    from mvrec.compare.tables import Table


def main(arguments: list[str]) -> None:
    """Compare runs that were scored on the same files under the same protocol; others are refused.

    Two runs get a paired test: McNemar's exact test, and the bootstrap's 95 % interval of their difference. More runs
    get a table, the best first, with the difference of each to the best. A folder of runs, such as that of
    `mvrec sweep`, stands for all runs in it. Runs count by their test (`mvrec test RUN`); if none was tested, by their
    last validation.
    """
    parser = CommandParser(prog="mvrec compare", description=main.__doc__)
    parser.add_argument("runs", type=at_home, metavar="RUN", nargs="+", help="run directories, or folders of them")
    parser.add_argument("--csv", type=at_home, metavar="FILE", help="the table as CSV")
    text = "a page: classes and files that changed with pictures, curves, configurations"
    parser.add_argument("--html", type=at_home, metavar="FILE", help=text)
    parser.add_argument("--root", type=at_home, metavar="DIR", help="where the data are now, if they have moved")
    parser.add_argument("--val", action="store_true", help="compare last validations, also of tested runs")
    options = parser.parse_args(arguments)
    for name, path in (("--csv", options.csv), ("--html", options.html)):
        if path is not None and path.is_dir():
            raise UserError(f"{name}={path} is a folder: name the file in it")
    if options.root is not None and not options.root.is_dir():
        raise UserError(f"--root={options.root}: there is no such directory")
    from mvrec.compare.tables import table_file, tables

    folders, is_strict = run_folders(options.runs)
    runs, notes = read_runs(folders, is_validation=options.val, is_strict=is_strict)
    parts = tables(runs, is_strict=is_strict)
    lines = [*comparison_lines(parts), *notes]
    try:
        if options.csv is not None:
            write_csv(options.csv, table_file(parts))
            lines.append(str(options.csv))
        if options.html is not None:
            from mvrec.commands.report import pictures_of
            from mvrec.compare.page import comparison_page

            pictures = pictures_of(runs[0].report, options.root)
            write_atomically(options.html, comparison_page(runs, parts, pictures, notes=notes))
            lines.append(str(options.html))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    print("\n".join(lines))  # noqa: T201


def run_folders(places: Sequence[Path]) -> tuple[list[Path], bool]:
    """Return run directories, and whether each is named; a folder that is none stands for those in it.

    Raises:
        UserError: A place is missing or has no run in it; fewer than two runs in all.
    """
    folders: list[Path] = []
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: there is no such run directory{nearest_path(place, folders_only=True)}")
        inside = [place] if is_run(place) else sorted(folder for folder in place.iterdir() if is_run(folder))
        if not inside:
            deeper = [folder.parent for folder in sorted(place.glob("*/*")) if is_run(folder)]
            hint = f": did you mean {deeper[0]}?" if deeper else ""
            raise UserError(f"{place} is no run directory and has none in it{hint}")
        folders += inside
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if len(folders) < 2:
        raise UserError(f"only one run is given, {folders[0]}: name those to compare it with")
    return folders, all(map(is_run, places))


def is_run(folder: Path) -> bool:
    """Return whether a folder has the files of a run."""
    return any((folder / name).is_file() for name in ("metrics.json", "validation.json", "environment.json"))


def read_runs(
    folders: Sequence[Path], *, is_validation: bool, is_strict: bool = True
) -> "tuple[list[ScoredRun], list[str]]":
    """Read runs by their test, or by their last validation if that is asked for or none was tested.

    Args:
        folders: The run directories.
        is_validation: Whether tested runs count by their validation too.
        is_strict: Whether all runs must have such a score.

    Returns:
        The runs, and a line for each that was left out.

    Raises:
        UserError: A run has no such score; without `is_strict`, none has.
    """
    from mvrec.compare.scored import ScoredRun

    tested = [(folder / "metrics.json").is_file() for folder in folders]
    stage = "validation" if is_validation or not any(tested) else "test"
    runs, notes = [], []
    for folder, name in zip(folders, _names(folders), strict=True):
        try:
            run = ScoredRun(folder, name, stage)
            _ = run.measure  # whether its files can be read
            runs.append(run)
        except UserError as error:
            if is_strict:
                raise
            notes.append(f"left out: {error}")
    if not runs:
        raise UserError(f"none of {len(folders)} runs can be compared, such as {notes[0].removeprefix('left out: ')}")
    return runs, notes


def comparison_lines(parts: "Sequence[Table]") -> list[str]:
    """Return the comparison of two runs, or the tables over more of them."""
    from mvrec.compare.result import compare, tested
    from mvrec.compare.text import pair_lines

    if len(parts) == 1 and len(parts[0].runs) == 2:
        return pair_lines(tested(compare(*parts[0].unranked)))
    return [line for part in parts for line in (*part.lines, "")][:-1]


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = next(n for n in range(1, 1 + max(map(len, parts))) if len({part[-n:] for part in parts}) == len(parts))
    return [str(Path(*part[-length:])) for part in parts]
