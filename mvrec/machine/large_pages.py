"""Memory in pages of 2 MiB for everything a process allocates, and memory kept for the next step.

By default every large tensor is memory fresh from the kernel: each 4 KiB page of it costs a fault when it is first
written, and an entry of the processor's table of addresses whenever it is read. A training step spends up to a tenth of
its time on that (benchmarks/large_pages.py). Importing this module costs nothing.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_", "LD_PRELOAD")  # each may choose how memory is allocated
# Parameters of mallopt, from glibc's malloc.h, and of madvise, from Linux's mman.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _HUGE_PAGES = -1, -3, -4, 14
_NEVER, _LARGEST, _MMAP_MAX_DEFAULT = -1, 2**31 - 1, 65536
_PAGE = 4096
_done: list[str] = []  # what this process has done, once


def use_large_pages(environ: Mapping[str, str] = os.environ) -> str:
    """Let this process allocate from large pages and keep what it frees; return what was done, or why nothing was.

    Half of the machine's memory is reserved as addresses only: a page is taken when it is first written. Memory beyond
    it is allocated as usual. A process allocates as its user says where the environment says something about it.

    Args:
        environ: The environment.
    """
    if not _done:
        _done.append(_reason_against(environ) or _reserve())
    return _done[0]


def give_back_addresses() -> None:
    """Give back what is unused of the reserved addresses: they count as this process's memory under a limit of it."""
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reason_against(environ: Mapping[str, str]) -> str | None:
    of_user = next((name for name in environ if name.startswith(VARIABLES) and environ[name]), None)
    if of_user is not None:
        return f"as {of_user} in the environment says"
    if not sys.platform.startswith("linux"):
        return "small pages: only Linux has large ones on request"
    if _has_limits():  # libraries and threads need addresses, too
        return "small pages: addresses are limited (ulimit -v, ulimit -d)"
    return _refused_by_kernel()


def _has_limits() -> bool:
    import resource  # which Windows lacks

    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return any(soft != resource.RLIM_INFINITY for soft in limits)


def _refused_by_kernel() -> str | None:
    try:
        setting, overcommit = SETTING.read_text(), OVERCOMMIT.read_text().strip()
    except OSError:
        return "small pages: this kernel has no large ones"
    if "[never]" in setting:
        return f"small pages: {SETTING} says never"
    if overcommit == "2":  # reserved addresses would count as memory in use
        return f"small pages: {OVERCOMMIT} says 2"
    return None


def _reserve() -> str:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, libc.madvise
    except (OSError, AttributeError):  # a C library other than glibc
        return "small pages: this C library has no mallopt"
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes, madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    # Without mmap, malloc extends the heap; freed, the block stays at its end and is what later blocks are cut from.
    mallopt(_MMAP_MAX, 0)
    block = malloc(size)
    if block:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        free(block)
    mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
    start = (block or 0) & -_PAGE
    if not block or madvise(start, size, _HUGE_PAGES) != 0:
        return "small pages: the system refused the reservation"
    return f"large pages, {size / 2**30:.0f} GiB of addresses reserved, set by mvrec"
