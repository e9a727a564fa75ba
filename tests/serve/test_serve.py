"""The server of `mvrec serve`: the answers of `recognize`, what it refuses, and that nothing stays behind."""

import contextlib
import importlib.util
import json
import socket
import tempfile
import threading
import time
import urllib.request

import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser
from mvrec.serve import answers, app
from mvrec.serve.app import Bounds, make_app
from mvrec.serve.command import _bound as bound


@pytest.fixture(scope="module")
def recogniser(small_run):
    return load_recogniser(small_run)


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def client_of(recogniser, **bounds):
    server = make_app(recogniser, bounds=Bounds(**bounds))
    return TestClient(server, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture
def client(recogniser, uploads):
    with client_of(recogniser) as client:
        yield client


@pytest.fixture
def video(small_data):
    return min((small_data / "test/grow").iterdir())


def test_answers_are_those_of_recognize_and_uploads_are_deleted(client, command, small_run, video, uploads):
    for fields in ({}, {"window": "0.5", "stride": "0.25", "top": "2"}):
        answer = client.post("/api/recognize", data=fields, files={"file": ("ein ü.mp4", video.read_bytes())})
        assert answer.status_code == 200, answer.text
        flags = [f"--{name}={value}" for name, value in fields.items()]
        code, out, err = command("recognize", video, "--ckpt", small_run, "--format=jsonl", *flags)
        assert code == 0, err
        expected = [{**json.loads(line), "path": "ein ü.mp4"} for line in out.splitlines()]
        assert len(expected) > bool(fields)
        for actual, entry in zip(answer.json()["results"], expected, strict=True):
            probabilities = [[row.pop("probability") for row in line["classes"]] for line in (actual, entry)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
            assert actual == entry
    assert not list(uploads.iterdir())


def test_segments_are_those_of_recognize(client, command, small_run, video):
    fields = {"on": "0.15", "off": "0.1", "least": "0.2", "background": "move_left"}
    for more in ({}, {"window": "0.4", "stride": "0.1"}):
        answer = client.post(
            "/api/recognize", data={"timeline": "1", **fields, **more}, files={"file": ("a.mp4", video.read_bytes())}
        )
        assert answer.status_code == 200, answer.text
        flags = [f"--{name}={value}" for name, value in {**fields, **more}.items()]
        code, out, err = command("recognize", video, "--ckpt", small_run, "--format=jsonl", "--timeline", *flags)
        assert code == 0, err
        expected = [{**json.loads(line), "path": "a.mp4"} for line in out.splitlines()]
        actual = answer.json()["segments"]
        for entry, other in zip(actual, expected, strict=True):
            assert entry.pop("confidence") == pytest.approx(other.pop("confidence"), abs=1e-5)
        assert actual == expected != []
        assert len(answer.json()["results"]) > 1


def test_heat_is_a_picture_of_the_class_asked_for(client, video):
    files = {"file": ("a.mp4", video.read_bytes())}
    answers = [client.post("/api/explain", data={"class": name}, files=files) for name in ("grow", "move_left", "grov")]
    assert all(answer.content.startswith(b"\x89PNG") for answer in answers[:2])
    assert answers[0].content != answers[1].content
    assert answers[2].status_code == 422
    assert "did you mean 'grow'" in answers[2].json()["error"]


@pytest.mark.parametrize(
    ("name", "content", "fields", "status", "cause"),
    [
        ("a.mp4", b"no video at all" * 100, {}, 422, "a.mp4: "),
        ("a.mp4", b"", {}, 422, "a.mp4: the file is empty"),
        ("a.exe", b"x", {}, 415, "a.exe: neither a video nor an image"),
        ("../../etc/passwd", b"x", {}, 415, "passwd: neither"),
        ("a.mp4", b"x", {"top": "many"}, 400, "top must be a number, got 'many'"),
        ("a.mp4", b"x", {"window": "-1"}, 400, "window must be above 0"),
        ("a.mp4", b"x", {"windw": "1"}, 400, "unknown field 'windw'"),
        ("a.mp4", b"x", {"stride": "1"}, 422, "send window as well"),
        ("a.mp4", b"x", {"on": "0.4"}, 400, "on is for timelines: send timeline=1"),
        ("a.mp4", b"x", {"timeline": "1", "off": "nan"}, 400, "0 < off <= on <= 1"),
        ("a.mp4", b"x", {"timeline": "1", "background": "grov"}, 422, "'grov' is no class; did you mean 'grow'"),
        ("a.mp4", b"no video at all" * 100, {"timeline": "1"}, 422, "a.mp4: "),
    ],
)
def test_bad_requests_get_one_line_with_the_cause(client, uploads, name, content, fields, status, cause):
    answer = client.post("/api/recognize", data=fields, files={"file": (name, content)})
    assert answer.status_code == status
    assert cause in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert str(uploads) not in answer.text
    assert not list(uploads.iterdir())


def test_nothing_of_a_senders_name_but_its_ending_names_a_file(client, uploads, monkeypatch):
    paths = []
    monkeypatch.setattr(app, "recognised", lambda recogniser, question: paths.append(question.path) or {})
    for name in ("../../../a/b.mp4", "..\\..\\b.MP4", "/etc/b.mp4"):
        assert client.post("/api/recognize", files={"file": (name, b"x")}).status_code == 200
    assert [path.name for path in paths] == ["upload.mp4"] * 3
    assert all(path.parent.parent == uploads for path in paths)


def test_oversized_uploads_break_off_also_without_a_length(recogniser, uploads):
    sent = []

    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(200):
            sent.append(1)
            yield b"0" * 1000

    with client_of(recogniser, upload_bytes=50_000) as client:
        as_form = {"Content-Type": "multipart/form-data; boundary=x"}
        refused = [
            client.post("/api/recognize", files={"file": ("a.mp4", b"0" * 60_000)}),
            client.post("/api/recognize", content=endless(), headers=as_form),
        ]
    for answer in refused:
        assert answer.status_code == 413
        assert "larger than 0.05 MB" in answer.json()["error"]
    assert not list(uploads.iterdir())


def test_other_hosts_and_pages_are_refused(client):
    for headers in (
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert client.get("/api/about", headers=headers).status_code == 403, headers
    for headers in ({"Host": "localhost:8000"}, {"Host": "[::1]:8000"}, {"Origin": "http://127.0.0.1:8000"}):
        assert client.get("/api/about", headers=headers).json()["classes"] == ["grow", "move_left", "orbit_clockwise"]


def test_requests_wait_in_turn_and_more_than_may_wait_are_refused(recogniser, uploads, monkeypatch):
    begun, free = threading.Event(), threading.Event()

    def slow(recogniser, question):
        begun.set()
        assert free.wait(60)
        return []

    monkeypatch.setattr(app, "recognised", slow)
    statuses = []
    with client_of(recogniser, waiting=1) as client:

        def ask():
            statuses.append(client.post("/api/recognize", files={"file": ("a.mp4", b"x")}).status_code)

        first, *others = [threading.Thread(target=ask) for _ in range(3)]
        first.start()
        assert begun.wait(60)
        for other in others:
            other.start()
        while not statuses:  # one of the two finds no place
            others[0].join(0.01)
        free.set()
        for thread in (first, *others):
            thread.join(60)
    assert statuses == [503, 200, 200]


def test_an_answer_that_takes_too_long_is_given_up(recogniser, uploads, video, monkeypatch):
    check, given_up = answers._check_time, threading.Event()

    def slow(question):
        threading.Event().wait(0.5)
        try:
            check(question)
        except answers.LateError:
            given_up.set()
            raise

    monkeypatch.setattr(answers, "_check_time", slow)
    with client_of(recogniser, seconds=0.4) as client:
        answer = client.post("/api/recognize", data={"window": "0.1"}, files={"file": ("a.mp4", video.read_bytes())})
        assert given_up.wait(30)  # the thread is free for the next one
    assert answer.status_code == 504
    assert "no answer within 0.4 s" in answer.json()["error"]
    assert not list(uploads.iterdir())


@contextlib.contextmanager
def listening(application, host="127.0.0.1"):
    """A real server in a thread; yields its port."""
    with bound(host, 0) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


def test_slow_uploads_end(recogniser, uploads):
    head = b"POST /api/recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    answer, end = b"", time.monotonic() + 20
    with (
        listening(make_app(recogniser, bounds=Bounds(upload_seconds=0.5))) as port,
        socket.create_connection(("127.0.0.1", port), timeout=0.05) as connection,
    ):
        connection.sendall(head)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                part = connection.recv(4096)
                answer += part
                if not part:
                    break
            with contextlib.suppress(OSError):
                connection.sendall(b"0")
    assert b" 408 " in answer
    assert b"the upload took longer than 0.5 s (--upload-time-limit)" in answer
    assert time.monotonic() < end
    assert not list(uploads.iterdir())


def test_loopback_of_ipv6_answers(recogniser):
    try:
        with (
            listening(make_app(recogniser, bounds=Bounds(), host="::1"), "::1") as port,
            urllib.request.urlopen(f"http://[::1]:{port}/api/about") as answer,
        ):
            assert json.load(answer)["has_timeline"]
    except UserError as error:
        pytest.skip(str(error))


def test_an_answer_that_never_ends_does_not_keep_the_next_ones_waiting(recogniser, uploads, monkeypatch, caplog):
    free, names = threading.Event(), []

    def job(recogniser, question):
        names.append(question.name)
        assert not question.name.startswith("stuck") or free.wait(60)
        return {}

    def status(client, name):
        return client.post("/api/recognize", files={"file": (name, b"x")}).status_code

    monkeypatch.setattr(app, "recognised", job)
    with client_of(recogniser, seconds=0.3, patience=0.0) as client:
        for _ in range(2):
            assert status(client, "stuck.mp4") == 504
            assert status(client, "good.mp4") == 200
        assert status(client, "stuck.mp4") == 504
        refused = client.post("/api/recognize", files={"file": ("good.mp4", b"x")})
        assert (refused.status_code, refused.json()["error"]) == (503, "earlier answers do not end: restart the server")
        free.set()
        while (again := status(client, "good.mp4")) == 503:
            time.sleep(0.01)
        assert again == 200
    assert names.count("good.mp4") == 3
    assert "an answer does not end" in caplog.text


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_addresses_that_cannot_be_had_are_named(command, small_run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, _, err = command("serve", small_run, "--port", port)
    assert code != 0
    fault = f"cannot listen on --host 127.0.0.1 --port {port}: Address already in use; --port 0 takes a free one"
    assert err.splitlines()[-1].endswith(fault)
    with pytest.raises(UserError, match=r"--host a\.\.b --port 0: there is no such host name; --host 127.0.0.1 is"):
        bound("a..b", 0)


def test_a_picture_for_a_network_of_videos_is_answered_with_a_note(client, command, small_run, tmp_path):
    picture = tmp_path / "a.mp4"  # by its name alone
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    answer = client.post("/api/recognize", files={"file": ("a.mp4", picture.read_bytes())}).json()
    assert len(answer["results"]) == 1
    (note,) = answer["notes"]
    assert note.startswith("a.mp4: it is a single picture")
    for verb, *flags in (("recognize", "--timeline"), ("explain", "-o", tmp_path / "heat.png")):
        code, _, err = command(verb, picture, "--ckpt", small_run, *flags)
        assert code == 0, err
        assert err.count(f"{picture}: it is a single picture") == 1


def test_a_missing_extra_is_named_before_anything_is_loaded(command, tmp_path, monkeypatch):
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else spec(name))
    code, _, err = command("serve", tmp_path / "nothing")
    assert code != 0
    assert "this needs uvicorn: " in err
    assert "[serve]'" in err
