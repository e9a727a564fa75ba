"""Export of a trained network to one file: ONNX, torch.export or safetensors; each file is checked when written.

The exported network maps normalised float32 (B, C, T, H, W) or (B, C, H, W) with any B, prepared by the protocol, to
raw logits (B, K); that of an action detector takes boxes (N, 5) too, and gives logits (N, K). Its metadata, JSON under
"mvrec", say all that its use without mvrec needs.
"""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from mvrec.data.views.protocol import DetectionProtocol, KeyFrameProtocol, MaskProtocol
from mvrec.errors import UserError, nearest, need
from mvrec.export.detectors.writing import (
    ExportedDetector,
    Form,
    export_detector,
    export_detector_weights,
    write_decoder,
)
from mvrec.export.free_sides import (
    MULTIPLE,
    checked_sides,
    note_fixed_sides,
    note_free_sides,
    side_unit,
    with_free_sides,
)
from mvrec.export.model_card import BOXES, METADATA, card_of, check_portable, input_shape, save_weights
from mvrec.files import at_home, atomic_path
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.models.backbone import Backbone
from mvrec.ranges import Range, check_range

LARGEST_DIFFERENCE = 1e-4  # of logits up to LARGE_LOGIT; larger ones, whose last bits are coarser, in proportion
LARGE_LOGIT = 10.0
TRACED_BATCH = 2  # torch.export treats a size of 1 as a constant
CHECKED_BATCHES = (1, 3)
DEFAULT_OPSET, OPSETS = 20, range(18, 24)
ONNX_BYTES = 2 * 10**9  # the limit of protobuf

Run = Callable[..., tuple[Tensor, Sequence[Tensor]]]  # from inputs to logits, and the orders of all sorts


@dataclass(frozen=True)
class Differences:
    """Differences between the exported network's logits and the network's.

    Attributes:
        by_batch: Batch size -> largest absolute difference of a logit.
        largest_logit: The largest absolute value of the compared logits.
        unordered: Largest difference if each runtime sorts for itself; 0 without sorting.
    """

    by_batch: dict[int, float]
    largest_logit: float
    unordered: float

    @property
    def limit(self) -> float:
        """The largest permitted difference."""
        return LARGEST_DIFFERENCE * max(1.0, self.largest_logit / LARGE_LOGIT)


@dataclass(frozen=True)
class Exported:
    """An exported file and its accuracy.

    Attributes:
        path: The file.
        card: Its metadata.
        differences: Of the logits.
        runtime: The runtime that read the file and computed the logits.
    """

    path: Path
    card: dict[str, Any]
    differences: Differences
    runtime: str

    def __str__(self) -> str:
        takes, gives, differences = self.card["input"], self.card["output"], self.differences
        ends = [takes, *([self.card[BOXES]] if BOXES in self.card else []), gives]
        shapes = ["(" + ", ".join(map(str, end["shape"])) + ")" for end in ends]
        megabytes = self.path.stat().st_size / 1e6
        name = self.card["name"] or self.card["architecture"]
        sizes = " and ".join(f"{value:.1e} in batches of {size}" for size, value in differences.by_batch.items())
        if unit := takes.get(MULTIPLE):
            sides = checked_sides(self.card) or []
            pairs = zip(differences.by_batch.items(), sides, strict=False)
            sizes = " and ".join(f"{value:.1e} for {size} x {h} x {w} pixels" for (size, value), (h, w) in pairs)
            sizes += f", sides are multiples of {unit}"
        lines = [
            f"{self.path}: {name}, {megabytes:.3g} MB, "
            f"{takes['layout']} {' and boxes '.join(shapes[:-1])} to logits {shapes[-1]}",
            f"largest difference of a logit in {self.runtime}: {sizes} (limit {differences.limit:.1e}, "
            f"largest logit {differences.largest_logit:.3g})",
        ]
        if differences.unordered:
            lines.append(
                "this network sorts tokens, and the above is for one order; if torch and the file's runtime each "
                f"sort nearly equal ones themselves, logits differ by up to {differences.unordered:.1e}"
            )
        return "\n".join(lines)


