"""`mvrec compare`: which of several runs is better, and how sure that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home, write_atomically, write_csv
from mvrec.messages import CommandParser

if TYPE_CHECKING:
    from mvrec.compare.scored import ScoredRun


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
    from mvrec.compare.page import comparison_page

    runs = read_runs(run_folders(options.runs), is_validation=options.val)
    lines = comparison_lines(runs)
    try:
        if options.csv is not None:
            write_csv(options.csv, ranking_of(runs))
            lines.append(str(options.csv))
        if options.html is not None:
            from mvrec.commands.report import pictures_of

            write_atomically(options.html, comparison_page(runs, pictures_of(runs[0].report, options.root)))
            lines.append(str(options.html))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    print("\n".join(lines))  # noqa: T201


def run_folders(places: Sequence[Path]) -> list[Path]:
    """Return run directories; a folder that is none stands for those in it.

    Raises:
        UserError: A place is missing or has no run in it; fewer than two runs in all.
    """
    folders: list[Path] = []
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: there is no such run directory{nearest_path(place, folders_only=True)}")
        inside = [place] if is_run(place) else sorted(folder for folder in place.iterdir() if is_run(folder))
        if not inside:
            raise UserError(f"{place} is no run directory and has none in it")
        folders += inside
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if len(folders) < 2:
        raise UserError(f"only one run is given, {folders[0]}: name those to compare it with")
    return folders


def is_run(folder: Path) -> bool:
    """Return whether a folder has the files of a run."""
    return any((folder / name).is_file() for name in ("metrics.json", "validation.json", "environment.json"))


def read_runs(folders: Sequence[Path], *, is_validation: bool) -> "list[ScoredRun]":
    """Read runs by their test, or by their last validation if that is asked for or none was tested."""
    from mvrec.compare.scored import ScoredRun

    names = _names(folders)
    tested = [(folder / "metrics.json").is_file() for folder in folders]
    stage = "validation" if is_validation or not any(tested) else "test"
    return [ScoredRun(folder, name, stage) for folder, name in zip(folders, names, strict=True)]


def comparison_lines(runs: "Sequence[ScoredRun]") -> list[str]:
    """Return the comparison of two runs, or the table over more of them."""
    from mvrec.compare.result import compare, tested
    from mvrec.compare.text import aligned, pair_lines

    return pair_lines(tested(compare(*runs))) if len(runs) == 2 else aligned(ranking_of(runs))


def ranking_of(runs: "Sequence[ScoredRun]") -> list[list[str]]:
    """Return the table over runs; see `ranking`."""
    from mvrec.compare.text import ranking

    return ranking(runs)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = next(n for n in range(1, 1 + max(map(len, parts))) if len({part[-n:] for part in parts}) == len(parts))
    return [str(Path(*part[-length:])) for part in parts]
