"""`mvrec serve` as a process: its page in a real browser with a file and a camera, and its memory."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from browser import Browser, find_browser

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DONE = "document.body.dataset.done"
ROWS = "[...document.querySelectorAll('#answer span')].map(cell => cell.textContent)"

NAMES = "[...document.querySelectorAll('#segments td:nth-child(3)')].map(cell => cell.textContent)"


@pytest.fixture(scope="module")
def server(small_run):
    """The process and its address."""
    arguments = [sys.executable, "-m", "mvrec", "serve", str(small_run), "--port", "0"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stderr if "open http" in line)
            yield process, line.split()[2]
        finally:
            process.terminate()


def wait_for(browser, script, expected=True, *, seconds=60):
    end = time.monotonic() + seconds
    while (value := browser.evaluate(script)) != expected:
        state = browser.evaluate("document.getElementById('state').textContent")
        assert time.monotonic() < end, (script, value, state, browser.complaints)
        time.sleep(0.1)


def drop(browser, path):
    """Drag a file from outside to the page and let go."""
    dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=400, y=150, data=dragged)


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="no Chromium: apt install chromium-headless-shell")
def test_the_page_answers_a_file_and_a_camera(server, command, small_run, small_data, tmp_path):
    video = min((small_data / "test/grow").iterdir())
    code, out, err = command("recognize", video, "--ckpt", small_run, "--format=jsonl")
    assert code == 0, err
    expected = [(row["class"], row["probability"]) for row in json.loads(out)["classes"]]
    _, address = server
    with Browser(tmp_path / "profile", *CAMERA) as browser:
        browser.open(address)
        wait_for(browser, "document.body.dataset.ready", "1")
        chooser = browser.call("Runtime.evaluate", expression="document.getElementById('file')")["result"]["objectId"]
        browser.call("DOM.setFileInputFiles", files=[str(video)], objectId=chooser)
        wait_for(browser, DONE, "1")
        cells = browser.evaluate(ROWS)
        assert cells[::2] == [name for name, _ in expected]
        assert cells[1::2] == [f"{100 * probability:.1f} %" for _, probability in expected]
        browser.evaluate("document.getElementById('show').click()")
        wait_for(browser, "document.getElementById('heat').naturalWidth > 0")
        (tmp_path / "file.png").write_bytes(browser.screenshot())
        drop(browser, video)
        wait_for(browser, DONE, "2")
        assert browser.evaluate(ROWS) == cells
        browser.evaluate("document.getElementById('long').click()")
        for number, spans in enumerate(({}, {"window": 0.4, "stride": 0.1}), 3):
            knobs = {"on": 15, "off": 10, **spans}
            values = "".join(f"document.getElementById('{key}').value = {value};" for key, value in knobs.items())
            browser.evaluate(f"{values} document.getElementById('again').click()")
            wait_for(browser, DONE, str(number))
            flags = ("--timeline", "--on=0.15", "--off=0.1", *(f"--{key}={value}" for key, value in spans.items()))
            _, out, _ = command("recognize", video, "--ckpt", small_run, "--format=jsonl", *flags)
            lines = [json.loads(line) for line in out.splitlines()]
            segments = json.loads(browser.evaluate("document.getElementById('json').textContent"))["segments"]
            for keys in (("label",), ("start_seconds", "end_seconds")):
                assert [[part[key] for key in keys] for part in segments] == [
                    [line[key] for key in keys] for line in lines
                ]
            assert browser.evaluate(NAMES) == [line["label"] for line in lines]
            assert browser.evaluate("document.querySelectorAll('#bar rect').length") == len(lines) > 0
        assert browser.evaluate("document.getElementById('spans').textContent").startswith("windows of 0.4 s, 0.1 s")
        browser.evaluate("document.querySelector('#bar rect').onclick()")
        (tmp_path / "timeline.png").write_bytes(browser.screenshot())
        browser.evaluate("document.getElementById('camera').click()")
        wait_for(browser, "!document.getElementById('live').hidden")
        browser.evaluate("document.getElementById('seconds').value = 1; document.getElementById('take').click()")
        wait_for(browser, DONE, "5")
        assert browser.evaluate("document.getElementById('name').textContent").startswith("camera.")
        assert len(browser.evaluate(ROWS)) == 2 * len(expected)
        (tmp_path / "camera.png").write_bytes(browser.screenshot())
        assert not browser.complaints
        assert all(request.startswith((address, f"blob:{address}")) for request in browser.requests)


@pytest.mark.slow
def test_memory_stays_flat_over_200_requests(server, small_data):
    process, address = server
    content = min((small_data / "test/grow").iterdir()).read_bytes()
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    form = urllib.request.Request(
        f"{address}api/recognize",
        data=head + content + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )

    def megabytes_after(requests: int) -> float:
        for _ in range(requests):
            with urllib.request.urlopen(form) as answer:
                assert len(json.load(answer)["results"]) == 1
        status = Path(f"/proc/{process.pid}/status").read_text().split()
        return int(status[status.index("VmRSS:") + 1]) / 1024

    begin = megabytes_after(50)
    assert megabytes_after(200) < begin + 10