def export(
    recogniser: Recogniser,
    output: str | Path,
    *,
    opset: int | None = None,
    form: Form | None = None,
    sides: tuple[int, int] | None = None,
) -> Exported | ExportedDetector:
    """Write a network in the format of the suffix, read it back, and compare the logits, or a detector's detections.

    Args:
        recogniser: The network, on the CPU.
        output: Ends in .onnx, .pt2 or .safetensors.
        opset: Version of ONNX's operators; 20 by default.
        form: Of a detector in .onnx and .pt2: "whole" up to objects, or "raw" with a decoder for numpy next to it.
        sides: Of a detector in .onnx and .pt2: (height, width) of the graph's image in pixels.

    Raises:
        UserError: The suffix is unknown, packages are missing, the network cannot be traced, the disk is full, or the
            logits differ. Then no file is written, and an earlier one stays.
    """
    output = at_home(output)
    check_request(output, source=recogniser.source, opset=opset)
    check_detector_request(recogniser, output, form=form, sides=sides)
    card = card_of(recogniser)
    if isinstance(recogniser.protocol, DetectionProtocol):
        return _export_detector(recogniser, card, output, opset=opset or DEFAULT_OPSET, form=form, sides=sides)
    write = WRITERS[output.suffix.lower()]
    try:
        with atomic_path(output) as temporary:
            runtime, run = write(recogniser, card, temporary, opset or DEFAULT_OPSET)
            differences = _differences(
                recogniser.backbone, run, input_shape(recogniser), checked_sides(card), with_boxes=BOXES in card
            )
            exported = Exported(output, card, differences, runtime)
            _check(exported)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    return exported


def _export_detector(
    recogniser: Recogniser,
    card: dict[str, Any],
    output: Path,
    *,
    opset: int,
    form: Form | None,
    sides: tuple[int, int] | None,
) -> ExportedDetector:
    try:
        with atomic_path(output) as temporary:
            if output.suffix.lower() == ".safetensors":
                return export_detector_weights(recogniser, card, temporary, output)
            values: dict[str, Any] = {"form": form or "whole", "sides": sides, "opset": opset}
            exported = export_detector(recogniser, card, temporary, output, **values)
        return write_decoder(exported) if form == "raw" else exported
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


def check_detector_request(
    recogniser: Recogniser, output: Path, *, form: Form | None, sides: tuple[int, int] | None
) -> None:
    """Raise UserError for choices of a graph of detectors where none is written."""
    flag = "form" if form is not None else "sides" if sides is not None else None
    if flag is None:
        return
    if not isinstance(recogniser.protocol, DetectionProtocol):
        raise UserError(f"--{flag} is for detectors, and {recogniser.source} is for {recogniser.outputs.task}")
    if output.suffix.lower() == ".safetensors":
        raise UserError(f"--{flag} is for .onnx and .pt2, --output is {output}")
    for side in sides or ():
        check_range("--sides", side, Range(32, 16384))


def check_request(output: Path, *, source: Path, opset: int | None = None) -> None:
    """Raise UserError for requests that can be refused before anything is loaded or computed."""
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        suffixes = ", ".join(WRITERS)
        raise UserError(f"--output must end in {suffixes}, got {str(output)!r}{nearest(suffix, WRITERS)}")
    if output.is_dir():
        raise UserError(f"--output is a folder: {output}")
    if output.resolve() == at_home(source).resolve():
        raise UserError(f"--output is the source itself: {output}")
    if opset is not None and suffix != ".onnx":
        raise UserError(f"--opset is for .onnx, --output is {output}")
    check_range("--opset", opset, Range(OPSETS[0], OPSETS[-1]))
    if suffix == ".onnx":
        need("export", "onnx", "onnxscript", "onnxruntime")


# -- formats ---------------------------------------------------------------------------------------------------------


def _safetensors(recogniser: Recogniser, card: dict[str, Any], path: Path, opset: int) -> tuple[str, Run]:
    check_portable(recogniser, card)
    save_weights(path, recogniser.backbone, card)
    again = load_recogniser(path, device="cpu")
    assert (again.protocol, again.outputs.facts()) == (recogniser.protocol, recogniser.outputs.facts())
    return f"torch {torch.__version__}", lambda *inputs: (again.backbone(*inputs), ())


def _pt2(recogniser: Recogniser, card: dict[str, Any], path: Path, opset: int) -> tuple[str, Run]:
    buffer = io.BytesIO()  # torch's writer ends the whole process on a full disk
    program = _program(recogniser, card)
    torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(card)})
    path.write_bytes(buffer.getbuffer())
    del buffer
    with path.open("rb") as file:
        again = torch.export.load(file).module()
    return f"torch {torch.__version__}", lambda *inputs: (again(*inputs), ())


def _onnx(recogniser: Recogniser, card: dict[str, Any], path: Path, opset: int) -> tuple[str, Run]:
    import onnxruntime

    from mvrec.export.onnx_file import OnnxNetwork, write_onnx

    size = sum(tensor.numel() * tensor.element_size() for tensor in recogniser.backbone.state_dict().values())
    if size > ONNX_BYTES:
        raise UserError(f"{recogniser.source}: weights of {size / 1e9:.1f} GB are more than a single .onnx can hold")
    program = _program(recogniser, card)
    write_onnx(
        program,
        path,
        opset=opset,
        input_names=[card[key]["name"] for key in ("input", BOXES) if key in card],
        output_names=[card["output"]["name"]],
        metadata={METADATA: json.dumps(card)},
    )
    return f"onnxruntime {onnxruntime.__version__} (opset {opset})", OnnxNetwork(path)


