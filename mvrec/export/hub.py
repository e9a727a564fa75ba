"""Networks on the Hugging Face Hub, with its conventions: `from_pretrained`, `save_pretrained`, `push_to_hub`.

A model is three files: the weights as safetensors, whose metadata alone is enough to use them; the same metadata as
config.json, by which the Hub counts downloads; and README.md, its model card. None of them runs code.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from mvrec import __version__
from mvrec.data.views.protocol import Protocol
from mvrec.errors import UserError, need
from mvrec.export.model_card import BOXES, card_of, check_portable, save_weights
from mvrec.files import at_home, atomic_path, json_text, shown
from mvrec.inference.hub_files import (
    CONFIG,
    README,
    REPO_ID,
    WEIGHTS,
    FileMissingError,
    explained,
    fetch,
    hub_name,
    offline,
)
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.models.checkpoints.files import read_weights
from mvrec.tasks.outputs import outputs_of

LISTED_CLASSES = 20


def save_pretrained(recogniser: Recogniser, folder: str | Path, *, repo_id: str | None = None) -> Path:
    """Write a network into a folder in the Hub's form; an existing README.md stays.

    Args:
        recogniser: The network.
        folder: Created if missing; needs no network and no extra package.
        repo_id: `user/name` in the text of README.md.

    Raises:
        UserError: Weights alone cannot describe the network, or the folder cannot be written.
    """
    folder = at_home(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, give a folder")
    if recogniser.source.resolve() == (folder / WEIGHTS).resolve():
        raise UserError(f"{folder}: the network was loaded from there, choose another folder")
    card = card_of(recogniser)
    check_portable(recogniser, card)
    contents: dict[str, Callable[[Path], Any]] = {
        WEIGHTS: lambda path: save_weights(path, recogniser.backbone, card),
        CONFIG: lambda path: path.write_text(json_text(card, indent=2) + "\n", encoding="utf-8"),
    }
    if not (folder / README).exists():
        contents[README] = lambda path: path.write_text(shown(readme(card, repo_id or folder.name)), encoding="utf-8")
    _write_together(folder, contents)
    return folder


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    classes: str | None = None,
    protocol: Protocol | None = None,
    device: str | torch.device = "auto",
) -> Recogniser:
    """Load a network from a folder, or from the Hub.

    Args:
        name: An existing folder, `user/name` or `hf://user/name`.
        revision: See `fetch`, like the next four.
        token: See `fetch`.
        cache_dir: See `fetch`.
        force_download: See `fetch`.
        local_files_only: See `fetch`.
        classes: See `load_recogniser`.
        protocol: See `load_recogniser`.
        device: See `load_recogniser`.

    Raises:
        UserError: See `fetch` and `load_recogniser`.
    """
    path = at_home(name)
    if not path.exists():
        repo_id, stated = repository(str(name))
        path = fetch(
            repo_id,
            revision=revision or stated,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    return load_recogniser(path, classes=classes, protocol=protocol, device=device, where=str(name))


def push_to_hub(
    recogniser: Recogniser,
    repo_id: str,
    *,
    commit_message: str = "Upload model with mvrec",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a network to the Hub, into a new or existing repository; an existing README.md stays.

    Args:
        recogniser: The network.
        repo_id: `user/name`.
        commit_message: The commit's message.
        private: Whether a new repository is private; the account's own default by default.
        token: By default that of `hf auth login` or HF_TOKEN.
        branch: Instead of main.
        create_pr: Make a pull request instead of a commit.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        UserError: No token, no permission to write, no network, or weights alone cannot describe the network.
    """
    need("hub", "huggingface_hub")
    from huggingface_hub import HfApi, get_token

    if offline():
        raise UserError(f"hf://{repo_id}: HF_HUB_OFFLINE is set, and to push needs the network")
    token = token or get_token()
    if not token:
        raise UserError(f"hf://{repo_id}: to push needs a token that may write: hf auth login, or HF_TOKEN")
    api = HfApi(token=token, library_name="mvrec", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder, explained(repo_id, revision=branch):
        save_pretrained(recogniser, folder, repo_id=repo_id)
        api.create_repo(repo_id, private=private, exist_ok=True)
        excluded = [README] if api.file_exists(repo_id, README, revision=branch) else []
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            ignore_patterns=excluded,
        )
    return str(commit.pr_url or commit.commit_url)


