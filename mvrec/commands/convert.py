"""`mvrec convert`: any checkpoint of a network in the zoo as a safetensors file that says what it is.

A segmenter is also written for mmsegmentation, and a detector for the library whose style it has.
"""

from pathlib import Path
from typing import Any

import torch

from mvrec.errors import UserError
from mvrec.export.model_card import model_card, origin_of, save_weights
from mvrec.files import at_home, atomic_path, json_text, write_atomically
from mvrec.messages import CommandParser
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import LoadReport
from mvrec.models.checkpoints.detector_files import as_detector_file
from mvrec.models.checkpoints.files import StoredWeights, read_weights
from mvrec.models.checkpoints.segmenters import as_mmseg
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.models.zoo import name_of, with_weights
from mvrec.published import PUBLISHED
from mvrec.tasks.outputs import CLASSIFICATION, task_of
from mvrec.tasks.segmentation.colours import colours


def main(arguments: list[str]) -> None:
    """Write a checkpoint of any known layout as safetensors, with a model card inside, and print the load report.

    If OUT ends in .pth, a segmenter is written with the names of mmsegmentation, and a detector with those of the
    library whose style it has: mmdetection, detectron2 or torchvision.
    """
    parser = CommandParser(prog="mvrec convert", description=main.__doc__)
    parser.add_argument("source", type=at_home, metavar="SRC", help="a checkpoint: torch or safetensors, any layout")
    parser.add_argument(
        "-o", "--output", type=at_home, required=True, metavar="OUT", help="the .safetensors or .pth to write"
    )
    parser.add_argument("--model", metavar="NAME", help="the network, where the weights leave it open (mvrec models)")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="pixels that the position tables are for, where they are not square and the file does not say",
    )
    options = parser.parse_args(arguments)
    output = options.output
    if output.suffix not in (".safetensors", ".pth"):
        raise UserError(f"--output must end in .safetensors, or in .pth for another library, got {output}")
    if output.resolve() == options.source.resolve():
        raise UserError(f"--output is the source itself: {output}")
    stored = read_weights(options.source)
    name = options.model or name_of(stored)
    knobs = {"image_size": tuple(options.image_size)} if options.image_size else {}
    model, report = with_weights(name, stored, knobs)
    if output.suffix == ".pth":
        library = _write_for_library(output, model, stored)
        print(f"{report}\n{name}, {_count(model):,} parameters, with the names of {library}: {output}")  # noqa: T201
        return
    card = _card(name, model, stored, report)
    with atomic_path(output) as temporary:
        save_weights(temporary, model, card)
    write_atomically(output.with_suffix(".json"), json_text(card, indent=2) + "\n")
    print(f"{report}\n{name}, {card['parameters']:,} parameters: {output} and {output.with_suffix('.json')}")  # noqa: T201


def _card(name: str, model: Backbone, stored: StoredWeights, report: LoadReport) -> dict[str, Any]:
    """Return the card, with the published facts of the weights and their place in the file."""
    published = PUBLISHED[name]
    origin = origin_of(Path(stored.source)) | {"layout": report.layout, "entry": report.entry}
    card = model_card(model, name, stored.details, origin)
    if task_of(stored.details) != CLASSIFICATION:
        return card
    return card | {"published_top1": {"value": published.top1, "dataset": published.data, "verified_here": False}}


def _write_for_library(path: Path, model: Backbone, stored: StoredWeights) -> str:
    """Write a segmenter or detector with the names of another library, which is returned.

    Raises:
        UserError: The network is for another task.
    """
    head, names = model.head, stored.details.get("class_names")
    if not isinstance(head, SegmentationHead | DetectionHead) or not names:
        raise UserError(
            f"{stored.source}: only segmenters and detectors are written for other libraries, and its task is "
            f"{task_of(stored.details)}: let --output end in .safetensors"
        )
    facts = {"head": head.arguments, "protocol": stored.details.get("protocol")}
    if isinstance(head, DetectionHead):
        library = head.arguments["style"]
        facts["class_ids"] = stored.details.get("class_ids")
        content = as_detector_file(model.state_dict(), library, class_names=names, facts=facts)
    else:
        library, palette = "mmsegmentation", colours(len(names)).tolist()
        content = as_mmseg(model.state_dict(), class_names=names, palette=palette, facts=facts)
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    return library


def _count(model: Backbone) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
