"""Files of a model on the Hugging Face Hub, by `hf://user/name`, from the network or the cache.

Only weights as safetensors, JSON and text are fetched, and no code of them runs. Needs the extra `hub`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvrec import __version__
from mvrec.errors import UserError, need

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
# pathlib.Path reduces two slashes to one.
HUB_NAME = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>.+))?$")
REPO_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+$", re.ASCII)


class FileMissingError(UserError):
    """The model exists but the file does not: on the Hub, or offline in the cache."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as it is; for `hf://user/name[@revision]` that of its weights, fetched if necessary.

    Raises:
        UserError: See `fetch`.
    """
    parsed = hub_name(path)
    return Path(path) if parsed is None else fetch(parsed[0], revision=parsed[1])


def hub_name(path: str | os.PathLike[str]) -> tuple[str, str | None] | None:
    """Return repository and revision of `hf://user/name[@revision]`; None for any other path.

    Raises:
        UserError: The path begins like one, but is malformed.
    """
    text = os.fspath(path)
    if not text.startswith("hf:/"):
        return None
    match = HUB_NAME.match(text)
    if match is None or not REPO_ID.match(match["repo"]):
        raise UserError(f"{text!r} is not a model of the Hub: write hf://user/name or hf://user/name@revision")
    return match["repo"], match["revision"]


def fetch(
    repo_id: str,
    filename: str = WEIGHTS,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return a file of a model from the Hub's cache, after fetching it if necessary.

    Args:
        repo_id: `user/name`.
        filename: The file.
        revision: Branch, tag or commit; the main branch by default.
        token: For private models; by default that of `hf auth login` or HF_TOKEN.
        cache_dir: Instead of the Hub's own cache.
        force_download: Fetch it even if it is in the cache.
        local_files_only: Never touch the network. The variable HF_HUB_OFFLINE=1 does the same.

    Raises:
        UserError: No such model or file, no permission, no network, or offline and not in the cache.
    """
    need("hub", "huggingface_hub")
    import huggingface_hub

    with explained(repo_id, filename, revision):
        if local_files_only or offline():
            return _cached(repo_id, filename, revision=revision, cache_dir=cache_dir)
        path = huggingface_hub.hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            library_name="mvrec",
            library_version=__version__,
        )
    return Path(str(path))


def _cached(repo_id: str, filename: str, *, revision: str | None, cache_dir: str | Path | None) -> Path:
    """Return a file of the cache; the Hub's own `local_files_only` still contacts the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    path = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir, revision=revision)
    if not isinstance(path, str):
        raise LocalEntryNotFoundError(filename)
    return Path(path)


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def explained(repo_id: str, filename: str = "", revision: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub into one line that says what to do."""
    from huggingface_hub import errors

    # Connection errors are those of the Hub's HTTP library.
    connection: Any = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (connection, errors.EntryNotFoundError, errors.OfflineModeIsEnabled, errors.HFValidationError) as error:
        at = f" at revision {revision!r}" if revision else ""
        kind = FileMissingError if _is_missing(error) else UserError
        raise kind(f"hf://{repo_id}: {_explanation(error, f'{filename}{at}', revision)}") from error


def _is_missing(error: BaseException) -> bool:
    """Return whether an error means that only the file is missing."""
    from huggingface_hub import errors

    unreachable = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None
    return isinstance(error, errors.EntryNotFoundError) and not unreachable


def _explanation(error: BaseException, name: str, revision: str | None) -> str:
    from huggingface_hub import errors

    # The first match counts: some errors are subclasses of others.
    explanations: list[tuple[type[BaseException], str]] = [
        (errors.GatedRepoError, "access has to be asked for on its page, and then a login: hf auth login, or HF_TOKEN"),
        (
            errors.RepositoryNotFoundError,
            "no such model, or one that is not public: check the name, or log in (hf auth login, or HF_TOKEN)",
        ),
        (errors.RevisionNotFoundError, f"there is no revision {revision!r}"),
        (errors.LocalEntryNotFoundError, f"{name} is not in the Hub's cache on this machine, and this is offline"),
        (errors.EntryNotFoundError, f"has no {name}"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and this needs the network"),
    ]
    if _is_missing(error) or not isinstance(error, errors.LocalEntryNotFoundError):
        for kind, text in explanations:
            if isinstance(error, kind):
                return text
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "the Hub refuses: the token is wrong or may not do this (hf auth login, or HF_TOKEN)"
    if status is not None or isinstance(error, errors.HFValidationError):
        return _first_line(error)
    return f"the Hub cannot be reached: {_first_line(error.__cause__ or error)}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
