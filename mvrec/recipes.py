"""The recipes of configs/ by their names. A wheel has them inside of the package."""

from pathlib import Path

from mvrec.errors import UserError, nearest
from mvrec.files import at_home

_PACKAGE = Path(__file__).parent
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of a wheel, of the source tree
OVERLAYS = "overlays/"


def recipes() -> dict[str, Path]:
    """Return the files of all recipes by name, such as `mvit_b_16x4` or `overlays/cpu`; overlays come last."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), _PACKAGE)
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(paths.items(), key=lambda item: (item[0].startswith(OVERLAYS), item[0])))


def summary(recipe: Path) -> str:
    """Return what a recipe is: its first line, a comment, up to the source."""
    with recipe.open(encoding="utf-8") as file:
        return file.readline().partition(": ")[0].lstrip("# ").rstrip("\n.")


def find_config(name: str) -> str:
    """Find a config: a file of that name, with or without `.yaml`, else the recipe of that name.

    Args:
        name: What stands behind `--config`.

    Returns:
        A path that exists. The path of a file stays as it was written.

    Raises:
        UserError: Neither a file nor a recipe, with the nearest name.
    """
    for candidate in (name, f"{name}.yaml"):
        if at_home(candidate).is_file():
            return candidate
    paths = recipes()
    if (recipe := paths.get(name.removesuffix(".yaml"))) is not None:
        return str(recipe)
    path = at_home(name)
    if path.is_dir():
        raise UserError(f"config file {name!r} is a directory")
    siblings = [str(sibling) for sibling in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    hint = nearest(name, siblings) or nearest(name.removesuffix(".yaml").removeprefix("configs/"), paths)
    raise UserError(f"config file {name!r} does not exist{hint} (`mvrec recipes` lists the recipes)")
