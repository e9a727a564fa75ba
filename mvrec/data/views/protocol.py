"""Protocols: how a file becomes views for scoring, without which a published accuracy means little.

It belongs to this package because it describes the reading of data; evaluation prints it and checkpoints store it.
There is one class per kind of views. A new kind needs a subclass of `Protocol` in `protocols`, a line in `KINDS`, and a
function in `mvrec.data.loading.file_views` that reads a file under it.
"""

from collections.abc import Mapping
from typing import Any

from mvrec.data.views.protocols.base import Protocol as Protocol
from mvrec.data.views.protocols.base import normalisation_of
from mvrec.data.views.protocols.clips import ClipProtocol as ClipProtocol
from mvrec.data.views.protocols.clips import FrameOrder as FrameOrder
from mvrec.data.views.protocols.clips import Views as Views
from mvrec.data.views.protocols.images import ImageProtocol as ImageProtocol
from mvrec.data.views.protocols.key_frames import KeyFrameProtocol as KeyFrameProtocol
from mvrec.data.views.protocols.masks import NAMED_MASK_PROTOCOLS as NAMED_MASK_PROTOCOLS
from mvrec.data.views.protocols.masks import MaskProtocol as MaskProtocol
from mvrec.data.views.protocols.objects import NAMED_DETECTION_PROTOCOLS as NAMED_DETECTION_PROTOCOLS
from mvrec.data.views.protocols.objects import DetectionProtocol as DetectionProtocol

KINDS: dict[str, type[Protocol]] = {
    kind.kind: kind for kind in (ClipProtocol, ImageProtocol, MaskProtocol, KeyFrameProtocol, DetectionProtocol)
}


def kind_of(values: Mapping[str, Any]) -> type[Protocol]:
    """Return the class of a protocol, from the values of `as_dict` or a data module's arguments.

    Values of earlier versions, and arguments, do not name the kind: clips have an entry `clip`, masks one `protocol`,
    and key frames both. Objects have `protocol` and no `size`, because their views have several.

    Raises:
        ValueError: This version does not know the kind.
    """
    of_entries: dict[tuple[bool, bool], type[Protocol]] = {
        (True, False): ClipProtocol,
        (False, True): MaskProtocol if "size" in values else DetectionProtocol,
        (True, True): KeyFrameProtocol,
    }
    by_entries = of_entries.get(("clip" in values, "protocol" in values), ImageProtocol)
    name = values.get("kind", by_entries.kind)
    if name not in KINDS:
        raise ValueError(f"this version of mvrec knows no protocol of kind {name!r}, only {', '.join(KINDS)}")
    return KINDS[name]


def protocol_of(values: Mapping[str, Any]) -> Protocol:
    """Return the protocol from the values of `as_dict`.

    Raises:
        ValueError: This version does not know the protocol.
    """
    kind = kind_of(values)
    try:
        plain = {name: value for name, value in values.items() if name != "kind"}
        return kind.of_values({**plain, "normalisation": normalisation_of(values["normalisation"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"this protocol was not written by this version of mvrec: {error}") from None
