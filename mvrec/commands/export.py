"""`mvrec export`: a trained network as one file for other runtimes."""

from typing import get_args

from mvrec.export.detectors.writing import Form
from mvrec.export.exporting import OPSETS, check_request, export
from mvrec.files import at_home
from mvrec.inference.hub_files import local_path
from mvrec.inference.recogniser import load_recogniser
from mvrec.messages import CommandParser
from mvrec.models.checkpoints.files import each_file_once
from mvrec.runs.weights_origin import checkpoint_of


def main(arguments: list[str]) -> None:
    """Write a trained network as ONNX, torch.export or safetensors, with its classes and preprocessing in the file.

    The file is read back and its logits are compared with the network's; one that differs is not kept.

    A detector becomes a graph for one size of image. With --form whole it gives boxes, scores, classes and masks; with
    --form raw it ends before overlapping boxes are left out, which the Python file written next to it does with numpy.
    """
    parser = CommandParser(prog="mvrec export", description=main.__doc__)
    parser.add_argument("ckpt", metavar="CKPT", help="a run directory, a checkpoint, weights, or hf://user/name")
    parser.add_argument(
        "-o", "--output", type=at_home, required=True, metavar="OUT", help="ends in .onnx, .pt2 or .safetensors"
    )
    parser.add_argument("--classes", metavar="FILE", help="names in label order, where the weights have none")
    parser.add_argument(
        "--opset", type=int, metavar="N", help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]}"
    )
    parser.add_argument("--form", choices=get_args(Form), help="detectors: default whole")
    text = "detectors: sides of the graph's image in pixels (default: a wide image by protocol)"
    parser.add_argument("--sides", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=text)
    options = parser.parse_args(arguments)
    output = options.output
    source = checkpoint_of(local_path(options.ckpt), where="CKPT")
    check_request(output, source=source, opset=options.opset)
    with each_file_once():
        recogniser = load_recogniser(source, classes=options.classes, device="cpu", where="CKPT")
        sides = None if options.sides is None else (options.sides[0], options.sides[1])
        print(export(recogniser, output, opset=options.opset, form=options.form, sides=sides))  # noqa: T201
