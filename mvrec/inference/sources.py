"""What a command is to read: files, folders, lists and patterns as one list of files."""

import csv
import glob
from collections.abc import Sequence
from pathlib import Path

from mvrec.data.kinds import Kind
from mvrec.errors import UserError

LISTS = (".txt", ".csv")


def find_sources(sources: Sequence[str], *, kind: Kind) -> list[Path]:
    """The files that sources mean, each once, in the order of the sources.

    Args:
        sources: Files, whatever their names end with; folders, which are searched through; lists, `.txt` with a path
            per line or `.csv` with the paths in its column `path` or else the first, relative to the list; patterns.
        kind: What is looked for in folders.

    Raises:
        UserError: A source means no file.
    """
    files: dict[Path, None] = {}
    for source in sources:
        found = _of_one(source, kind)
        if not found:
            raise UserError(f"there is no {kind.noun} in {source}")
        files |= dict.fromkeys(found)
    return list(files)


def _of_one(source: str, kind: Kind) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in kind.extensions and p.is_file())
    if path.suffix.lower() in LISTS and path.is_file():
        return [path.parent / Path(entry).expanduser() for entry in _entries(path)]
    if path.exists():
        return [path]
    if glob.has_magic(source):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob wants to know where to begin
        return sorted(match for match in map(Path, matches) if match.is_file())
    raise UserError(f"there is no file or folder {source!r}")


def _entries(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    if path.suffix.lower() == ".txt":
        return [line.strip() for line in lines if line.strip()]
    rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if any(row)]
    column = rows[0][1].index("path") if rows and "path" in rows[0][1] else None
    entries = []
    for number, row in rows if column is None else rows[1:]:
        entry = row[column or 0].strip() if len(row) > (column or 0) else ""
        if not entry:
            raise UserError(f"{path}:{number}: there is no path in this row")
        entries.append(entry)
    return entries
