"""`mvrec convert`: any checkpoint of a network in the zoo as a safetensors file that says what it is."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mvrec import __version__
from mvrec.errors import UserError
from mvrec.files import atomic_path, write_atomically
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import LoadReport
from mvrec.models.checkpoints.files import StoredWeights, read_weights
from mvrec.models.zoo import name_of, with_weights
from mvrec.published import PUBLISHED


def main(arguments: list[str]) -> None:
    """Write a checkpoint of any known layout as safetensors, with a model card beside it, and print the load report."""
    parser = argparse.ArgumentParser(prog="mvrec convert", description=main.__doc__)
    parser.add_argument("source", type=Path, metavar="SRC", help="a checkpoint: torch or safetensors, any layout")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the .safetensors to write")
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
    if output.suffix != ".safetensors":
        raise UserError(f"--output must end in .safetensors, got {output}")
    if output.resolve() == options.source.expanduser().resolve():
        raise UserError(f"--output is the source itself: {output}")
    stored = read_weights(options.source)
    name = options.model or name_of(stored)
    knobs = {"image_size": tuple(options.image_size)} if options.image_size else {}
    model, report = with_weights(name, stored, knobs)
    card = model_card(name, model, stored, report)
    tensors = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(output) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "mvrec": json.dumps(card)})
    write_atomically(output.with_suffix(".json"), json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    print(f"{report}\n{name}, {card['parameters']:,} parameters: {output} and {output.with_suffix('.json')}")  # noqa: T201


def model_card(name: str, model: Backbone, stored: StoredWeights, report: LoadReport) -> dict[str, Any]:
    """What a file of weights says of itself: which network, of what size and classes, and where it came from."""
    published = PUBLISHED[name]
    is_video = len(model.input_shape) == 4
    return {
        "library_name": "mvrec",
        "mvrec_version": __version__,
        "pipeline_tag": "video-classification" if is_video else "image-classification",
        "name": name,
        "num_classes": model.num_classes,
        "class_names": stored.details.get("class_names"),
        "in_channels": model.input_shape[0],
        "num_frames": model.input_shape[1] if is_video else None,
        "image_size": list(model.input_shape[-2:]),
        "position_grid": list(model.position_grid) if model.position_grid else None,
        "protocol": stored.details.get("protocol"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "paper": published.source,
        "published_top1": {"value": published.top1, "dataset": published.data, "verified_here": False},
        "converted_from": {
            "file": Path(stored.source).name,
            "sha256": _sha256(Path(stored.source).expanduser()),
            "layout": report.layout,
            "entry": report.entry,
        },
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
