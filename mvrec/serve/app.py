"""The routes of `mvrec serve`: a page, what it is about, answers and heat."""

import asyncio
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Message

from mvrec.errors import DecodeError, UserError
from mvrec.files import json_text
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.timeline.prediction import has_timeline
from mvrec.inference.timeline.segments import TimelineKnobs
from mvrec.inference.timeline.windows import has_clips
from mvrec.ranges import COUNT, POSITIVE, check_range
from mvrec.serve.answers import LateError, Question, check_file, heat, recognised
from mvrec.serve.door import LOOPBACK, Door
from mvrec.serve.worker import QueueFullError, StuckError, Worker

PAGE = Path(__file__).with_name("page.html")
COPIED_AT_ONCE = 1 << 20  # bytes
LONGEST_NAME = 200
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

log = logging.getLogger("mvrec")


@dataclass(frozen=True)
class Bounds:
    """The most that a request may take.

    Attributes:
        upload_bytes: Of a request's body.
        seconds: From the end of the upload to the answer, waiting included.
        waiting: Requests that may wait for their turn.
        upload_seconds: From the request to the end of the upload.
        patience: Seconds for which an answer that came too late may keep the following ones waiting.
    """

    upload_bytes: int = 200 * 10**6
    seconds: float = 120.0
    waiting: int = 8
    upload_seconds: float = 300.0
    patience: float = 10.0


def make_app(recogniser: Recogniser, *, bounds: Bounds, host: str = LOOPBACK[0]) -> Starlette:
    """Return the server's routes.

    Args:
        recogniser: The network.
        bounds: The most that a request may take.
        host: The address of the server; on loopback it answers to names of loopback alone.
    """
    service = _Service(recogniser, bounds)
    routes = [
        Route("/", service.page),
        Route("/api/about", service.about),
        Route("/api/recognize", service.recognize, methods=["POST"]),
        Route("/api/explain", service.explain, methods=["POST"]),
    ]
    door = Middleware(Door, hosts=LOOPBACK if host in LOOPBACK else ())
    faults: dict[Any, Any] = {HTTPException: _refusal, Exception: _fault}
    return Starlette(routes=routes, middleware=[door], exception_handlers=faults)


