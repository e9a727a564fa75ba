"""Fetch one published file over HTTP: it continues where it was cut off, and gets its name when it is checked."""

import errno
import fcntl
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mvrec.errors import UserError
from mvrec.files import write_atomically
from mvrec.machine import FULL_DISK
from mvrec.weights.cache import keep, place_of, record_of
from mvrec.weights.table import WeightsFile

BLOCK = 1 << 20
TRIES = 5  # after connections that brought nothing
SILENT_S = 30.0  # without a byte
PASSING = (408, 416, 425, 429, 500, 502, 503, 504)  # answers after which another try may help
Progress = Callable[[int, int | None], None]
log = logging.getLogger("mvrec")


@dataclass(frozen=True)
class _Answer:
    """A server's answer: where its bytes belong, how many there are in all, and what identifies this version."""

    offset: int
    total: int | None
    version: str | None
    sha: str | None
    served: str


class _CutError(Exception):
    """A connection ended before the file did."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the SHA-256 that the Hub states in one."""

    def __init__(self) -> None:
        self.sha: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request."""
        tag = str(headers.get("X-Linked-ETag", "")).strip('"')
        if re.fullmatch("[0-9a-f]{64}", tag):
            self.sha = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(file: WeightsFile, *, progress: Progress | None = None) -> dict[str, Any]:
    """Fetch a file into the cache, unless it is there, and check it.

    An unfinished file stays as `.part`, and the next call continues it. Of several processes one fetches and the
    others wait for its file.

    Args:
        file: The file.
        progress: Called with the bytes that are here and those of the whole file, if the server says.

    Returns:
        The record of `keep`, with `path`.

    Raises:
        UserError: It cannot be fetched, or what came is another file; with what to do by hand.
    """
    place = place_of(file)
    if place.is_file():
        return {**(record_of(place) or keep(file, place)), "path": place}
    if file.address is None:
        raise UserError(f"{file.name} is {file.note}: open {file.shelf or file.page}, {_by_hand(place)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place) as part:
            if not place.is_file():
                return {**_whole(file, place, part, progress or (lambda received, total: None)), "path": place}
    except OSError as error:
        raise _machine_error(error, file, place) from None
    return {**(record_of(place) or keep(file, place)), "path": place}


def _whole(file: WeightsFile, place: Path, part: IO[bytes], progress: Progress) -> dict[str, Any]:
    assert file.address is not None
    answer = _until_whole(file, place, part, progress)
    part.flush()
    path = Path(part.name)
    try:
        record = keep(file, path, sha=answer.sha, served=answer.served)
    except UserError as error:
        path.unlink(missing_ok=True)
        _state_of(path).unlink(missing_ok=True)
        text = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{urlsplit(file.address).netloc} sent something else than {file.name}: {text}; nothing is kept: try again "
            f"later, or see {file.page}"
        ) from None
    path.rename(place)
    _state_of(path).unlink(missing_ok=True)
    return record


def _until_whole(file: WeightsFile, place: Path, part: IO[bytes], progress: Progress) -> _Answer:
    """Ask again, from where the file ends, until it is whole or the server brings nothing several times."""
    failures = 0
    while True:
        before, unreachable = part.tell(), False
        try:
            return _ask(file, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            cause = f"{error.code} {error.reason}"
            if error.code == 416 and before:  # requested range not satisfiable: what is here is of another file
                _empty(part)
            elif error.code not in PASSING:
                raise UserError(_refused(file, place, cause)) from None
        except (_CutError, http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
            cause = _text(error)
            unreachable = isinstance(error, urllib.error.URLError) and not before  # most likely there is no network
        failures = failures + 1 if part.tell() <= before else 0
        if failures >= TRIES or unreachable:
            raise UserError(_refused(file, place, cause, received=part.tell()))
        time.sleep(min(0.2 * 2**failures, 5.0))


def _empty(part: IO[bytes]) -> None:
    part.truncate(0)
    part.seek(0)


def _ask(file: WeightsFile, part: IO[bytes], progress: Progress) -> _Answer:
    """Send one request for what is missing and append what comes.

    Raises:
        _CutError: The connection ended early.
    """
    assert file.address is not None
    offset, version = part.tell(), _version_of(Path(part.name))
    # Without a version or a sum nobody could tell that both halves are of the same file.
    if offset and version is None and file.sha256 is None:
        offset = 0
    headers = {"User-Agent": "mvrec", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers |= {"If-Range": version} if version else {}
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    with opener.open(urllib.request.Request(file.address, headers=headers), timeout=SILENT_S) as response:
        answer = _read_head(response, redirects.sha)
        if answer.offset != offset:
            if answer.offset:
                raise _CutError(f"the server sent bytes from {answer.offset} on, not from {offset}")
            _empty(part)
        _check_room(Path(part.name), part.tell(), answer.total)
        write_atomically(_state_of(Path(part.name)), json.dumps({"version": answer.version}))
        while block := response.read(BLOCK):
            part.write(block)
            part.flush()
            progress(part.tell(), answer.total)
    if answer.total is not None and part.tell() != answer.total:
        if part.tell() > answer.total:
            _empty(part)
        raise _CutError(f"{part.tell()} of {answer.total} bytes came")
    return answer


def _read_head(response: Any, sha: str | None) -> _Answer:
    headers = response.headers
    length = headers.get("Content-Length")
    offset, total = 0, int(length) if length and length.isdigit() else None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", str(headers.get("Content-Range", "")).strip())
        if match is None:
            raise _CutError("the server does not say which bytes it sent")
        offset, total = int(match[1]), None if match[2] == "*" else int(match[2])
    tag = str(headers.get("ETag", ""))
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    return _Answer(offset, total, version, sha, response.geturl().partition("?")[0])


def _check_room(path: Path, received: int, total: int | None) -> None:
    missing = 0 if total is None else total - received
    free = shutil.disk_usage(path.parent).free
    if missing > free:
        raise OSError(errno.ENOSPC, f"{missing / 1e6:.0f} MB are missing and {free / 1e6:.0f} MB free", str(path))


@contextmanager
def _alone(place: Path) -> Iterator[IO[bytes]]:
    """Open the unfinished file, at its end, for this process alone; wait while another one fetches it."""
    path = place.with_name(f"{place.name}.part")
    while True:
        with path.open("ab") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process fetches %s: waiting for it", place.name)
                fcntl.flock(part, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != _inode(part):  # that process has renamed or removed it
                if place.is_file():
                    yield part
                    return
                continue
            part.seek(0, 2)
            try:
                yield part
            finally:
                if path.exists() and not path.stat().st_size:
                    path.unlink()
                    _state_of(path).unlink(missing_ok=True)
            return


def _inode(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_ino


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _version_of(part: Path) -> str | None:
    try:
        version = json.loads(_state_of(part).read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) else None


def _text(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _by_hand(place: Path) -> str:
    return f"fetch it by hand and save it as {place}"


def _refused(file: WeightsFile, place: Path, cause: str, *, received: int = 0) -> str:
    server = urlsplit(file.address or "").netloc
    if received:
        return (
            f"{server}: {cause}; {received / 1e6:.1f} MB are here, and the same command continues there "
            f"(or {_by_hand(place)}: {file.address})"
        )
    return f"{server}: {cause}: {file.address} cannot be fetched (see {file.page}); {_by_hand(place)}"


def _machine_error(error: OSError, file: WeightsFile, place: Path) -> UserError:
    cause = error.strerror or str(error)
    if error.errno in FULL_DISK:
        return UserError(
            f"{place.parent}: {cause}: free some space and give the same command, which continues, or set MVREC_CACHE "
            f"to a folder on another disk"
        )
    return UserError(
        f"{error.filename or place.parent}: {cause}: set MVREC_CACHE to a folder that {file.name} can lie in"
    )
