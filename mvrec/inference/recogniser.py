"""A trained network with all that its use needs: protocol, pixels, the task's predictions. No Lightning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from mvrec.class_paths import reason
from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.index import Sample
from mvrec.data.loading.file_views import file_views
from mvrec.data.video.video import Decoder
from mvrec.data.views.geometry import Sides
from mvrec.data.views.presets import preset
from mvrec.data.views.protocol import (
    NAMED_DETECTION_PROTOCOLS,
    NAMED_MASK_PROTOCOLS,
    DetectionProtocol,
    KeyFrameProtocol,
    MaskProtocol,
    Protocol,
    kind_of,
    protocol_of,
)
from mvrec.data.views.protocols.masks import windows_as_large_as
from mvrec.data.views.transforms import views_of
from mvrec.errors import UserError, nearest
from mvrec.inference.hub_files import local_path
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import load_weights
from mvrec.models.checkpoints.files import each_file_once
from mvrec.models.fast.accelerate import accelerate
from mvrec.models.heads.detection.head import padded
from mvrec.models.zoo import create_model
from mvrec.published import input_settings
from mvrec.runs.weights_origin import StartingPoint, checkpoint_of, starting_point
from mvrec.tasks.outputs import CLASSIFICATION, TaskOutputs, need_task, outputs_of


@dataclass(frozen=True)
class Recogniser:
    """A network with what its use needs, built by `load_recogniser`; `mvrec.load` gives one that takes any source.

    Attributes:
        backbone: The network, in evaluation mode, on its device.
        outputs: Turns its outputs into the task's predictions.
        protocol: The protocol by which a file becomes views.
        source: The file of the network.
    """

    backbone: Backbone
    outputs: TaskOutputs
    protocol: Protocol
    source: Path

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order; none if the task has no classes."""
        return self.outputs.class_names

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.backbone.parameters()).device

    @property
    def is_video(self) -> bool:
        """Whether the network takes clips (B, C, T, H, W); else images (B, C, H, W)."""
        return self.protocol.is_video

    def views(
        self,
        path: Path | ArchiveMember,
        *,
        decoder: Decoder = "auto",
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Tensor:
        """Return the views of a file under the protocol, as `mvrec test` scores them.

        Args:
            path: A video or an image, to match the network.
            decoder: Name of the decoder of videos.
            start_seconds: Start of the relevant part of a video.
            end_seconds: End of the relevant part.

        Returns:
            uint8 (V, C, T, H, W), images (1, C, H, W).

        Raises:
            DecodeError: The file cannot be read.
        """
        return file_views(Sample(path, 0, start_seconds, end_seconds), self.protocol, decoder=decoder)

    def under(self, protocol: Protocol) -> "Recogniser":
        """Return the network under another protocol."""
        return replace(self, protocol=protocol)

    def under_name(self, name: str, *, where: str = "--protocol") -> "Recogniser":
        """Return the network under a protocol by name; sizes and normalisation stay those of the network.

        Raises:
            UserError: There is no such protocol, or it is for files of another kind.
        """
        protocol = self.protocol
        if isinstance(protocol, KeyFrameProtocol):
            raise UserError(f"{where}: {self.source} detects actions, and the protocols of that differ in scores alone")
        if not isinstance(protocol, MaskProtocol | DetectionProtocol):
            return self.under(preset(name, where=where).applied(protocol))
        is_of_masks = isinstance(protocol, MaskProtocol)
        names = ("split", "normalisation", "upright", *(("size",) if is_of_masks else ()))
        values: dict[str, Any] = {key: getattr(protocol, key) for key in names}
        values |= _windows_of(protocol) if isinstance(protocol, MaskProtocol) else {}
        try:
            return self.under(type(protocol).named(name, **values))
        except ValueError as error:
            names_there = NAMED_MASK_PROTOCOLS if is_of_masks else NAMED_DETECTION_PROTOCOLS
            raise UserError(f"{where}: {error}{nearest(name, names_there)}") from None

    def sliding(self) -> "Recogniser":
        """Return a segmenter that looks at images in their own size through windows.

        Raises:
            UserError: The network is for another task.
        """
        if not isinstance(self.protocol, MaskProtocol):
            raise UserError(f"--slide is for segmenters, and {self.source} is for {self.outputs.task}")
        if self.protocol.mode == "slide":
            return self
        values = NAMED_MASK_PROTOCOLS["slide"] | _windows_of(self.protocol)
        return self.under(replace(self.protocol, name="slide", align=1, **values))

    def normalised(self, views: Tensor) -> Tensor:
        """Normalise uint8 views to the network's input: float32 of the same shape, on its device."""
        return self.protocol.normalisation(views.to(self.device))

    def network_input(self, views: Tensor) -> Tensor:
        """Return what the network takes of uint8 views: normalised, and images in their own size scaled by protocol.

        Windows and several sizes of a protocol do not apply: an image is one input. A detector's is padded with 0.
        """
        return scaled_input(self.protocol, views.to(self.device))

    @torch.inference_mode()
    def raw(self, views: Tensor) -> Any:
        """Return the network's outputs for views uint8 (V, C, [T,] H, W), such as logits (V, K)."""
        return self.outputs.raw(self.backbone, self.normalised(views), self.protocol)

    def probabilities(self, views: Tensor) -> Tensor:
        """Return the class probabilities of each view; for classification only.

        Args:
            views: uint8 (V, C, T, H, W) or (V, C, H, W).

        Returns:
            float64 (V, K) on the CPU.

        Raises:
            UserError: The network is for another task.
        """
        outputs: Any = self.outputs
        need_task(outputs, CLASSIFICATION, command="this", source=self.source)
        return outputs.probabilities(self.raw(views))


def scaled_input(protocol: Protocol, views: Tensor) -> Tensor:
    """Return a network's input from uint8 views; see `Recogniser.network_input`."""
    if isinstance(protocol, DetectionProtocol):  # whose loader scales uint8
        pictures = [view.permute(1, 2, 0).cpu().numpy()[None] for view in views]
        scaled = [views_of(each, protocol.geometries(*each.shape[1:3]))[0] for each in pictures]
        return padded(protocol.normalisation(torch.cat(scaled).to(views.device)))
    x = protocol.normalisation(views)
    if not isinstance(protocol, MaskProtocol):
        return x
    size = protocol.network_size(x.shape[-2], x.shape[-1])
    return x if size == tuple(x.shape[-2:]) else F.interpolate(x, size, mode="bilinear")


def _windows_of(protocol: MaskProtocol) -> dict[str, Sides]:
    """Return the protocol's own windows, else those as large as the network's training crops."""
    if protocol.mode == "slide":
        return {"window": protocol.window, "stride": protocol.stride}
    return windows_as_large_as(protocol.size)


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UserError: The device does not exist.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    available = ["auto", "cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    try:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= gpus:
            raise RuntimeError
        torch.empty(1, device=device).cpu()
    except (AssertionError, ImportError, NotImplementedError, RuntimeError):
        raise UserError(f"--device: there is no device {str(name)!r} here, use {' or '.join(available)}") from None
    return device


def load_recogniser(
    path: str | Path,
    *,
    name: str | None = None,
    classes: str | Sequence[str] | None = None,
    protocol: Protocol | None = None,
    device: str | torch.device = "auto",
    where: str = "--ckpt",
) -> Recogniser:
    """Load a network for use from one file: a checkpoint or directory of a run, or weights of any known layout.

    A checkpoint of mvrec knows class names and protocol. Published weights of the zoo get their published protocol, and
    the names of Kinetics-400 or ImageNet-1k if they have as many classes.

    Args:
        path: The file, a run directory (for its best checkpoint), or `hf://user/name[@revision]` for a model of the
            Hugging Face Hub. A network of one's own needs `mvrec.class_paths.trust`, because its code runs.
        name: The network of the zoo to build; by default the file's own.
        classes: Names in label order, a shipped list, or a file with one name per line, for a file without names.
        protocol: Instead of the file's.
        device: "auto" is the first GPU if there is one, else the CPU.
        where: The flag that names the file, for messages.

    Raises:
        UserError: The device or file does not exist, the file cannot be read or has no network of mvrec, or the number
            of names differs from that of the classes.
    """
    resolved = usable_device(device)
    path = checkpoint_of(local_path(path), where=where)
    with each_file_once():
        start = starting_point(path, where=where)
        other = name is not None and name != start.name
        backbone = create_model(str(name), weights=path) if other else _network(start, path)
        kind = outputs_of(start.details, source=str(path))
        requested: Any = classes  # a task's class takes what `--classes` may say; names in a list are for classifiers
        outputs = kind.of_file(start.details, backbone, source=str(path), classes=requested)
        load_weights(backbone, path)
    saved, settings = start.details.get("protocol"), start.data["init_args"]
    if other:
        saved, settings = None, input_settings(str(name))
    protocol = protocol or _protocol(saved, settings, path)
    return Recogniser(accelerate(backbone.eval().to(resolved)), outputs, protocol, path)


def _network(start: StartingPoint, path: Path) -> Backbone:
    """Return the network that a file describes, with random weights."""
    try:
        return _built(start.backbone)
    except UserError:
        raise
    except (ArgumentError, RuntimeError, TypeError, ValueError) as error:
        network = start.backbone.get("class_path")
        raise UserError(f"{path}: its network {network} cannot be built: {reason(error)}") from error


def _built(node: dict[str, Any]) -> Backbone:
    """Return the network of a `class_path` with `init_args`."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--backbone", type=Backbone)
    return parser.instantiate(parser.parse_object({"backbone": node})).backbone


def _protocol(saved: dict[str, Any] | None, settings: dict[str, Any], path: Path) -> Protocol:
    """Return the protocol of a checkpoint, or that of published weights from the arguments of a data module."""
    if saved is not None:
        try:
            return protocol_of(saved)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    return kind_of(settings).of_settings(settings)
