"""`mvrec recipes`: the configurations that come with mvrec."""

from mvrec.errors import UserError, nearest
from mvrec.recipes import OVERLAYS, recipes, summary

HELP = """\
usage: mvrec recipes [show NAME]

List the recipes that come with mvrec. `mvrec recipes show NAME > my.yaml` writes one to a file.
A recipe trains by its name: mvrec fit --config NAME --data.root FOLDER
"""


def main(arguments: list[str]) -> None:
    """List the recipes, or print one."""
    paths = recipes()
    match arguments:
        case []:
            print(listing())  # noqa: T201
        case ["-h" | "--help", *_]:
            print(HELP, end="")  # noqa: T201
        case ["show", name] if (recipe := paths.get(name.removesuffix(".yaml"))) is not None:
            print(recipe.read_text(encoding="utf-8"), end="")  # noqa: T201
        case ["show", name]:
            raise UserError(f"unknown recipe {name!r}{nearest(name, paths)} (mvrec recipes lists them)")
        case ["show", *_]:
            raise UserError("mvrec recipes show takes one name (mvrec recipes lists them)")
        case [name, *_]:
            hint = nearest(name, ["show"]) or f"; did you mean 'show {name}'?" * (name in paths)
            raise UserError(f"unknown argument {name!r}{hint} (mvrec recipes --help tells more)")


def listing() -> str:
    """Return the names of all recipes, one per line, with what each is."""
    paths = recipes()
    width = max(map(len, paths))
    lines = {name: f"  {name:{width}}  {summary(path)}" for name, path in paths.items()}
    return "\n".join(
        [
            "recipes: mvrec fit --config NAME --data.root FOLDER",
            *(line for name, line in lines.items() if not name.startswith(OVERLAYS)),
            "\noverlays, after a recipe: mvrec fit --config NAME --config overlays/NAME",
            *(line for name, line in lines.items() if name.startswith(OVERLAYS)),
            "\n`mvrec recipes show NAME > my.yaml` writes one to a file.",
        ]
    )
