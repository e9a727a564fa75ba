"""The root of a data set."""

from pathlib import Path

from mvrec.errors import UserError, nearest


def check_root(root: Path) -> None:
    """Raise `UserError` if the root of a data set is not a folder."""
    if not root.is_dir():
        fault = "is a file, a directory is needed" if root.exists() else "does not exist"
        others = [str(path) for path in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(f"data.root: {str(root)!r} {fault}{'' if root.exists() else nearest(str(root), others)}")
