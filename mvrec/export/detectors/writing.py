"""Export of a detector to ONNX or torch.export, whole or with raw outputs; each file is checked when written."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from mvrec.errors import UserError
from mvrec.export.detectors import decode as decoding
from mvrec.export.detectors.graphs import RawDetector, WholeDetector
from mvrec.export.model_card import METADATA, check_portable, save_weights
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.coding import LARGEST_LOG_RATIO
from mvrec.models.heads.detection.head import MULTIPLE
from mvrec.models.heads.detection.results import Detections, ImageSize

Form = Literal["whole", "raw"]
Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]

COMPARED = 300  # pairs of box and class, the best ones, of which detections are compared
LEAST_EQUAL = 0.95  # of the detections: runtimes order nearly equal scores differently
LARGEST_SCORE_DIFFERENCE, LARGEST_BOX_DIFFERENCE = 1e-3, 0.5  # the latter in pixels
CHECKED_SIDE = 256  # pixels of the image by which weights are compared
UNLIMITED_LOG = -100.0  # of a side: nothing is left


@dataclass(frozen=True)
class ExportedDetector:
    """An exported detector and its accuracy.

    Attributes:
        path: The file.
        card: Its metadata.
        runtime: The runtime that read the file.
        equal: How many detections of the network are those of the file, with its class, score and box.
        compared: How many detections were compared.
        score_difference: The largest difference of a score.
        box_difference: The largest difference of a side of a box, in pixels.
        decoder: The file that decodes raw outputs; `None` for a whole graph.
    """

    path: Path
    card: dict[str, Any]
    runtime: str
    equal: int
    compared: int
    score_difference: float
    box_difference: float
    decoder: Path | None

    def __str__(self) -> str:
        name = self.card["name"] or self.card["architecture"]
        text = f"{self.path}: {name}, {self.path.stat().st_size / 1e6:.3g} MB"
        if isinstance(self.card["outputs"], list):  # weights alone name the class of their task there
            height, width = self.card["input"]["shape"][2:]
            gives = ", ".join(f"{each['name']} ({', '.join(map(str, each['shape']))})" for each in self.card["outputs"])
            text += f", an image of {height} x {width} pixels and its size to {gives}"
        lines = [
            text,
            f"{self.equal} of {self.compared} detections are the network's in {self.runtime}, largest difference of a "
            f"score {self.score_difference:.1e}, of a box {self.box_difference:.1e} pixels",
        ]
        if self.decoder is not None:
            lines.append(f"{self.decoder}: from these outputs to objects, with numpy only")
            if self.card["has_masks"]:
                lines.append("raw outputs have no masks: --form whole has them")
        return "\n".join(lines)


def export_detector(
    recogniser: Recogniser,
    card: dict[str, Any],
    path: Path,
    output: Path,
    *,
    form: Form,
    sides: tuple[int, int] | None,
    opset: int,
) -> ExportedDetector:
    """Write a detector, read it back, and compare the detections.

    Args:
        recogniser: The detector, on the CPU.
        card: Its card, which gets the facts of the graph.
        path: Where to write.
        output: The final name of the file; raw outputs get a decoder next to it.
        form: "whole" up to objects, or "raw" with a decoder for numpy.
        sides: (height, width) of the graph's image in pixels; by default those of a wide image by protocol.
        opset: Version of ONNX's operators.

    Raises:
        UserError: The network cannot be traced, or detections differ.
    """
    shape = sides or tuple(recogniser.protocol.view_shape[1:])
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in shape)
    graph = (WholeDetector if form == "whole" else RawDetector)(recogniser.backbone, (height, width)).eval()
    _note(card, graph, form)
    program = _traced(graph, recogniser)
    runtime, run = _WRITERS[output.suffix.lower()](program, card, path, opset)
    exported = ExportedDetector(output, card, runtime, *_compared(recogniser, graph, run, form), None)
    if exported.equal < LEAST_EQUAL * exported.compared:
        count = f"{exported.equal} of {exported.compared}"
        raise UserError(f"{output} is not written: {count} detections are the network's in {runtime}")
    return exported


def export_detector_weights(recogniser: Recogniser, card: dict[str, Any], path: Path, output: Path) -> ExportedDetector:
    """Write a detector's weights as safetensors, read them back, and compare the detections.

    Raises:
        UserError: The network is outside mvrec, so that weights cannot describe it.
    """
    check_portable(recogniser, card)
    save_weights(path, recogniser.backbone, card)
    again = load_recogniser(path, device="cpu")
    assert (again.protocol, again.outputs.facts()) == (recogniser.protocol, recogniser.outputs.facts())
    graphs = [RawDetector(each.backbone, (CHECKED_SIDE, CHECKED_SIDE)) for each in (recogniser, again)]
    values = _compared(recogniser, graphs[0], graphs[1], "raw")
    return ExportedDetector(output, card, f"torch {torch.__version__}", *values, None)


def write_decoder(exported: ExportedDetector) -> ExportedDetector:
    """Write the decoder of raw outputs next to the file.

    Raises:
        OSError: It cannot be written.
    """
    path = exported.path.with_name(f"{exported.path.stem}_decode.py")
    shutil.copyfile(str(decoding.__file__), path)
    return ExportedDetector(**{**vars(exported), "decoder": path})


def _note(card: dict[str, Any], graph: RawDetector, form: Form) -> None:
    """Note in a card what the graph takes and gives."""
    arguments, num_classes = graph.arguments, graph.network.num_classes
    card["input"] |= {"name": "image", "shape": [1, graph.network.input_shape[0], *graph.sides]}
    card["input"] |= {"padding": "0 at the bottom and right, after normalisation"}
    values = ["height", "width in pixels of the part that is image", "scale along x", "y: its sides over the file's"]
    card["size"] = {"name": "size", "dtype": "float32", "shape": [4], "values": values}
    card["has_masks"] = bool(graph.head.has_masks)
    rows = arguments["max_detections"]
    if form == "whole":
        ends = {"boxes": [rows, 4], "scores": [rows], "labels": [rows]}
        ends |= {"masks": [rows, 28, 28]} if graph.head.has_masks else {}
    else:
        rows = sum(graph.levels)
        shared = graph.is_retinanet or "cascade" in arguments["detector"]
        ends = {"boxes": [rows, 4], "scores": [rows, num_classes], "deltas": [rows, 1 if shared else num_classes, 4]}
    kinds = {"labels": "int64"}
    card["outputs"] = [{"name": name, "dtype": kinds.get(name, "float32"), "shape": end} for name, end in ends.items()]
    card["decode"] = {
        "levels": graph.levels,
        "candidates": graph.candidates,
        "weights": graph.weights,
        "narrowest": graph.narrowest,
        "clips_last": graph.clips_last,
        "logarithms": [-LARGEST_LOG_RATIO if graph.style == "mmdetection" else UNLIMITED_LOG, LARGEST_LOG_RATIO],
        **{name: arguments[name] for name in ("score_threshold", "nms_threshold", "max_detections")},
    }


def _traced(graph: RawDetector, recogniser: Recogniser) -> ExportedProgram:
    image = torch.zeros(1, graph.network.input_shape[0], *graph.sides)
    try:
        with torch.no_grad():
            return torch.export.export(graph, (image, _size(*graph.sides)), strict=False)
    except Exception as error:  # a network's code may raise any error on tensors without values
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        name = type(graph.network).__name__
        raise UserError(f"{recogniser.source}: torch.export cannot trace this {name}: {reason}") from error


def _pt2(program: ExportedProgram, card: dict[str, Any], path: Path, opset: int) -> tuple[str, Run]:
    buffer = io.BytesIO()  # torch's writer ends the whole process on a full disk
    torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(card)})
    path.write_bytes(buffer.getbuffer())
    with path.open("rb") as file:
        again = torch.export.load(file).module()
    return f"torch {torch.__version__}", again


def _onnx(program: ExportedProgram, card: dict[str, Any], path: Path, opset: int) -> tuple[str, Run]:
    import onnxruntime

    from mvrec.export.onnx_file import run_onnx, write_onnx

    write_onnx(
        program,
        path,
        opset=opset,
        input_names=["image", "size"],
        output_names=[each["name"] for each in card["outputs"]],
        metadata={METADATA: json.dumps(card)},
    )
    return f"onnxruntime {onnxruntime.__version__} (opset {opset})", run_onnx(path)


_WRITERS = {".onnx": _onnx, ".pt2": _pt2}


# -- comparison ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _compared(recogniser: Recogniser, graph: RawDetector, run: Run, form: Form) -> tuple[int, int, float, float]:
    """Return how many detections are equal, how many there are, and the largest differences of scores and boxes.

    The image is noise with patches of colour, most of the graph's size, and the least score so low that there are
    detections, whatever the network has learned.
    """
    height, width = graph.sides
    size = ImageSize(height - height // 8, width - width // 16, 0.5, 0.5)
    image = F.pad(_scene(3, size.height, size.width), (0, width - size.width, 0, height - size.height))
    threshold = _least_of_best(RawDetector.forward(graph, image, _size(*size))[1], COMPARED)
    network: Any = recogniser.backbone
    with least_score(network, threshold):
        expected: Detections = network(image, [size])[0]
    boxes, scores, labels = _objects(run(image, _size(*size)), size, graph_rule(graph, threshold), form)
    equal, score_difference, box_difference = 0, 0.0, 0.0
    for box, score, label in zip(expected.boxes, expected.scores, expected.labels, strict=True):
        distances = torch.where(labels == label, (boxes - box).abs().amax(1), torch.inf)
        nearest = torch.where(distances <= LARGEST_BOX_DIFFERENCE, (scores - score).abs(), torch.inf)
        if len(nearest) and nearest.min() <= LARGEST_SCORE_DIFFERENCE:
            place = int(nearest.argmin())
            equal += 1
            score_difference = max(score_difference, float(nearest[place]))
            box_difference = max(box_difference, float(distances[place]))
    return equal, len(expected.scores), score_difference, box_difference


def graph_rule(graph: RawDetector, threshold: float) -> dict[str, Any]:
    """Return the rule for decoding the raw outputs of a graph, with a least score of its own."""
    card: dict[str, Any] = {"input": {}}
    _note(card, graph, "raw")
    return {**card["decode"], "score_threshold": threshold}


def _objects(
    outputs: tuple[Tensor, ...], size: ImageSize, rule: dict[str, Any], form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of a file's outputs."""
    if form == "raw":
        raw_boxes, raw_scores, deltas = (each.numpy() for each in outputs)
        arrays = decoding.decode(raw_boxes, raw_scores, deltas, tuple(size), rule)
        boxes, scores, labels = map(torch.from_numpy, arrays)
        return boxes, scores, labels
    boxes, scores, labels = outputs[:3]
    keep = scores > rule["score_threshold"]
    return boxes[keep], scores[keep], labels[keep]


