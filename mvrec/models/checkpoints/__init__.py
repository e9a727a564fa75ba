"""Loading weights of every layout into our networks, with a report about each tensor."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone, MapsHead
from mvrec.models.baselines.own import OwnNetwork
from mvrec.models.baselines.wrapper import Baseline
from mvrec.models.checkpoints.detectors import CLASS_ROWS, is_detector
from mvrec.models.checkpoints.files import Source, StoredWeights, read_weights
from mvrec.models.checkpoints.fit import BOOKKEEPING, Fitted, fit
from mvrec.models.checkpoints.layouts import Recognised, foreign_head, ignored_names, recognise
from mvrec.models.checkpoints.report import LoadReport, Resized, listed
from mvrec.models.checkpoints.segmenters import (
    CLASSES,
    CLASSIFIER,
    head_kind,
    is_segmenter,
    num_classes,
)
from mvrec.models.cloformer import CloFormer
from mvrec.models.framewise import Framewise
from mvrec.models.mvit.mvit import MViT
from mvrec.models.sgformer import SGFormer
from mvrec.models.shunted import Shunted

__all__ = ["LoadReport", "Resized", "load_weights", "start_from"]

log = logging.getLogger("mvrec")

FAMILIES: dict[str, type[Backbone]] = {"shunted": Shunted, "sgformer": SGFormer, "cloformer": CloFormer, "mvit": MViT}


def load_weights(model: Backbone, source: Source, *, allow_partial: bool = False) -> LoadReport:
    """Copy the weights of a file or state dict into a network, whichever layout they are in.

    Position tables of another size are interpolated and image weights inflated to video (or summed back), as in
    SlowFast; the report lists them. After an error the network is unchanged.

    Args:
        model: The network.
        source: A path (torch or safetensors) or a state dict.
        allow_partial: Load what fits and leave the rest at its initial values, instead of refusing.

    Raises:
        UserError: The file cannot be read, holds another architecture, or lacks a part of the network, unless
            `allow_partial`. A head of another class count is such a part; a missing head is not.
    """
    stored = read_weights(source)
    if isinstance(model, Framewise):
        model = model.backbone
    return load_recognised(model, stored, named_as_in(model, stored), allow_partial=allow_partial)


def start_from(model: Backbone, source: Source) -> dict[str, Any]:
    """Load weights to start a training from; a head of another class count is skipped.

    Args:
        model: The network.
        source: A path (torch or safetensors) or a state dict.

    Returns:
        The file's own facts, such as `class_names`; empty for a foreign file.

    Raises:
        UserError: See `load_weights`.
    """
    stored = read_weights(source)
    inner = model.backbone if isinstance(model, Framewise) else model
    named = named_as_in(inner, stored)
    classes = num_classes(named.tensors)
    if head_kind(named.tensors, stored.details) != CLASSES and not isinstance(inner.head, MapsHead):
        inner.reset_head(0)  # nobody may take the untrained one for the file's
    elif classes and isinstance(inner, OwnNetwork) and not inner.num_classes:
        inner.reset_head(classes)  # its network does not say for how many classes it is
    new_head = classes is not None and classes != inner.num_classes
    load_recognised(inner, stored, named, new_head=new_head)
    return stored.details


def recognised(stored: StoredWeights) -> Recognised:
    """Return the layout of stored weights; see `recognise`."""
    return recognise(stored.tensors, source=stored.source)


def named_as_in(model: Backbone, stored: StoredWeights) -> Recognised:
    """Return stored weights under the network's names."""
    return recognised(stored) if isinstance(model, tuple(FAMILIES.values())) else by_its_names(model, stored)


def by_its_names(model: Backbone, stored: StoredWeights) -> Recognised:
    """Return weights under the names of another library or of a user's network.

    The wrapper's prefix is the one that makes most names match.
    """
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in stored.tensors.items()}
    first = next(iter(plain)).split(".")
    prefixes = ["".join(f"{part}." for part in first[:depth]) for depth in range(len(first))]
    names = model.state_dict().keys()

    def unwrapped(prefix: str) -> dict[str, Tensor]:
        inside = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
        if isinstance(model, Baseline) and not any(name.startswith("net.") for name in inside):
            return model.renamed(inside)
        return inside

    prefix = max(prefixes, key=lambda prefix: len(unwrapped(prefix).keys() & names))
    head, parts = foreign_head(plain, prefix)
    tensors = unwrapped(prefix) | parts
    layout = model.name.split("/")[0] if isinstance(model, Baseline) else type(model).__name__
    return Recognised(layout, None, tensors, len(head), ignored_names(plain, prefix, head))