def pull(
    name: str, folder: str | Path, *, revision: str | None = None, local_files_only: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """Copy a model of the Hub into a folder.

    Args:
        name: `user/name` or `hf://user/name[@revision]`.
        folder: Created if missing.
        revision: See `fetch`.
        local_files_only: See `fetch`.

    Returns:
        The folder and the names of the files.

    Raises:
        UserError: See `fetch`; or its weights cannot be read.
    """
    repo_id, stated = repository(name)
    folder = at_home(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, give a folder")
    paths = {WEIGHTS: fetch(repo_id, revision=revision or stated, local_files_only=local_files_only)}
    read_weights(paths[WEIGHTS])
    for extra in (CONFIG, README):  # uploads of other libraries may lack them
        with suppress(FileMissingError):
            paths[extra] = fetch(repo_id, extra, revision=revision or stated, local_files_only=local_files_only)
    _write_together(folder, {name: _copy_of(path) for name, path in paths.items()})
    return folder, tuple(paths)


def repository(name: str) -> tuple[str, str | None]:
    """Return repository and revision of `user/name` or `hf://user/name[@revision]`.

    Raises:
        UserError: The name has neither form.
    """
    parsed = hub_name(name)
    if parsed is not None:
        return parsed
    if not REPO_ID.match(name):
        raise UserError(f"{name!r} is neither a folder nor a model of the Hub, which is user/name or hf://user/name")
    return name, None


def _copy_of(source: Path) -> Callable[[Path], Any]:
    return lambda target: shutil.copyfile(source, target)


def _write_together(folder: Path, contents: dict[str, Callable[[Path], Any]]) -> None:
    """Write several files, all or none."""
    try:
        with ExitStack() as stack:
            temporary = {name: stack.enter_context(atomic_path(folder / name)) for name in contents}
            for name, write in contents.items():
                write(temporary[name])
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error


# -- the model card --------------------------------------------------------------------------------------------------


def readme(card: dict[str, Any], repo_id: str) -> str:
    """Return README.md: a header for the Hub, and a description.

    Args:
        card: See `card_of`.
        repo_id: `user/name`, or the name of a folder.
    """
    kind = "video" if card["pipeline_tag"].startswith("video") else "image"
    name = card["name"] or card["architecture"]
    tags = [card["pipeline_tag"], card["architecture"].lower(), *([card["name"]] if card["name"] else [])]
    # JSON is YAML without questions of quoting.
    header = {"library_name": "mvrec", "pipeline_tag": card["pipeline_tag"], "tags": ["mvrec", *dict.fromkeys(tags)]}
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()),
        "---",
        "",
        f"# {repo_id.rpartition('/')[2]}",
        "",
        f"A network for {card['pipeline_tag'].replace('-', ' ')}: {name}, {card['parameters'] / 1e6:.2f} M parameters, "
        f"{card['num_classes']} classes, as a file of mvrec {card['mvrec_version']}.",
        "",
        "```python",
        "import mvrec",
        "",
        f'model = mvrec.load("hf://{repo_id}")' if "/" in repo_id else "model = mvrec.load(FOLDER)",
        f"print({_call(card, kind)})",
        "```",
        "",
        *_facts(card),
    ]
    return "\n".join(lines) + "\n"


def _call(card: dict[str, Any], kind: str) -> str:
    """Return the call that predicts."""
    if BOXES in card:
        return f"*model.predict(PATH_OF_{kind.upper()}, boxes=LIST_OF_BOXES), sep=chr(10)"
    return f"model.predict(PATH_OF_{kind.upper()})"


def _facts(card: dict[str, Any]) -> list[str]:
    takes, gives, protocol = card["input"], card["output"], card["protocol"]
    names, origin = card.get("class_names") or [], card["converted_from"]
    listed = ", ".join(names[:LISTED_CLASSES]) + (", ..." if len(names) > LISTED_CLASSES else "")
    rows = {
        "input": f"{takes['layout']} ({', '.join(map(str, takes['shape'][1:]))}) after the batch, {takes['channels']}, "
        f"{takes['pixels']} with mean {takes['mean']} and std {takes['std']}",
        "boxes": ", ".join(card[BOXES]["columns"]) if BOXES in card else "",
        "output": gives.get("values") or f"raw logits; {gives['activation']} gives scores",
        **outputs_of(card, source="this card").rows_of(card),
        "protocol": f"`{json.dumps(protocol)}`",
        "paper of the network": card["paper"],
        "made from": f"{origin['file']}, SHA-256 {origin['sha256']}",
        "classes": listed,
    }
    return ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
