"""ONNX files: written from a traced network, run with onnxruntime. Needs the extra `export`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset18 as op
from torch import Tensor
from torch.export import ExportedProgram


def write_onnx(
    program: ExportedProgram,
    path: Path,
    *,
    opset: int,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: dict[str, str],
) -> None:
    """Write a traced network with its weights into one ONNX file.

    Args:
        program: The network.
        path: The file.
        opset: Version of ONNX's operators.
        input_names: Names of the inputs in order.
        output_names: Names of the outputs in order.
        metadata: The file's metadata.
    """
    translated = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=list(input_names),
        output_names=list(output_names),
        opset_version=opset,
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
    )
    assert translated is not None
    translated.model.metadata_props.update(metadata)
    translated.model.producer_name = "mvrec"
    translated.save(path, external_data=False)


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Express torch's stable sort in ONNX, whose TopK lists equal values in the order of their indices."""
    length = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))  # type: ignore[type-var]
    return op.TopK(self, length, axis=dim, largest=int(descending), sorted=1)


class OnnxNetwork:
    """An ONNX file in onnxruntime, on the CPU.

    A call returns logits, and the orders of sorted tokens, one (B, N) per sort; see `exporting`.
    """

    def __init__(self, path: Path) -> None:
        self.session = _session(os.fspath(path))
        graph = onnx.load(path)
        self._orders = [node.output[1] for node in graph.graph.node if node.op_type == "TopK"]
        self._sorting: onnxruntime.InferenceSession | None = None
        if self._orders:  # a second copy of the network, split where it sorts
            kind = onnx.TensorProto.INT64
            graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in self._orders)
            self._sorting = _session(graph.SerializeToString())

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map input (B, C, [T,] H, W), and boxes (N, 5), to logits (B, K) or (N, K) and the orders."""
        feed = {entry.name: x.numpy() for entry, x in zip(self.session.get_inputs(), inputs, strict=True)}
        (logits,) = self.session.run(None, feed)
        orders: Sequence[np.ndarray] = self._sorting.run(self._orders, feed) if self._sorting is not None else []
        return torch.from_numpy(logits), [torch.from_numpy(order) for order in orders]


def run_onnx(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function from the inputs of an ONNX file to all its outputs, in onnxruntime on the CPU."""
    session = _session(os.fspath(path))

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, feed)))

    return run


def _session(source: str | bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