class _Service:
    def __init__(self, recogniser: Recogniser, bounds: Bounds) -> None:
        self.recogniser, self.bounds = recogniser, bounds
        self.worker = Worker(most_waiting=bounds.waiting)

    async def page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = PAGE.read_text(encoding="utf-8").replace("{nonce}", nonce)
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY.format(nonce=nonce)})

    async def about(self, request: Request) -> Response:
        recogniser = self.recogniser
        facts = {
            "task": recogniser.outputs.task,
            "description": recogniser.outputs.describe(),
            "classes": list(recogniser.class_names),
            "protocol": str(recogniser.protocol),
            "kind": recogniser.protocol.kind,
            "is_video": recogniser.is_video,
            "has_timeline": has_timeline(recogniser),
            "has_windows": has_timeline(recogniser) and has_clips(recogniser.protocol),  # of itself
            "checkpoint": "/".join(recogniser.source.parts[-3:]),  # of a folder of the server no more
            "explains": bool(recogniser.class_names),
            "upload_bytes": self.bounds.upload_bytes,
            "seconds": self.bounds.seconds,
        }
        return _json(facts)

    async def recognize(self, request: Request) -> Response:
        async with self._question(request) as question:
            answer = await self._answer(partial(recognised, self.recogniser, question))
        return _json(answer)

    async def explain(self, request: Request) -> Response:
        async with self._question(request) as question:
            picture = await self._answer(partial(heat, self.recogniser, question))
        return Response(picture, media_type="image/png")

    @asynccontextmanager
    async def _question(self, request: Request) -> AsyncIterator[Question]:
        """Store the upload for the time of the block, and read what is asked of it."""
        with tempfile.TemporaryDirectory(prefix="mvrec-upload-", ignore_cleanup_errors=True) as folder:
            try:
                async with (
                    asyncio.timeout(self.bounds.upload_seconds),
                    _limited(request, self.bounds.upload_bytes).form(max_files=1, max_fields=16) as form,
                ):
                    question = await self._stored(form, Path(folder))
            except TimeoutError:
                text = f"the upload took longer than {self.bounds.upload_seconds:g} s (--upload-time-limit)"
                raise HTTPException(408, text, {"Connection": "close"}) from None
            except MultiPartException as error:
                raise HTTPException(400, f"the request is no form with a file: {error.message}") from None
            except ClientDisconnect:
                raise HTTPException(400, "the upload broke off") from None
            yield question

    async def _stored(self, form: FormData, folder: Path) -> Question:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise HTTPException(
                400, "send the file as the form's field 'file': curl -F file=@clip.mp4 .../api/recognize"
            )
        # Of the sender's name nothing but a known ending becomes part of a path.
        name = PurePosixPath((upload.filename or "").replace("\\", "/")).name[-LONGEST_NAME:] or "file"
        try:
            check_file(self.recogniser, name)
        except UserError as error:
            raise HTTPException(415, str(error)) from None
        path = folder / f"upload{Path(name).suffix.lower()}"
        with path.open("wb") as file:
            while part := await upload.read(COPIED_AT_ONCE):
                file.write(part)
        if not path.stat().st_size:
            raise HTTPException(422, f"{name}: the file is empty")
        try:
            return Question(path, name, time.monotonic() + self.bounds.seconds, **_fields(form))
        except UserError as error:
            raise HTTPException(400, str(error)) from None

    async def _answer(self, job: Callable[[], Any]) -> Any:
        try:
            waiting = self.worker.submit(job)
        except QueueFullError:
            text = f"{self.bounds.waiting} requests are waiting already: try again in a moment"
            raise HTTPException(503, text, {"Retry-After": "5"}) from None
        except StuckError:
            raise HTTPException(503, "earlier answers do not end: restart the server") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting), self.bounds.seconds)
        except (LateError, TimeoutError):
            asyncio.get_running_loop().call_later(self.bounds.patience, self.worker.leave, waiting)
            shorter = "a shorter file or longer windows" if self.recogniser.is_video else "a shorter file"
            text = f"no answer within {self.bounds.seconds:g} s: send {shorter}, or raise --time-limit"
            raise HTTPException(504, text) from None
        except DecodeError as error:
            raise HTTPException(422, error.cause) from None
        except UserError as error:
            raise HTTPException(422, str(error)) from None


def _fields(form: FormData) -> dict[str, Any]:
    """Read the fields of a form next to the file.

    Raises:
        UserError: One is no number in its range, or is unknown.
    """
    kinds: dict[str, tuple[str, Callable[[str], Any], Any]] = {
        "top": ("top", int, COUNT),
        "window": ("window", float, POSITIVE),
        "stride": ("stride", float, POSITIVE),
        "timeline": ("timeline", _yes_or_no, None),
        "on": ("on", float, None),
        "off": ("off", float, None),
        "least": ("least", float, None),
        "background": ("background", str, None),
        "pictures": ("pictures", _yes_or_no, None),
        "class": ("class_name", str, None),
    }
    values: dict[str, Any] = {}
    for key, text in form.multi_items():
        if key == "file":
            continue
        if key not in kinds:
            raise UserError(f"unknown field {key!r}: there are file, {', '.join(kinds)}")
        name, read, allowed = kinds[key]
        try:
            values[name] = read(str(text))
        except (ValueError, KeyError):
            raise UserError(f"{key} must be {'0 or 1' if read is _yes_or_no else 'a number'}, got {text!r}") from None
        if allowed is not None:
            check_range(key, values[name], allowed)
    knobs = {key: values.pop(key) for key in ("on", "off", "least", "background") if key in values}
    if values.pop("timeline", False):
        values["timeline"] = TimelineKnobs(**knobs)
    elif knobs:
        raise UserError(f"{next(iter(knobs))} is for timelines: send timeline=1 as well")
    return values


def _yes_or_no(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _limited(request: Request, most_bytes: int) -> Request:
    """Return the request with a body that breaks off at the limit, whatever its header says."""
    too_much = HTTPException(413, f"the upload is larger than {most_bytes / 1e6:g} MB (--max-upload-mb)")
    if int(request.headers.get("content-length", 0)) > most_bytes:
        raise too_much
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            raise too_much
        return message

    return Request(request.scope, receive)


def _json(content: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(json_text(content), status, headers, media_type="application/json")


async def _refusal(request: Request, error: HTTPException) -> Response:
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    return _json({"error": "a fault of the server: see its messages"}, 500)
