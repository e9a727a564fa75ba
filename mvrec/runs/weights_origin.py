"""The network, data and protocol that a file of weights prescribes for a run that starts from it."""

from pathlib import Path
from typing import Any, NamedTuple

from mvrec.class_paths import check_file_classes, renewed
from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home, sha256, weights_in
from mvrec.models.checkpoints import FAMILIES, recognised
from mvrec.models.checkpoints.files import StoredWeights, read_weights
from mvrec.models.checkpoints.structure import as_stored
from mvrec.models.zoo import VARIANTS, name_of
from mvrec.published import CREATE_MODEL, input_settings
from mvrec.weights.cache import fetched_path, origin_of

# Data modules of protocols whose targets have places, by the protocols' kind.
_PLACED = {"masks": "MaskFolder", "key frames": "VideoBoxes", "objects": "ObjectFolder"}


def checkpoint_of(path: str | Path, *, where: str = "") -> Path:
    """Return the file that a path means: the file itself, or of a run directory best.ckpt, else last.ckpt.

    Args:
        path: A file, a run directory, a folder with `model.safetensors` as `mvrec hub` writes it, or the name of
            published weights that were fetched.
        where: The flag that names it, for messages.

    Raises:
        UserError: There is no such file.
    """
    prefix = f"{where}: " if where else ""
    try:
        path = fetched_path(path) or at_home(path)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None
    if path.is_dir():
        try:
            return weights_in(path)
        except UserError as error:
            raise UserError(f"{prefix}{error}") from None
    if not path.exists():
        raise UserError(f"{prefix}there is no checkpoint {str(path)!r}{nearest_path(path)}")
    return path


def weights_record(source: str | Path) -> dict[str, Any]:
    """Return what a run records of its initial weights: `file`, `sha256`, and of published ones their source.

    Args:
        source: A file, a run directory, or the name of published weights.
    """
    path = checkpoint_of(source)
    published = origin_of(source) or {}
    return {"file": str(source), **published, "sha256": published.get("sha256") or sha256(path)}


class StartingPoint(NamedTuple):
    """Settings that a file of weights prescribes, as a config would.

    Attributes:
        backbone: `class_path` and `init_args` of the network.
        data: `class_path` and `init_args` of the data module; the root is left to the user.
        summary: One line of text.
        details: The file's own facts, such as `class_names`; empty for a foreign file.
        name: The variant of the zoo; None for any other network.
    """

    backbone: dict[str, Any]
    data: dict[str, Any]
    summary: str
    details: dict[str, Any]
    name: str | None


def starting_point(path: str | Path, *, where: str) -> StartingPoint:
    """Read the settings that a file of weights prescribes.

    A checkpoint of a run knows its network, its clips or images, and its protocol. Of other files the shapes of the
    weights identify the network, and the rest is what was published with it.

    Args:
        path: The file, or a run directory.
        where: The flag or line of a config that names it.

    Raises:
        UserError: The file cannot be read, or has no network of the zoo.
    """
    try:
        stored = read_weights(path)
        node = _exported(stored) or stored.model_settings.get("backbone")
        return _of_weights(stored) if node is None else _of_run(node, stored)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _exported(stored: StoredWeights) -> dict[str, Any] | None:
    """Return how to build the network of weights from `mvrec export`; `None` for a file of another kind."""
    node = stored.details.get("backbone")
    if not isinstance(node, dict) or not stored.details.get("protocol"):
        return None
    if foreign := foreign_classes(node):
        raise UserError(
            f"{stored.source}: its network is a {foreign[0]}, and a file of weights may only name networks of "
            "mvrec.models, because other code would run: load the checkpoint of its run instead"
        )
    return renewed(node)


def foreign_classes(node: Any) -> list[str]:
    """Return the class paths within a network's settings that are not of `mvrec.models`."""
    if isinstance(node, list | tuple):
        return [path for item in node for path in foreign_classes(item)]
    if not isinstance(node, dict):
        return []
    below = [path for value in node.values() for path in foreign_classes(value)]
    paths = [path for key in ("class_path", "backbone") if isinstance(path := node.get(key), str)]
    return [path for path in paths if not path.startswith("mvrec.models.")] + below