def load_recognised(
    model: Backbone, stored: StoredWeights, named: Recognised, *, allow_partial: bool = False, new_head: bool = False
) -> LoadReport:
    """Load weights that were read before; see `load_weights`.

    Args:
        model: The network.
        stored: The weights under the file's names.
        named: The weights under our names.
        allow_partial: See `load_weights`.
        new_head: Whether the caller needs a head of its own class count, whatever the file's.
    """
    if named.family is not None and not isinstance(model, FAMILIES[named.family]):
        raise UserError(
            f"{stored.source}: holds a {FAMILIES[named.family].__name__} ({named.layout} layout), "
            f"the network is a {type(model).__name__}"
        )
    kind = model.head.kind if isinstance(model.head, MapsHead) else CLASSES
    other_kind = head_kind(named.tensors, stored.details) != kind
    tensors = dict(named.tensors)
    if new_head or other_kind or model.num_classes == 0:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    if other_kind:
        named = replace(named, ignored=(*named.ignored, *(name for name in named.tensors if name not in tensors)))
    _check_finite(tensors, stored.source)
    fitted = fit(tensors, model, details=stored.details, source=stored.source)
    report = _report(stored, named, fitted)
    if not allow_partial:
        _check_complete(report, fitted, named, model)
    elif all(BOOKKEEPING.search(name) or name.startswith("head.") for name in fitted.tensors):
        raise UserError(f"{stored.source}: nothing in it fits this {type(model).__name__}")
    model.load_state_dict({**model.state_dict(), **fitted.tensors})
    log.log(logging.INFO if report.complete else logging.WARNING, "%s", report)
    return report


def _report(stored: StoredWeights, named: Recognised, fitted: Fitted) -> LoadReport:
    layout = stored.details.get("layout", "mvrec") if stored.details else named.layout
    return LoadReport(
        source=stored.source,
        layout=layout,
        entry=stored.entry,
        loaded=tuple(fitted.tensors),
        renamed=named.renamed,
        reshaped=tuple(fitted.reshaped),
        interpolated=tuple(fitted.interpolated),
        inflated=tuple(fitted.inflated),
        missing=(*fitted.excused, *fitted.missing),
        mismatched=tuple(fitted.mismatched),
        unexpected=tuple(fitted.unexpected),
        ignored=named.ignored,
    )


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f"{source}: {len(broken)} tensors hold NaN or infinity ({listed(broken)}): a diverged run?")


def _check_complete(report: LoadReport, fitted: Fitted, named: Recognised, model: Backbone) -> None:
    heads = [change for change in fitted.mismatched if change.name.startswith("head.")]
    rows = CLASS_ROWS if is_detector(named.tensors) else CLASSIFIER if is_segmenter(named.tensors) else None
    is_plain = rows is None or all(rows.search(change.name) for change in heads)
    if heads and is_plain and len(heads) == len(fitted.mismatched):
        classes = num_classes(named.tensors) if rows is CLASS_ROWS else heads[0].stored[0]
        raise UserError(
            f"{report.source}: its head knows {classes} classes, the network {model.num_classes}: build the network "
            f"with num_classes={classes}, or pass allow_partial=True to keep the network's own untrained head"
        )
    missing = [name for name in fitted.missing if not name.startswith("head.")]
    problems = [
        f"{len(items)} {fault} ({listed(items)})"
        for fault, items in (
            ("tensors are missing", missing),
            ("have another shape, file -> network", fitted.mismatched),
            ("have no place in the network", fitted.unexpected),
        )
        if items
    ]
    if problems:
        raise UserError(
            f"{report.source}: does not fit this {type(model).__name__} ({named.layout} layout): "
            f"{', '.join(problems)}; create_model(name, weights=...) builds the network that a file holds, "
            "allow_partial=True loads what fits"
        )
