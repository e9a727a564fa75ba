"""A process that was asked to end does so, wherever it stands."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from warm import HANG

from mvrec.errors import UserError
from mvrec.runs import signals
from mvrec.runs.signals import STOP_EXIT, Deadline, Requests, requests

PLACES = {
    "a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a child": "import subprocess; subprocess.run(['sleep', '60'])",
    "native code": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",  # without Python's lock
    "a loop": "while True: pass",
}
SCRIPT = """
from mvrec.runs.signals import requests
requests.{start}()
print("ready", flush=True)
{place}
"""


@pytest.mark.parametrize(
    ("start", "place"), [*(("listen", place) for place in PLACES), ("leave", "a lock"), ("leave", "native code")]
)
def test_a_process_that_hangs_anywhere_ends_after_sigterm(start, place):
    """A command without anything to save leaves by an exception where it can; all others have their time."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(start=start, place=PLACES[place])],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        env={**os.environ, "MVREC_STOP_SECONDS": "0.5"},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == STOP_EXIT
    if start == "listen":
        assert stderr.startswith("mvrec: error: asked to end and still not done after 0.5 s in ")
        assert stderr.count("\n") == 1
    else:
        assert "not done" not in stderr or place == "native code"


@pytest.fixture
def deadline(monkeypatch):
    """A deadline that sets its event `ended` in place of ending this process."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr(signals, "_kill_children", lambda: None)
    ended = threading.Event()
    deadline = Deadline({signal.SIGTERM}, 0.2, end=lambda code: ended.set())
    deadline.ended = ended
    yield deadline
    deadline.cancel()
    assert signal.set_wakeup_fd(-1) == -1
    for number, handler in before.items():
        signal.signal(number, handler)


def test_only_what_asks_for_the_end_counts(deadline):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not deadline.ended.wait(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    assert deadline.ended.wait(HANG)


def test_saving_gets_its_time(deadline):
    deadline.seconds = 100
    os.kill(os.getpid(), signal.SIGTERM)
    assert not deadline.ended.wait(0.5)


def test_the_signal_of_a_child_is_not_its_parents(deadline):
    def fork():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    codes = []
    fork()
    thread = threading.Thread(target=fork)  # as readers of files are forked
    thread.start()
    thread.join()
    assert codes == [0, 0]
    assert not deadline.ended.wait(0.5)


def test_restoring_calls_the_deadline_off():
    listener = Requests()
    listener.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    listener.restore()
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline"]
    assert requests.level == 0


@pytest.mark.parametrize("text", ["soon", "0", "nan", "inf"])
def test_a_wrong_number_of_seconds_is_refused(monkeypatch, text):
    monkeypatch.setenv("MVREC_STOP_SECONDS", text)
    listener = Requests()
    with pytest.raises(UserError, match=f"MVREC_STOP_SECONDS={text}: must be a number of seconds above 0"):
        listener.listen()
    listener.restore()
