"""Memory of a run in large pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvrec.machine import large_pages
from mvrec.machine.large_pages import SETTING, use_large_pages

STEPS = """
import sys
from mvrec.cli import main as cli

def models(*_):
    import resource, torch
    torch.set_num_threads(1)
    faults = []
    for step in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2**22) for _ in range(4)]  # 16 MiB each
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del blocks
    print(*faults)

cli.COMMANDS["models"] = models
cli.main(["models"])
"""
LARGE = SETTING.exists() and "[never]" not in SETTING.read_text()


def faults(**environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(large_pages.VARIABLES)}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return [int(count) for count in done.stdout.split()]


@pytest.mark.skipif(not LARGE, reason="this kernel gives no large pages")
def test_a_step_takes_no_new_memory_after_the_first():
    first, *rest = faults()
    assert first < 1000, "64 MiB are 16,384 small pages"
    assert max(rest) < 100
    assert min(faults(MALLOC_ARENA_MAX="2")) > 10_000  # as the user says


@pytest.mark.parametrize(
    ("environment", "setting", "overcommit", "text"),
    [
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "[always]", "0", "as GLIBC_TUNABLES in the environment says"),
        ({"MALLOC_ARENA_MAX": "1"}, "[always]", "0", "as MALLOC_ARENA_MAX in the environment says"),
        ({"MALLOC_ARENA_MAX": ""}, "always [never]", "0", "says never"),
        ({}, "[madvise]", "2", "says 2"),
        ({}, None, "0", "this kernel has no large ones"),
    ],
)
def test_memory_stays_small_where_the_user_or_the_system_says_so(
    tmp_path: Path, monkeypatch, environment, setting, overcommit, text
):
    monkeypatch.setattr(large_pages, "_done", [])
    monkeypatch.setattr(large_pages, "_reserve", lambda: pytest.fail("reserved"))
    for name, content in (("SETTING", setting), ("OVERCOMMIT", overcommit)):
        monkeypatch.setattr(large_pages, name, tmp_path / name)
        if content is not None:
            (tmp_path / name).write_text(content)
    assert text in use_large_pages(environment)


@pytest.mark.parametrize(("limit", "gigabytes"), [("AS", 1), ("AS", 64), ("DATA", 1), ("DATA", 64)])
def test_where_addresses_are_limited_none_are_reserved(limit, gigabytes):
    """They would be missing for libraries and threads."""
    code = "from mvrec.machine.large_pages import use_large_pages; print(use_large_pages({})); print(len(bytes(2**24)))"
    most = gigabytes * 2**30
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_{limit}, ({most}, {most})); {code}"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["small pages: addresses are limited (ulimit -v, ulimit -d)", str(2**24)]


@pytest.mark.skipif(not LARGE, reason="this kernel gives no large pages")
def test_a_child_gets_no_more_memory_than_its_limit():
    code = """
from mvrec.machine.large_pages import use_large_pages
from mvrec.processes import ChildError, Limits, apart

assert use_large_pages({}).startswith("large pages")
for size in (2**26, 2**30):
    try:
        print(len(apart(bytes, size, limits=Limits(60.0, 0.5))))
    except ChildError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed, refused = done.stdout.splitlines()
    assert allowed == str(2**26)
    assert "MemoryError" in refused