def _of_run(node: dict[str, Any], stored: StoredWeights) -> StartingPoint:
    check_file_classes({"backbone": node}, source=stored.source, origins=stored.details.get("parts"))
    build_from(stored.source, node)
    protocol = stored.details["protocol"]
    short = _short(node)
    summary = f"{stored.source}: {short}, {len(stored.details.get('class_names') or ())} classes"
    data = _data_node(_settings_of(protocol), kind=protocol.get("kind"))
    return StartingPoint(node, data, summary, stored.details, short if short in VARIANTS else None)


def build_from(source: str, backbone: Any) -> None:
    """Point a network's settings to the present file of weights; the file that it was first built from may be gone.

    Args:
        source: The file with the present weights.
        backbone: `class_path` and `init_args` of the network; changed in place.
    """
    if not isinstance(backbone, dict) or not isinstance(arguments := backbone.get("init_args"), dict):
        return
    if backbone.get("class_path") == CREATE_MODEL and arguments.get("weights") is not None:
        # A baseline's name alone determines its structure.
        arguments["weights"] = None if "/" in str(arguments.get("name")) else source
        arguments["num_classes"] = None
    build_from(source, arguments.get("backbone"))


def _of_weights(stored: StoredWeights) -> StartingPoint:
    name = name_of(stored)
    network = recognised(stored)
    assert network.family is not None
    build, arguments = as_stored(
        VARIANTS[name], network.tensors, {}, family=FAMILIES[network.family], details=stored.details
    )
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    node = {"class_path": f"mvrec.models.{build.__name__}", "init_args": plain}
    settings = input_settings(name)
    protocol = stored.details.get("protocol")
    if protocol:
        # Data with masks or boxes lack the keys that published classifiers have, such as the share of the crop.
        settings = ({} if protocol.get("kind") in _PLACED else settings) | _settings_of(protocol)
    elif _is_video(settings):
        settings["clip"]["num_frames"] = plain.get("num_frames") or settings["clip"]["num_frames"]
    summary = f"{stored.source}: {name} ({network.layout} layout), {arguments['num_classes']} classes"
    data = _data_node(settings, kind=protocol.get("kind") if protocol else None)
    return StartingPoint(node, data, summary, stored.details, name)


def _settings_of(protocol: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a data module under which it has a protocol."""
    if protocol.get("kind") == "objects":
        return {
            "normalisation": protocol["normalisation"],
            "protocol": protocol["name"],
            "upright": protocol["upright"],
        }
    shared = {"size": protocol["size"], "normalisation": protocol["normalisation"]}
    if protocol.get("kind") == "masks":
        return {**shared, "protocol": protocol["name"]}
    if protocol.get("kind") == "key frames":
        return {**shared, "clip": protocol["clip"], "protocol": protocol["name"], "pixels": protocol["pixels"]}
    if not _is_video(protocol):
        fraction = protocol["size"] / protocol["short_side"]
        return {**shared, "crop_fraction": fraction, "interpolation": protocol["interpolation"]}
    views = protocol["views"]
    single = {**views, "num_clips": 1, "num_crops": 1}
    return {**shared, "clip": protocol["clip"], "test_views": views, "val_views": single}


def _is_video(values: dict[str, Any]) -> bool:
    """Return whether a protocol, or a data module's arguments, make clips; earlier versions stored no kind."""
    return values.get("kind", "clips" if "clip" in values else "images") == "clips"


def _data_node(settings: dict[str, Any], *, kind: str | None = None) -> dict[str, Any]:
    """Return the data module of some arguments; `kind` is that of a stored protocol."""
    name = _PLACED.get(kind or "") or ("VideoFolder" if _is_video(settings) else "ImageFolder")
    return {"class_path": f"mvrec.data.{name}", "init_args": settings}


def _short(node: Any) -> str:
    path = str(node.get("class_path", "?")) if isinstance(node, dict) else str(node)
    name = node.get("init_args", {}).get("name") if isinstance(node, dict) else None
    return str(name or path.rpartition(".")[2])
