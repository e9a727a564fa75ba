"""The network and the files of a probe, from a configuration, a run or a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from mvrec.errors import UserError
from mvrec.files import at_home

if TYPE_CHECKING:
    from mvrec.data.listing.index import Sample, SampleIndex
    from mvrec.inference.recogniser import Recogniser

CONFIGS = (".yaml", ".yml")
Split = Literal["train", "val", "test"]
TRAIN: Split = "train"


@dataclass(frozen=True)
class Files:
    """Labelled files of a split.

    Attributes:
        samples: The files, or spans of them.
        labels: int64 (N,) classes, or of files with several classes bool (N, K).
        groups: A number of each file's group, int64 (N,); folds keep groups together.
    """

    samples: "Sequence[Sample]"
    labels: npt.NDArray[Any]
    groups: npt.NDArray[np.int64]

    def where(self, mask: npt.NDArray[np.bool_]) -> "Files":
        """Return the files of a mask (N,)."""
        samples = [sample for sample, keep in zip(self.samples, mask, strict=True) if keep]
        return Files(samples, self.labels[mask], self.groups[mask])


@dataclass(frozen=True)
class Source:
    """The network and the files of a probe.

    Attributes:
        recogniser: The network, under the protocol of the scored split.
        class_names: Names in label order.
        train: The files that the probes learn from.
        scored: The files that they are scored on.
        has_weights: Whether the network was trained before.
    """

    recogniser: "Recogniser"
    class_names: tuple[str, ...]
    train: Files
    scored: Files
    has_weights: bool


def open_source(network: str, flags: Sequence[str], *, split: Split, device: str) -> Source:
    """Open a network and its data.

    Args:
        network: A configuration, a recipe's name, a run directory, a checkpoint, or published weights.
        flags: Further flags as of `mvrec fit`, such as `--data.root`.
        split: The scored one, "val" or "test".
        device: See `load_recogniser`.

    Raises:
        UserError: The network or data are missing, or the data have no classes.
    """
    from mvrec.cli.lightning import instantiate
    from mvrec.data.sets.image_data import ImageData
    from mvrec.data.sets.video_data import VideoData
    from mvrec.data.views.targets import ClassIndex
    from mvrec.inference.recogniser import Recogniser, usable_device
    from mvrec.models.fast.accelerate import accelerate
    from mvrec.tasks.classification.outputs import ClassificationOutputs

    used = usable_device(device)
    cli = instantiate(["fit", *_places(network, flags)], tells_plan=False)
    data, task = cli.datamodule, cli.model
    if not isinstance(data, VideoData | ImageData):
        raise UserError(f"{network}: a probe takes videos or images with classes, not {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    if split == "test":
        data.setup("test")
    if not data.class_names:
        raise UserError(f"{network}: a probe predicts classes, and these data have none")
    backbone = accelerate(task.backbone.eval().to(used))
    is_single = data.target_type is ClassIndex
    outputs = ClassificationOutputs(data.class_names, multi_label=not is_single)
    recogniser = Recogniser(backbone, outputs, data.protocol(split), Path(task.start.weights or network))
    groups = _groups(data)
    num_classes = len(data.class_names)
    train, scored = (_files(data.index(name), groups, num_classes, is_single) for name in (TRAIN, split))
    has_weights = task.start.weights is not None or _has_own(cli)
    return Source(recogniser, tuple(data.class_names), train, scored, has_weights)


def _places(network: str, flags: Sequence[str]) -> list[str]:
    """Return the flags by which `mvrec fit` would start from a network."""
    from mvrec.recipes import recipes
    from mvrec.runs.weights_origin import checkpoint_of

    path = at_home(network)
    if path.suffix in CONFIGS or (not path.exists() and network in recipes()):
        return ["--config", network, *flags]
    weights = checkpoint_of(network)
    config = path / "config.yaml"
    config = config if config.is_file() else path.parent.parent / "config.yaml"  # RUN/checkpoints/best.ckpt
    of_run = ["--config", str(config)] if config.is_file() else []
    names_data = any(flag.split("=")[0] in ("--data.root", "--config") for flag in flags)
    if not of_run and not names_data:
        raise UserError(f"{network}: name the labelled files with --data.root FOLDER, or probe a run or configuration")
    return [*of_run, "--model.weights", str(weights), *flags]


def _has_own(cli: Any) -> bool:
    """Return whether the network itself names weights, as published baselines do."""
    arguments = cli.config["fit"].model.backbone.get("init_args") or {}
    return arguments.get("weights") is not None


def _groups(data: Any) -> dict[str, str]:
    """Return each file's group, by its path."""
    from mvrec.data.listing.groups.rules import AUTO
    from mvrec.data.listing.groups.splits import groups_of_files

    rows = (row for split in get_args(Split) if data.layout.has(split) for row in data.layout.rows(split))
    return groups_of_files(rows, data.root, vars(data).get("group", AUTO))[0]


def _files(index: "SampleIndex", groups: dict[str, str], num_classes: int, is_single: bool) -> Files:
    samples = list(index)
    if is_single:
        labels = np.array([sample.label for sample in samples], np.int64)
    else:
        labels = np.zeros((len(samples), num_classes), bool)
        for number, sample in enumerate(samples):
            labels[number, list(cast("tuple[int, ...]", sample.label))] = True
    paths = [str(sample.path) for sample in samples]
    _, numbers = np.unique([groups.get(path, path) for path in paths], return_inverse=True)
    return Files(samples, labels, numbers)
