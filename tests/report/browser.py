"""A real browser for tests of HTML files: what it asked for, what it complained about, and what it shows."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--lang=en"),
    *("--disable-background-networking", "--no-first-run", "--disable-dev-shm-usage"),
)
SECONDS = 60


def find_browser() -> str | None:
    """The program of a browser that runs without a display."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A page of a browser that speaks over a pipe, so that no port is opened; it ends with the block.

    Attributes:
        requests: Addresses that the page has asked for, data URIs left out.
        complaints: Errors of the console and of the network.
    """

    def __init__(self, profile: Path, *flags: str) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads from 3 and writes to 4; out of the way first, for these may be among the new ones.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [str(find_browser()), *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            **{"pass_fds": (3, 4), "preexec_fn": place},
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
        )
        for end in (*ends, to_browser, from_browser):
            os.close(end)
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = next(answer for answer in self._messages() if answer.get("id") == self._number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, page: Path | str, *, width: int = 1200, dark: bool = False) -> None:
        """Load a file or address and wait until all of it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests, self.complaints, self._loaded = [], [], False
        answer = self.call("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        assert "errorText" not in answer, answer
        if not self._loaded:
            next(message for message in self._messages() if self._loaded)

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """A PNG of what is shown."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            while b"\0" in self._buffer:
                text, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(text)
                self._note(message)
                yield message
            if select.select([self._read], [], [], 0.5)[0]:
                part = os.read(self._read, 1 << 20)
                assert part, f"the browser ended: {self._process.poll()}"
                self._buffer += part
        raise AssertionError("the browser does not answer")

    def _note(self, message: dict[str, Any]) -> None:
        event, details = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent" and not details["request"]["url"].startswith("data:"):
            self.requests.append(details["request"]["url"])
        elif event == "Network.loadingFailed":
            self.complaints.append(f"network: {details['errorText']} {details.get('blockedReason', '')}")
        elif event == "Log.entryAdded":
            self.complaints.append(f"log: {details['entry']['text']}")
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(f"{event}: {json.dumps(details)[:300]}")
