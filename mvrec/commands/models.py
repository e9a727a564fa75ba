"""`mvrec models`: the zoo as a table."""

from mvrec.errors import UserError, nearest
from mvrec.messages import CommandParser
from mvrec.published import PUBLISHED, Published, list_models

HEADER = ("name", "input", "parameters", "GMACs", "top-1", "trained on", "source", "loads, besides mvrec's own")


def main(arguments: list[str]) -> None:
    """List the networks: size, cost, published accuracy, paper, and whose checkpoints load."""
    parser = CommandParser(prog="mvrec models", description=main.__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, such as 'mvit_v2_*'")
    pattern = parser.parse_args(arguments).pattern
    names = list_models(pattern)
    if not names:
        raise UserError(f"no model matches {pattern!r}{nearest(pattern, PUBLISHED)}")
    rows = [HEADER, *(_row(PUBLISHED[name]) for name in names)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in (2, 3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())  # noqa: T201
    print(  # noqa: T201
        "\ntop-1 in percent as published, with the protocol of the release; GMACs per image or clip of this input.\n"
        "Baselines: timm/NAME, torchvision/NAME, pytorchvideo/NAME."
    )


def _row(network: Published) -> tuple[str, ...]:
    return (
        network.name,
        "x".join(map(str, network.input)),
        f"{network.parameters:,}",
        f"{network.gmacs:.1f}" if network.gmacs >= 1000 else f"{network.gmacs:.2f}",
        f"{network.top1:.1f}",
        network.data,
        network.source,
        ", ".join(network.layouts),
    )
