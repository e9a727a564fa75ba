"""`mvrec data show`: one page with the clips or images as the network gets them."""

from pathlib import Path

from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home, check_target, write_atomically
from mvrec.messages import CommandParser
from mvrec.ranges import check_range


def main(arguments: list[str]) -> None:
    """Write a page with clips or images as the network gets them, for training and validation side by side.

    Those of training come from the first steps of the first epoch, after sampling, crop, augmentation and mixing, with
    the parameters of each. The page needs no network; its clips play in any browser.
    """
    parser = CommandParser(
        prog="mvrec data show",
        description=main.__doc__,
        usage="mvrec data show [CONFIG|RUN|FOLDER] [--per-class N] [--seed S] [--out FILE] ...",
        epilog="All other arguments are those of `mvrec fit`: --data.root FOLDER, --data.size 64, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--per-class", type=int, default=4, metavar="N", help="views of each class (default: 4)")
    parser.add_argument("--seed", type=int, metavar="S", help="of order and augmentation (default: the run's)")
    parser.add_argument("--out", type=at_home, default=Path("data.html"), metavar="FILE", help="default: data.html")
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    options, rest = parser.parse_known_args(arguments if named is None else arguments[1:])
    check_range("--per-class", options.per_class)
    check_target(options.out, flag="--out")
    if named is not None:
        rest = [*source_flags(at_home(named)), *rest]
    if not rest:
        raise UserError("mvrec data show: name a configuration, a run directory, or the files with --data.root FOLDER")
    from mvrec.cli.lightning import instantiate
    from mvrec.looking.page import data_page
    from mvrec.looking.views import first_views

    cli = instantiate(["fit", *rest], tells_plan=False)
    data, task = cli.datamodule, cli.model
    if options.seed is not None:
        data.seed = options.seed
    data.prepare_data()
    data.setup("fit")
    views, notes = first_views(data, getattr(task, "mixing", None), per_class=options.per_class)
    try:
        write_atomically(options.out, data_page(data, views, notes))
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror}") from None
    counts = {split: sum(view.split == split for view in views) for split in ("train", "val")}
    print(f"{options.out}: {counts['train']} views of training, {counts['val']} of validation")  # noqa: T201


def source_flags(place: Path) -> list[str]:
    """Return the flags of `mvrec fit` that name what is at a place: a configuration, a run, or a data set.

    Raises:
        UserError: There is nothing.
    """
    if place.is_dir():
        is_run = (place / "config.yaml").is_file()
        return ["--config", str(place / "config.yaml")] if is_run else ["--data.root", str(place)]
    if not place.exists() and not place.suffix:
        from mvrec.recipes import recipes

        if str(place) in recipes():
            return ["--config", str(place)]
    if not place.is_file():
        raise UserError(f"{place}: there is no such configuration, run or folder{nearest_path(place)}")
    return ["--data.root" if place.suffix == ".json" else "--config", str(place)]