WRITERS = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}


def _program(recogniser: Recogniser, card: dict[str, Any]) -> ExportedProgram:
    """Return the network as a graph; a segmenter's takes images of many sizes if it can, which the card says."""
    if isinstance(recogniser.protocol, MaskProtocol):
        program = with_free_sides(recogniser.backbone, batch=TRACED_BATCH)
        if program is not None:
            note_free_sides(card, side_unit(recogniser.backbone))
            return program
        _, height, width = input_shape(recogniser)
        note_fixed_sides(card, (height, width))
    return _traced(recogniser)


def _traced(recogniser: Recogniser) -> ExportedProgram:
    """Return the network as a graph with a dynamic batch size."""
    example = [torch.zeros(TRACED_BATCH, *input_shape(recogniser))]
    sizes: list[Any] = [{0: Dim("batch", min=1)}]
    if isinstance(recogniser.protocol, KeyFrameProtocol):
        example.append(_boxes(example[0]))
        sizes.append(({0: Dim("boxes", min=1)},))  # of `*inputs`
    try:
        with torch.no_grad():
            return torch.export.export(recogniser.backbone, tuple(example), dynamic_shapes=tuple(sizes), strict=False)
    except Exception as error:  # a network's code may raise any error on tensors without values
        name = type(recogniser.backbone).__name__
        raise UserError(f"{recogniser.source}: torch.export cannot trace this {name}: {_first_line(error)}") from error


def _boxes(clips: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return three boxes in each clip (B, C, T, H, W), of which some reach over its border: (3 * B, 5)."""
    height, width = clips.shape[-2:]
    scale = torch.tensor([width, height, width, height])
    corners = torch.rand(3 * len(clips), 2, 2, generator=generator).sort(1).values.flatten(1) * 1.2 - 0.1
    numbers = torch.arange(len(clips)).repeat_interleave(3)[:, None].float()
    return torch.cat([numbers, corners * scale], 1)


# -- comparison ------------------------------------------------------------------------------------------------------


class _Sorted(TorchFunctionMode):
    """Makes `Tensor.sort` return the orders of another runtime, after a check that they sort."""

    def __init__(self, orders: Sequence[Tensor]) -> None:
        super().__init__()
        self.orders = list(orders)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.sort:
            return func(*args, **(kwargs or {}))
        values, order = args[0], self.orders.pop(0)
        ordered = values.gather(1, order)  # (B, N)
        off = (ordered - values.sort(1).values).abs().max() / values.abs().max()
        if not off <= LARGEST_DIFFERENCE or not torch.equal(order.sort(1).values[0], torch.arange(order.shape[1])):
            raise UserError(f"the exported network does not sort its tokens: they are off by {off.item():.1e}")
        return torch.return_types.sort((ordered, order))


@torch.inference_mode()
def _differences(
    network: Backbone,
    run: Run,
    shape: Sequence[int],
    sides: Sequence[tuple[int, int]] | None = None,
    *,
    with_boxes: bool = False,
) -> Differences:
    """Compare logits on noise, in batches of several sizes, and with free `sides` in images of several sizes.

    SG-Former sorts its tokens. The order of two nearly equal ones depends on the last bit, so it differs between
    runtimes, and so would the logits. They are therefore compared in one order, the exported network's.
    """
    generator = torch.Generator().manual_seed(0)
    differences: dict[int, float] = {}
    largest, unordered = 0.0, 0.0
    for size in CHECKED_BATCHES:
        if sides is not None:
            shape = (shape[0], *sides[len(differences)])
        x = torch.randn(size, *shape, generator=generator)
        inputs = (x, _boxes(x, generator)) if with_boxes else (x,)
        exported, orders = run(*inputs)
        with _Sorted(orders) if orders else nullcontext():
            logits = network(*inputs)
        differences[size] = _distance(exported, logits)
        largest = max(largest, logits.abs().max().item())
        if orders:
            unordered = max(unordered, _distance(exported, network(*inputs)))
    return Differences(differences, largest, unordered)


def _distance(logits: Tensor, reference: Tensor) -> float:
    return (logits.double() - reference.double()).abs().max().item()


def _check(exported: Exported) -> None:
    worst, limit = max(exported.differences.by_batch.values()), exported.differences.limit
    if not worst <= limit:  # NaN is a mismatch, too
        raise UserError(
            f"{exported.path} is not written: its logits in {exported.runtime} differ from the network's by "
            f"{worst:.1e} (limit {limit:.1e})"
        )


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
