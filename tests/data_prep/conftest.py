"""A way to hang for which no test has to wait."""

import ctypes
import os

import pytest

from mvrec.processes import Child


@pytest.fixture
def hang(tmp_path, monkeypatch):
    """Hang in native code that holds Python's lock; the process is late at once, and no other ever is."""
    folder = tmp_path / "hung"
    folder.mkdir()
    monkeypatch.setattr(Child, "is_late", property(lambda child: (folder / str(child.pid)).exists()))

    def hang():
        (folder / str(os.getpid())).touch()
        ctypes.PyDLL(None).sleep(1000)

    return hang
