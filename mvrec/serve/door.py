"""The checks before every answer: who may ask, and the headers that keep the page to itself."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Door:
    """Refuses other names of this machine, and pages of others, before anything is read.

    A page of another site can make its own name mean 127.0.0.1 (DNS rebinding), but the browser still sends that name.

    Args:
        app: What comes behind.
        hosts: Names under which the server is asked; any if there are none.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        fault = None
        if self._hosts and _name(f"//{host}") not in self._hosts:
            fault = f"this server answers to {', '.join(self._hosts)}, not to {host!r}"
        elif origin is not None and urlsplit(origin).netloc != host:
            fault = f"the page {origin} is not of this server: open http://{host}/"
        answer = self._app if fault is None else JSONResponse({"error": fault}, 403)
        await answer(scope, receive, send_with_headers)


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # an unclosed bracket
        return None
