"""`mvrec data`: a look at the data before training."""

from importlib import import_module

from mvrec.errors import UserError

PARTS = {
    "show": "what the network gets, after sampling, crop, augmentation and mixing",
    "audit": "faults of the files: unreadable ones, copies across splits, doubtful labels",
}
HELP = "usage: mvrec data PART ...\n\n" + "".join(f"  {name:<6} {text}\n" for name, text in PARTS.items())


def main(arguments: list[str]) -> None:
    """Run a part of the command.

    Raises:
        UserError: There is no such part.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{HELP}\n`mvrec data PART --help` tells more.")  # noqa: T201
        return
    part, *rest = arguments
    if part not in PARTS:
        raise UserError(f"mvrec data {part}: there is no such part; known are {', '.join(PARTS)}")
    import_module(f"mvrec.looking.{part}").main(rest)
