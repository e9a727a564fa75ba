"""Fetching weights from a server on this machine that fails in every way a server can."""

import dataclasses
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvrec.errors import UserError
from mvrec.weights import fetching, table
from mvrec.weights.cache import fetched_path, origin_of, place_of
from mvrec.weights.fetching import fetch

NAME = "mvit_v2_s_16x4.torchvision"
CONTENT = os.urandom(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` and notes the ranges asked for; the attributes are its faults."""

    content = CONTENT
    cut_after: int | None = None  # bytes of an answer, for the first `cuts` of them
    cuts = 1
    ranges = True
    etag: str | None = '"1"'
    status = 200
    redirect: str | None = None
    linked = ""
    stated: int | None = None  # length in the header, instead of the true one
    started: threading.Event | None = None
    may_end: threading.Event | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no fault of the test."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's attributes say."""

    server: Server

    def do_GET(self) -> None:
        """Send the file, or a part of it."""
        server = self.server
        server.requested.append(self.headers.get("Range"))  # type: ignore[attr-defined]
        if server.redirect and self.path != server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("X-Linked-ETag", server.linked)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        offset = 0
        start, validator = self.headers.get("Range"), self.headers.get("If-Range")
        if server.ranges and start and validator in (None, server.etag):
            offset = int(start.removeprefix("bytes=").rstrip("-"))
        body = server.content[offset:]
        self.send_response(206 if offset else 200)
        if offset:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {offset}-{total - 1}/{total}")
        self.send_header("Content-Length", str(server.stated or len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.started and server.may_end:
            server.started.set()
            server.may_end.wait(10)
        if server.cut_after is not None and server.cuts > 0:
            server.cuts -= 1
            body = body[: server.cut_after]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A server, an empty cache, and the published file whose address is the server's."""
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path / "mein cache"))
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    server = Server(("127.0.0.1", 0), Handler)
    server.requested = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/weights.pth"
    file = dataclasses.replace(table.FILES[NAME], address=address, sha256=SHA[:8])
    monkeypatch.setattr(table, "FILES", {**table.FILES, NAME: file})
    place = place_of(file)
    yield SimpleNamespace(server=server, file=file, place=place, part=place.with_name(f"{place.name}.part"))
    server.shutdown()
    server.server_close()


def leftovers(place: Path) -> list[str]:
    return sorted(path.name for path in place.parent.iterdir()) if place.parent.is_dir() else []


def test_a_file_is_fetched_once_checked_and_recorded(site: SimpleNamespace) -> None:
    steps: list[tuple[int, int | None]] = []
    record = fetch(site.file, progress=lambda received, total: steps.append((received, total)))
    assert site.place.read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert record["sha256"] == SHA
    assert record["checked"] == "SHA-256"
    assert record["address"] == site.file.address
    assert leftovers(site.place) == [site.place.name, f"{site.place.name}.json"]
    assert fetch(site.file) == record
    assert len(site.server.requested) == 1
    assert fetched_path(NAME) == fetched_path("mvit_v2_s_16x4") == site.place
    assert origin_of(NAME) == origin_of(site.place) == json.loads(Path(f"{site.place}.json").read_text())


def test_a_cut_connection_is_continued_in_the_same_call_and_in_the_next_one(site: SimpleNamespace) -> None:
    site.server.cut_after, site.server.cuts = 100_000, 2
    fetch(site.file)
    assert site.place.read_bytes() == CONTENT
    assert site.server.requested == [None, "bytes=100000-", "bytes=200000-"]
    site.place.unlink()
    site.part.write_bytes(CONTENT[:7])
    Path(f"{site.part}.json").write_text(json.dumps({"version": '"1"'}))
    fetch(site.file)
    assert site.place.read_bytes() == CONTENT
    assert site.server.requested[3:] == ["bytes=7-"]


@pytest.mark.parametrize("fault", ["no ranges", "another version"])
def test_half_a_file_is_dropped_where_the_server_cannot_continue_it(site: SimpleNamespace, fault: str) -> None:
    site.place.parent.mkdir(parents=True)
    site.part.write_bytes(b"x" * 1000)
    Path(f"{site.part}.json").write_text(json.dumps({"version": '"0"' if fault == "another version" else '"1"'}))
    site.server.ranges = fault != "no ranges"
    fetch(site.file)
    assert site.place.read_bytes() == CONTENT
    assert site.server.requested == ["bytes=1000-"]


def test_half_a_file_longer_than_the_whole_starts_again(site: SimpleNamespace) -> None:
    site.place.parent.mkdir(parents=True)
    site.part.write_bytes(CONTENT + b"more")
    Path(f"{site.part}.json").write_text(json.dumps({"version": '"1"'}))
    fetch(site.file)
    assert site.place.read_bytes() == CONTENT


def test_a_length_that_never_comes_is_an_error_and_the_part_stays(site: SimpleNamespace) -> None:
    site.server.stated, site.server.ranges = len(CONTENT) + 5, False
    with pytest.raises(UserError, match=r"0\.3 MB are here, and the same command continues there") as error:
        fetch(site.file)
    assert str(site.place) in str(error.value)
    assert not site.place.exists()
    assert site.part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"y" * 100, "its SHA-256 is"), (b"<!DOCTYPE html><html>log in", "the file is a web page"), (b"", "empty")],
)
def test_another_file_than_the_published_one_is_not_kept(site: SimpleNamespace, content: bytes, message: str) -> None:
    site.server.content = content
    with pytest.raises(UserError, match=message):
        fetch(site.file)
    assert leftovers(site.place) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, fetching.TRIES)])
def test_a_refusal_names_address_page_and_place(site: SimpleNamespace, status: int, requests: int) -> None:
    site.server.status = status
    with pytest.raises(UserError) as error:
        fetch(site.file)
    text = str(error.value)
    assert all(part in text for part in (str(status), site.file.address, site.file.page, f"save it as {site.place}"))
    assert len(site.server.requested) == requests
    assert leftovers(site.place) == []


def test_without_a_network_one_line_says_what_to_fetch_by_hand(site: SimpleNamespace) -> None:
    site.server.shutdown()
    site.server.server_close()
    with pytest.raises(UserError, match=rf"refused.*fetch it by hand and save it as {site.place}"):
        fetch(site.file)
    site.place.write_bytes(CONTENT)  # by hand
    assert fetched_path(NAME) == site.place
    assert origin_of(NAME)["address"] is None  # type: ignore[index]
    Path(f"{site.place}.json").unlink()
    site.place.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="its SHA-256 is"):
        fetched_path(NAME)


def test_a_redirect_is_followed_and_the_sum_in_it_checked(site: SimpleNamespace) -> None:
    site.server.redirect, site.server.linked = "/elsewhere", f'"{SHA}"'
    file = dataclasses.replace(site.file, sha256=None)
    record = fetch(file)
    assert record["checked"] == "SHA-256"
    assert record["address"].endswith("/elsewhere")
    site.place.unlink()
    site.server.linked = f'"{"0" * 64}"'
    with pytest.raises(UserError, match="its SHA-256 is"):
        fetch(file)


def test_a_full_disk_and_a_closed_cache_are_one_line(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"0 MB are missing and 0 MB free: free some space .* or set MVREC_CACHE"):
        fetch(site.file)
    assert leftovers(site.place) == []

    def refuse(*args: Any, **knobs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(site.place.parent))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="Permission denied: set MVREC_CACHE to a folder"):
        fetch(site.file)


def test_a_process_that_begins_right_after_another_has_finished_leaves_no_empty_file(site: SimpleNamespace) -> None:
    site.place.parent.mkdir(parents=True)
    site.place.touch()  # by the other one, after this one has looked for it
    with fetching._alone(site.place):
        pass
    assert leftovers(site.place) == [site.place.name]


def test_of_two_at_once_one_fetches_and_the_other_takes_its_file(site: SimpleNamespace) -> None:
    server = site.server
    server.started, server.may_end = threading.Event(), threading.Event()
    records: list[dict[str, Any]] = []
    workers = [threading.Thread(target=lambda: records.append(fetch(site.file))) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert server.started.wait(10)
    server.may_end.set()
    for worker in workers:
        worker.join(10)
    assert [record["sha256"] for record in records] == [SHA, SHA]
    assert server.requested == [None]
    assert leftovers(site.place) == [site.place.name, f"{site.place.name}.json"]
