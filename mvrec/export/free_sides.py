"""Tracing of networks with maps, whose exported file takes images of many sizes."""

import logging
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from mvrec.models.backbone import Backbone

LARGEST_SIDE = 16384  # pixels; torch needs a bound
LEAST_UNIT = 32  # pixels, the stride of the coarsest map of nearly all networks
LEAST_CELLS = 2  # of the coarsest map per side: torch treats a size of 1 as a constant
TRACED_CELLS = (3, 5)  # different and odd, so that no equality of theirs becomes a condition
CHECKED_CELLS = ((2, 2), (4, 3), (2, 7), (7, 10), (16, 5))  # rows and columns of the coarsest map
MULTIPLE = "sides_multiple_of"  # key in a card's `input`

log = logging.getLogger("mvrec")


def side_unit(network: Backbone) -> int:
    """Return the pixels of which both sides of an image are a multiple: a cell of the coarsest map, at least 32.

    Attention pools keys to about the coarsest map's grid, so networks with fewer maps need it too.
    """
    return max(LEAST_UNIT, *(info.stride for info in network.feature_info))


def with_free_sides(network: Backbone, *, batch: int) -> ExportedProgram | None:
    """Trace a network for any batch size and any sides that are multiples of `side_unit`.

    Sizes at which a network takes another way than when it was traced would give wrong maps in other runtimes, which
    check nothing. So the graph's own conditions are tried at several sizes.

    Args:
        network: In evaluation mode.
        batch: Batch size of the traced input.

    Returns:
        The graph; `None` if the network cannot be traced so.
    """
    unit = side_unit(network)
    rows, columns = (Dim(name, min=LEAST_CELLS, max=LARGEST_SIDE // unit) for name in ("rows", "columns"))
    height, width = (cells * unit for cells in TRACED_CELLS)
    example = torch.zeros(batch, network.input_shape[0], height, width)
    sides: dict[int, Any] = {0: Dim("batch", min=1), 2: unit * rows, 3: unit * columns}
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=(sides,), strict=False)
            graph = program.module()
            for cells in CHECKED_CELLS:
                graph(torch.zeros(1, network.input_shape[0], *(count * unit for count in cells)))
    except Exception as error:  # a network's code may raise any error on tensors without values
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        log.info("%s takes another way at other sizes (%s): its size is fixed", type(network).__name__, reason)
        return None
    return program


def note_free_sides(card: dict[str, Any], unit: int) -> None:
    """Note in a card that sides of the input are free but for being multiples of a unit."""
    card["input"][MULTIPLE] = unit


def note_fixed_sides(card: dict[str, Any], sides: tuple[int, int]) -> None:
    """Note in a card that input and output have one size (height, width) in pixels."""
    for end in ("input", "output"):
        card[end]["shape"][2:] = sides


def checked_sides(card: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Return sizes (height, width) that the exported file takes; `None` if it has one size."""
    unit = card["input"].get(MULTIPLE)
    return None if unit is None else [(rows * unit, columns * unit) for rows, columns in CHECKED_CELLS[1:]]
