"""The root of a data set."""

from pathlib import Path

from mvrec.errors import UserError, nearest_path


def check_root(root: Path) -> None:
    """Raise `UserError` if the root of a data set is not a folder, or an empty one."""
    if not root.exists():
        raise UserError(f"data.root: {str(root)!r} does not exist{nearest_path(root, folders_only=True)}")
    if not root.is_dir():
        raise UserError(f"data.root: {str(root)!r} is a file, a directory is needed")
    if not any(root.iterdir()):
        raise UserError(
            f"data.root: {str(root)!r} is empty: put files into it as <class name>/<file>, or name another folder"
        )