@contextmanager
def least_score(network: Backbone, threshold: float) -> Iterator[None]:
    """Let a detector answer with all objects above a score in the block."""
    detector: Any = network.head.detector
    heads = getattr(detector, "roi_heads", None)
    if heads is None:
        earlier, detector.score_threshold = detector.score_threshold, threshold
    else:
        earlier, heads.choice = heads.choice, heads.choice._replace(score_threshold=threshold)
    try:
        yield
    finally:
        if heads is None:
            detector.score_threshold = earlier
        else:
            heads.choice = earlier


def _least_of_best(scores: Tensor, count: int) -> float:
    values = scores.flatten()
    return max(float(values.topk(min(count, len(values))).values[-1]), 0.0)


def _size(height: int, width: int, scale_x: float = 1.0, scale_y: float = 1.0) -> Tensor:
    return torch.tensor([height, width, scale_x, scale_y], dtype=torch.float32)


def _scene(channels: int, height: int, width: int) -> Tensor:
    """Return a normalised image (1, C, H, W) of soft patches of colour with noise."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, channels, height // 24 + 2, width // 24 + 2, generator=generator)
    noise = torch.randn(1, channels, height, width, generator=generator)
    return F.interpolate(patches, (height, width), mode="bilinear") + 0.2 * noise
