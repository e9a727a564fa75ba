"""`mvrec weights`: published weights as a table, and fetching one of them."""

import dataclasses
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

from mvrec.errors import UserError, nearest
from mvrec.messages import CommandParser
from mvrec.published import IMAGE, PUBLISHED
from mvrec.weights.cache import place_of
from mvrec.weights.fetching import Progress, fetch
from mvrec.weights.table import FILES, UNPUBLISHED, WeightsFile, files_like, published_file

HEADER = ("name", "data", "top-1", "MB", "layout", "fetched by")
log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """List the published weights of every network, or fetch one: `mvrec weights get NAME`."""
    if arguments[:1] == ["get"]:
        _get(arguments[1:])
        return
    parser = CommandParser(prog="mvrec weights", description=main.__doc__)
    parser.add_argument(
        "pattern", nargs="?", help="a file, a network, or names such as 'mvit_v2_*': all that is known of each file"
    )
    parser.add_argument("--json", action="store_true", help="for programs: all that is known")
    options = parser.parse_args(arguments)
    files, unpublished = files_like(options.pattern or "*")
    if options.json:
        print(json.dumps([_facts(file) for file in files], indent=2))  # noqa: T201
    elif options.pattern is None:
        print("\n".join(_table(files)))  # noqa: T201
    else:
        blocks = ["\n".join(_block(file)) for file in files]
        blocks += [f"{name}\n  not published: {UNPUBLISHED[name]}" for name in unpublished]
        print("\n\n".join(blocks))  # noqa: T201


def _get(arguments: list[str]) -> None:
    """Fetch one file of published weights into the cache, check it, and print how to use it."""
    parser = CommandParser(prog="mvrec weights get", description=_get.__doc__)
    parser.add_argument("name", metavar="NAME", help="of a file, or of a network for its first file (mvrec weights)")
    name = parser.parse_args(arguments).name
    file = published_file(name)
    if file is None:
        if name in UNPUBLISHED:
            raise UserError(f"no weights of {name} are published ({UNPUBLISHED[name]}): train it, see mvrec recipes")
        raise UserError(
            f"no weights are named {name!r}{nearest(name, [*FILES, *PUBLISHED])} (mvrec weights lists them)"
        )
    record = fetch(file, progress=_progress(file))
    checked = {"SHA-256": "as published", "length": "as served; no sum is published", None: "no sum is published"}
    print(  # noqa: T201
        f"{record['path']}: {record['bytes'] / 1e6:.1f} MB, SHA-256 {record['sha256']} ({checked[record['checked']]})\n"
        f"licence: {file.licence}; source: {file.page}\n"
        f"use it: {_use(file)}"
    )


def _use(file: WeightsFile) -> str:
    root = "my_images" if PUBLISHED[file.network].data == IMAGE else "my_videos"
    return f"mvrec fit --data.root {root} --model.weights {file.name}"


def _progress(file: WeightsFile) -> Progress:
    """Return a bar on a terminal, else a line at every tenth of the file."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(desc=file.name, unit="B", unit_scale=True, leave=False)

        def move(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)
            if received == total:
                bar.close()

        return move
    tenths, begin = 0, time.monotonic()

    def tell(received: int, total: int | None) -> None:
        nonlocal tenths
        if not total or 10 * received // total <= tenths:
            return
        tenths = 10 * received // total
        seconds = time.monotonic() - begin
        log.info("%s: %.0f of %.0f MB after %.0f s", file.name, received / 1e6, total / 1e6, seconds)

    return tell


def _table(files: Sequence[WeightsFile]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [HEADER]
    for network in PUBLISHED:
        rows += [_row(file) for file in files if file.network == network]
        if network in UNPUBLISHED:
            rows.append((network, PUBLISHED[network].data, "", "", "", "not published"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    columns = shutil.get_terminal_size((120, 24)).columns
    for row in rows:
        cells = [
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if columns < sum(widths) + 2 * len(widths):
            del cells[HEADER.index("layout")]
        yield "  ".join(cells).rstrip()
    yield ""
    yield "top-1 in percent as published; MB where the publisher says it. A network's name means its first file."
    yield "mvrec weights NAME      page, address, licence and checksum"
    yield "mvrec weights get NAME  fetch it; nothing else fetches weights"


def _row(file: WeightsFile) -> tuple[str, ...]:
    return (
        file.name,
        file.data,
        "-" if file.top1 is None else f"{file.top1:.1f}",
        "-" if file.megabytes is None else f"{file.megabytes:.0f}",
        file.layout,
        "here" if place_of(file).is_file() else "get" if file.address else "hand",
    )


def _block(file: WeightsFile) -> Iterator[str]:
    facts = {
        "data": f"{file.data}, top-1 {file.top1:g} %" if file.top1 is not None else file.data,
        "page": file.page,
        "address": file.address or f"none: {file.shelf}",
        "layout": file.layout,
        "size": f"{file.megabytes:.1f} MB" if file.megabytes is not None else "not published",
        "SHA-256": f"{file.sha256}{'...' if len(file.sha256) < 64 else ''}" if file.sha256 else "not published",
        "licence": file.licence,
        "note": file.note,
        "here": str(place_of(file)) if place_of(file).is_file() else "no",
        "fetch": f"mvrec weights get {file.name}" if file.address else f"save it as {place_of(file)}",
    }
    yield file.name
    yield from (f"  {name:<8} {text}" for name, text in facts.items() if text)


def _facts(file: WeightsFile) -> dict[str, object]:
    place = place_of(file)
    return {**dataclasses.asdict(file), "network": file.network, "path": str(place), "here": place.is_file()}
